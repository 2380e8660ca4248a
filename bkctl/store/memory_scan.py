"""Has RocksDB read records of an encrypted view that bkctl's own readers do not take.

    bkctl-memory-…/       in memory, gone when the scan is through with it
      000014.sst          files that reach into a part of the scan's range, decrypted
      MANIFEST-000005 CURRENT   the view's, without all other files

That is rare: TiKV makes range deletions only if it is told to (`raftstore.use-delete-range`). A
part is as much of the range as files of some 64 MiB reach into, or what one key needs.
"""

from __future__ import annotations

import weakref
from pathlib import Path

from bkctl.folders import PrivateFolder, making_files
from bkctl.store.database import Database
from bkctl.store.manifest import LiveFile
from bkctl.store.manifest_edit import without_files
from bkctl.store.memory import memory_folder
from bkctl.store.scan import RecordScan
from bkctl.store.tables import Tables
from bkctl.store.view_files import reader_blocks

_PART_BYTES = 64 << 20
_SPARE = 4 << 20
_CHUNK = 1 << 20


class MemoryScan:
    """The records of `[lower, upper)` of a family; see RecordScan."""

    def __init__(
        self, tables: Tables, source: Path, family: str, lower: bytes, upper: bytes
    ) -> None:
        """Nothing but the MANIFEST of the view, whose files `tables` are, is read before `take`.

        `take` raises CorruptionError where RocksDB finds damage, StorageError where there is no
        memory for the files.
        """
        self._tables, self._source = tables, source
        self._family, self._next, self._upper = family, lower, upper
        mine = (file for file in tables.state().live_files if file.family == family)
        self._files = sorted(mine, key=lambda file: file.smallest_key)
        self._folder: PrivateFolder | None = None
        self._database: Database | None = None
        self._scan: RecordScan | None = None

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """See RecordScan."""
        return self.take_bounded(count, 1 << 62)

    def take_bounded(self, count: int, plain_bytes: int) -> list[tuple[bytes, bytes]]:
        """See RecordScan."""
        while True:
            if self._scan is None and not self._open_part():
                return []
            assert self._scan is not None
            try:
                records = self._scan.take_bounded(count, plain_bytes)
            except BaseException:
                self.close()
                raise
            if records:
                return records
            self.close()

    def seek(self, key: bytes) -> None:
        """See RecordScan."""
        if self._scan is not None and key < self._next:
            self._scan.seek(key)
        else:
            self.close()
            self._next = max(self._next, key)

    def close(self) -> None:
        """Let the part go that is open; a later `take` goes on behind it."""
        self._scan = None
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _open_part(self) -> bool:
        """Open the next part; False where the range is at its end."""
        if self._next >= self._upper:
            return False
        start, self._next, files = self._next, *self._part(self._next)
        try:
            needed = sum(file.size for file in files) + _SPARE
            # Beside the view, if that is in memory.
            self._folder = memory_folder(self._tables.db_dir.parents[1], needed)
            # A scan may be dropped before its end.
            weakref.finalize(self, self._folder.close)
            with making_files(self._folder.path):
                self._fill(self._folder.path, files)
            self._database = Database(self._folder.path, self._source)
            self._scan = self._database.scan(self._family, start, self._next)
        except BaseException:
            self.close()
            raise
        return True

    def _part(self, start: bytes) -> tuple[bytes, list[LiveFile]]:
        """Where the part that begins at `start` ends, and the files that reach into it."""
        left = [
            file
            for file in self._files
            if file.largest_key >= start and file.smallest_key < self._upper
        ]
        size = count = 0
        end = self._upper
        for behind in sorted({file.largest_key + b"\0" for file in left} | {self._upper}):
            while count < len(left) and left[count].smallest_key < behind:
                size += left[count].size
                count += 1
            if size > _PART_BYTES and end != self._upper:
                break
            end = min(behind, self._upper)
            if end == self._upper:
                break
        return end, [file for file in left if file.smallest_key < end]

    def _fill(self, folder: Path, files: list[LiveFile]) -> None:
        view, db_dir = self._tables.view(), self._tables.db_dir
        for file in files:
            with view.open(file.name) as reader, (folder / file.name).open("xb") as out:
                for offset in range(0, file.size, _CHUNK):
                    out.write(reader.read_at(offset, min(_CHUNK, file.size - offset)))
        shown = {file.number for file in files}
        hidden = [file for file in self._tables.state().live_files if file.number not in shown]
        name = (db_dir / "CURRENT").read_text().strip()
        with view.open(name) as before, (folder / name).open("xb") as out:
            out.writelines(without_files(reader_blocks(before), db_dir / name, hidden))
        (folder / "CURRENT").write_text(f"{name}\n")
