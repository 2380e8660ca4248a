"""A storage that throws everything away, to measure a backup without its destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bkctl.storage.base import (
    ObjectInfo,
    RandomReader,
    Storage,
    changed,
    check_name,
    failure,
    folder_parts,
    not_found,
)


class NoopStorage(Storage):
    """Takes any object and holds none."""

    @property
    def url(self) -> str:
        """Always `noop://`."""
        return "noop://"

    @property
    def discards(self) -> bool:
        """Always true."""
        return True

    def stat(self, name: str) -> ObjectInfo | None:
        """Find nothing."""
        check_name(name)
        return None

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """List nothing."""
        folder_parts(prefix)
        return iter(())

    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """List nothing."""
        folder_parts(prefix)
        return ()

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Raise NotFoundError: nothing is stored here."""
        check_name(name)
        raise not_found(self.url, name)

    def open(self, name: str) -> RandomReader:
        """Raise NotFoundError: nothing is stored here."""
        check_name(name)
        raise not_found(self.url, name)

    def write(self, name: str, data: bytes) -> None:
        """Discard `data`."""
        check_name(name)

    def create(self, name: str, data: bytes) -> None:
        """Discard `data`; nothing is ever in the way."""
        check_name(name)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """Raise ChangedError: nothing is stored here."""
        check_name(name)
        raise changed(self.url, name)

    def save_file(self, name: str, path: Path) -> None:
        """Delete the file at `path`."""
        check_name(name)
        try:
            path.unlink()
        except OSError as e:
            what = f"{path} cannot be deleted ({e.strerror})"
            raise failure(self.url, name, what, "check the temporary directory") from e

    def delete(self, name: str) -> None:
        """Do nothing."""
        check_name(name)
