"""The kv store as the raft log is applied to it: what may be read and written.

Keys are data keys, families those of TiKV. Writes count, and can be read, once `flush` or a later
read has taken them in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class KvStore(Protocol):
    """What a raft log is applied to. Raises CorruptionError, StorageError."""

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Put a record."""

    def delete(self, family: str, key: bytes) -> None:
        """Delete a record."""

    def delete_range(self, family: str, start_key: bytes, end_key: bytes) -> None:
        """Delete all records of `[start_key, end_key)`."""

    def ingest(self, family: str, path: Path, name: str) -> None:
        """Take in the SST file at `path`, whose `name` is for messages, over all that is there."""

    def records(
        self, family: str, start_key: bytes, end_key: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """The records of `[start_key, end_key)`, in key order."""

    def has_family(self, family: str) -> bool:
        """Whether the store has a family."""

    def finish(self) -> None:
        """Make all that was written last, and close."""
