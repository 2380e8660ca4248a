"""A view of an encrypted store, to which the raft log is applied with nothing plain on a disk.

RocksDB cannot open such a view. So writes are gathered in memory, and every so often are made a
piece of a write-ahead log, which RocksDB replays in memory into a file that is encrypted into the
view (`bkctl.store.sealed_writer`). Reads see the view, and what is gathered over it.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

from bkctl.codec.varint import encode_uvarint
from bkctl.errors import CorruptionError
from bkctl.sst.reader import SstReader
from bkctl.sst.soundness import check_sound
from bkctl.sst.source import FileReader
from bkctl.store.flush import flush_here
from bkctl.store.log_pieces import LogPiece
from bkctl.store.sealed_database import SealedDatabase
from bkctl.store.sealed_writer import SealedWriter
from bkctl.store.tables import Tables
from bkctl.store.view_files import OWN, ViewFiles, note_added

_PIECE = 8 << 20
_RECORD_BYTES = 100
_TAKEN = 1024
_PUT, _DELETE = b"\x05", b"\x04"
_SEQUENCE_SIZE, _COUNT_SIZE = 8, 4


class SealedKv:
    """See `bkctl.raft.kv.KvStore`; `finish` tells the view's own process what was added."""

    def __init__(self, db_dir: Path, source: Path, open_file: Callable[[Path], FileReader]) -> None:
        """Open the view; `source` is the store's own folder, for messages.

        `open_file` opens any file of the store. Raises CorruptionError where the view is damaged.
        """
        self._db_dir, self._source, self._open_file = db_dir, source, open_file
        self._files = ViewFiles(db_dir)
        state = Tables(db_dir, self._files).state()
        self._ids = {family.name: family.id for family in state.family_logs}
        keys = self._files.keys
        self._before = set(keys.items())
        self._writer = SealedWriter(db_dir, keys, keys[OWN].cipher, state, source)
        self._pending: dict[str, dict[bytes, bytes | None]] = {name: {} for name in self._ids}
        self._sorted: dict[str, list[bytes]] = {}
        self._size = 0
        self._database = self._open()

    def has_family(self, family: str) -> bool:
        """See KvStore."""
        return family in self._ids

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """See KvStore."""
        self._write(family, key, value)

    def delete(self, family: str, key: bytes) -> None:
        """See KvStore."""
        self._write(family, key, None)

    def delete_range(self, family: str, start_key: bytes, end_key: bytes) -> None:
        """See KvStore."""
        for key, _ in self.records(family, start_key, end_key):
            self.delete(family, key)

    def ingest(self, family: str, path: Path, name: str) -> None:
        """See KvStore. The file's records are put one by one."""
        with self._open_file(path) as reader:
            check_sound(reader, f"import/{name}")
            for key, value in SstReader(reader, f"import/{name}").entries():
                self._write(family, key, value)

    def records(
        self, family: str, start_key: bytes, end_key: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """See KvStore. They are those of the moment in which the first is asked for."""
        pending = self._pending_of(family)
        if end_key == start_key + b"\0":
            found = self._get(family, start_key)
            if found is not None:
                yield start_key, found
            return
        if family not in self._sorted:
            self._sorted[family] = sorted(pending)
        ordered = self._sorted[family]
        first, stop = bisect_left(ordered, start_key), bisect_left(ordered, end_key)
        over = [(key, pending[key]) for key in ordered[first:stop]]
        yield from _overlaid(self._below(family, start_key, end_key), over)

    def finish(self) -> None:
        """See KvStore."""
        self._write_piece()
        self._database.close()
        added = {
            name: key for name, key in self._files.keys.items() if (name, key) not in self._before
        }
        note_added(self._db_dir, {name: key.iv for name, key in added.items()})

    def _get(self, family: str, key: bytes) -> bytes | None:
        pending = self._pending_of(family)
        return pending[key] if key in pending else self._database.get(family, key)

    def _below(
        self, family: str, start_key: bytes, end_key: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        scan = self._database.scan(family, start_key, end_key)
        while records := scan.take(_TAKEN):
            yield from records

    def _pending_of(self, family: str) -> dict[bytes, bytes | None]:
        try:
            return self._pending[family]
        except KeyError:
            raise CorruptionError(f"{self._source}: it has no column family {family!a}") from None

    def _write(self, family: str, key: bytes, value: bytes | None) -> None:
        pending = self._pending_of(family)
        if key not in pending:
            self._sorted.pop(family, None)
        pending[key] = value
        # Of a key written again and again, each time counts: memory is bounded all the same.
        self._size += len(key) + len(value or b"") + _RECORD_BYTES
        if self._size >= _PIECE:
            self._write_piece()

    def _write_piece(self) -> None:
        """Have what was gathered written into the view."""
        state = self._writer.state
        batch, count = bytearray(), 0
        for family, pending in self._pending.items():
            number = encode_uvarint(self._ids[family])
            for key, value in pending.items():
                batch += _DELETE if value is None else _PUT
                batch += number + encode_uvarint(len(key)) + key
                if value is not None:
                    batch += encode_uvarint(len(value)) + value
                count += 1
        self._pending = {name: {} for name in self._ids}
        self._sorted, self._size = {}, 0
        if not count:
            return
        head = (state.last_sequence + 1).to_bytes(_SEQUENCE_SIZE, "little")
        whole = head + count.to_bytes(_COUNT_SIZE, "little") + batch
        log = max([*state.known_numbers, *(family.log_number for family in state.family_logs)]) + 1
        piece = LogPiece({log: [whole]}, len(whole))
        files, last = self._writer.replay(piece, lambda folder: flush_here(folder, self._source))
        self._writer.add(files, max(last, state.last_sequence + count))
        self._database = self._open()

    def _open(self) -> SealedDatabase:
        tables = Tables(self._db_dir, self._files)
        database = SealedDatabase(self._db_dir, self._source, tables)
        # What is read of it may go on when there is a newer one.
        weakref.finalize(database, tables.close)
        return database


def _overlaid(
    below: Iterator[tuple[bytes, bytes]], over: list[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    """Records with others over them, in which None is a deletion; both are in key order."""
    place = 0
    for key, value in below:
        while place < len(over) and over[place][0] < key:
            if (newer := over[place][1]) is not None:
                yield over[place][0], newer
            place += 1
        if place < len(over) and over[place][0] == key:
            if (newer := over[place][1]) is not None:
                yield key, newer
            place += 1
        else:
            yield key, value
    for key, late in over[place:]:
        if late is not None:
            yield key, late
