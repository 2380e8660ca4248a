"""Asking a storage for things that its service refuses: what the error must be like."""

from __future__ import annotations

import pytest

from bkctl.errors import StorageError
from bkctl.storage.base import Storage, TransientError
from bkctl.storage.retry import RetryStorage
from bkctl.storage.url import open_storage, parse_storage
from tests.storage.servers import Clock

SECRET = "HIDDEN"


def retrying(url: str) -> tuple[Storage, Clock]:
    """The storage as commands open it, and the clock that its waits between tries pass on."""
    storage = open_storage(parse_storage(url))
    assert isinstance(storage, RetryStorage)
    clock = Clock()
    storage.clock, storage.sleep = clock, clock.sleep
    return storage, clock


def refused(storage: Storage, match: str) -> None:
    """Every call fails for good, with one line that names the storage and no secret."""
    for attempt in (
        lambda: list(storage.list()),
        lambda: storage.list_folders(),
        lambda: storage.write("report", b"1"),
    ):
        with pytest.raises(StorageError, match=match) as e:
            attempt()
        assert str(e.value).startswith(storage.url)
        assert str(e.value).isprintable()
        assert SECRET not in str(e.value)
        assert not isinstance(e.value, TransientError)
