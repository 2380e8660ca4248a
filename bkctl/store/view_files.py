"""Opens the files of a view's folder, be they plain or encrypted at rest.

    view/db/
      000014.sst        link to a file of the store, as it is
      000031.sst        a file of the view's own, encrypted with a key of the view's own
      MANIFEST-000005   a copy, encrypted as in the store, or with the view's own key
      KEYS              link to memory (memfd): what each of the files above is encrypted with
      ADDED             the IVs of files that another process added, until they are in KEYS

Only the folder of an encrypted store has KEYS (`atrest.view_keys`). It is in the memory of the
process that made the view, is read by its workers through /proc, and is gone with that process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.codec.log import blocks_of
from bkctl.sst.source import FileReader

if TYPE_CHECKING:
    from bkctl.store.atrest.decrypted import FileKey

KEYS = "KEYS"
OWN = "OWN"
"""The name in KEYS under which is the key that new files of the view are encrypted with."""
_ADDED = "ADDED"
_CHUNK = 1 << 20


def reader_blocks(reader: FileReader) -> Iterator[bytes]:
    """What an open log holds as blocks, few of which are in memory at a time."""
    for start in range(0, reader.size, _CHUNK):
        yield from blocks_of(reader.read_at(start, _CHUNK))


def is_sealed(db_dir: Path) -> bool:
    """Whether a view is of an encrypted store, and so not to be opened with RocksDB."""
    return (db_dir / KEYS).is_symlink()


def note_added(db_dir: Path, ivs: Mapping[str, bytes]) -> None:
    """Tell the process that made a view of files that were added to it, with its own key."""
    lines = (f"{name} {iv.hex()}\n" for name, iv in ivs.items())
    (db_dir / _ADDED).write_text("".join(lines))


def take_added(db_dir: Path) -> dict[str, bytes]:
    """What `note_added` told: IVs by name; once."""
    path = db_dir / _ADDED
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    path.unlink()
    return {name: bytes.fromhex(iv) for name, iv in (line.split(" ") for line in lines)}


class ViewFiles:
    """The files of one view's folder; `keys` are those of encrypted ones."""

    def __init__(self, db_dir: Path) -> None:
        """Raises OSError where the view is gone."""
        self._db_dir = db_dir
        self.keys: dict[str, FileKey] = {}
        if is_sealed(db_dir):
            from bkctl.store.atrest.view_keys import decode_keys

            self.keys = decode_keys((db_dir / KEYS).read_bytes())

    def open(self, name: str) -> FileReader:
        """Open a file to read its plain bytes; StorageError if that fails."""
        key = self.keys.get(name)
        if key is None:
            return FileReader(self._db_dir / name)
        from bkctl.store.atrest.decrypted import DecryptedFile

        return DecryptedFile(self._db_dir / name, key)
