"""Makes TiKV stores with Titan: what an example store puts into `default` goes to blob files.

RocksDB has no records of kind 0x11 written. So it writes plain values that hold blob indexes, in
blocks that are not compressed, and when it is done, their kinds are changed in the files.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import rocksdict

from examples import tikv_store
from examples.tikv_store import TikvStore
from tests.titan.blob_writer import BlobFileWriter, deleted, log, masked, next_file

MANIFEST = "MANIFEST-000001"
BLOB_INDEX, FAMILY_BLOB_INDEX = 0x11, 0x10
_PUT, _DELETE = 1, 0
_FOOTER = 53


def _options() -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    table.set_format_version(2)
    table.set_checksum_type(rocksdict.ChecksumType.crc32c())
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_block_based_table_factory(table)
    return options


class TitanStore(TikvStore):
    """A TikvStore whose values of `min_size` bytes and more lie in blob files.

    A file holds `per_file` values; the files' forms are `forms`, in turn.
    """

    def __init__(
        self,
        path: Path,
        *,
        min_size: int = 256,
        per_file: int = 100,
        forms: tuple[dict[str, object], ...] = ({},),
    ) -> None:
        self._min_size, self._per_file, self._forms = min_size, per_file, forms
        self._blobs: list[BlobFileWriter] = []
        self._dropped: list[BlobFileWriter] = []
        self._held: dict[bytes, bytes] = {}
        self._indexes: set[bytes] = set()
        with mock.patch.object(tikv_store, "_options", _options):
            super().__init__(path)

    def _write(self, *changes: tikv_store._Change) -> None:
        super()._write(*map(self._moved, changes))

    def _moved(self, change: tikv_store._Change) -> tikv_store._Change:
        value = change.value
        if change.family == "default":
            self._held.pop(change.key, None)
        if change.family != "default" or value is None or len(value) < self._min_size:
            return change
        self._held[change.key] = value
        return tikv_store._Change("default", change.key, self.add_blob(change.key, value))

    def add_blob(self, key: bytes, value: bytes) -> bytes:
        """Put a value into a blob file; gives its index."""
        if not self._blobs or len(self._blobs[-1].keys) >= self._per_file:
            count = len(self._blobs) + len(self._dropped)
            form = self._forms[count % len(self._forms)]
            self._blobs.append(BlobFileWriter(2 * count + 2, **form))  # type: ignore[arg-type]
        index = self._blobs[-1].add(key, value)
        self._indexes.add(index)
        return index

    def collect(self) -> None:
        """Move all values to new files and drop the old ones, as Titan does; flush first."""
        self._dropped, self._blobs = self._blobs, []
        for key, value in list(self._held.items()):
            self._write(tikv_store._Change("default", key, value))

    def mark(self, family: str, raw_key: bytes, ts: int) -> None:
        """Make a blob index, in the end, of a record as it is, and of all that have its value."""
        value = self._get(family, tikv_store._versioned_key(raw_key, ts))
        assert value is not None
        self._indexes.add(value)

    def delete_range(self, family: str, start: bytes, end: bytes) -> None:
        """Delete a range by one record of RocksDB's."""
        self._families[family].delete_range(start, end)

    def close(self, *, flush: bool = True) -> None:
        """Close the store, and make blob indexes of what stands for them.

        Without `flush`, the newest records stay in the log alone.
        """
        if not self._families:
            return
        kept = self.path.with_name(f"{self.path.name}-as-killed")
        if flush:
            self.flush()
        else:
            self._drain()
            shutil.copytree(self.path, kept)
        super().close()
        if not flush:
            shutil.rmtree(self.path)
            kept.rename(self.path)
        for path in self.path.glob("*.sst"):
            _change_kinds(path, self._indexes)
        for path in self.path.glob("*.log"):
            _change_tags(path, self._indexes)
        write_titandb(self.path, self._blobs, self._dropped)


def write_titandb(db_dir: Path, blobs: list[BlobFileWriter], dropped: list[BlobFileWriter]) -> None:
    """Write blob files, finished by this, and what names them, and the dropped ones no more."""
    folder = db_dir / "titandb"
    folder.mkdir(exist_ok=True)
    edits = [next_file(2)]
    for blob in dropped:
        blob.finish()
        edits.append(next_file(blob.number + 1) + blob.added())
    for blob in blobs:
        (folder / f"{blob.number:06}.blob").write_bytes(blob.finish())
        edits.append(next_file(blob.number + 1) + blob.added())
    edits += [deleted(blob.number) for blob in dropped]
    (folder / MANIFEST).write_bytes(log(edits))
    (folder / "CURRENT").write_text(f"{MANIFEST}\n")


def _read_varint(data: bytes | bytearray, pos: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[pos]
        number |= (byte & 127) << shift
        pos, shift = pos + 1, shift + 7
        if byte < 128:
            return number, pos


def _entries(data: bytearray, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(position of the key's tail, of the value, end) of each entry of a plain block."""
    (restarts,) = struct.unpack_from("<I", data, start + size - 4)
    pos, stop = start, start + size - 4 - 4 * restarts
    while pos < stop:
        _, pos = _read_varint(data, pos)
        tail, pos = _read_varint(data, pos)
        length, pos = _read_varint(data, pos)
        yield pos, pos + tail, pos + tail + length
        pos += tail + length


def _change_kinds(path: Path, indexes: set[bytes]) -> None:
    data = bytearray(path.read_bytes())
    footer = len(data) - _FOOTER + 1
    _, pos = _read_varint(data, footer)
    _, pos = _read_varint(data, pos)
    start, pos = _read_varint(data, pos)
    size, _ = _read_varint(data, pos)
    blocks = []
    for _, value, _ in _entries(data, start, size):
        offset, pos = _read_varint(data, value)
        blocks.append((offset, _read_varint(data, pos)[0]))
    longest = max(map(len, indexes), default=0)
    for offset, size in blocks:
        assert data[offset + size] == 0
        is_changed = False
        for _, value, end in _entries(data, offset, size):
            if end - value <= longest and bytes(data[value:end]) in indexes:
                assert data[value - 8] == _PUT
                data[value - 8] = BLOB_INDEX
                is_changed = True
        if is_changed:
            checksum = masked(bytes(data[offset : offset + size + 1]))
            struct.pack_into("<I", data, offset + size + 1, checksum)
    path.write_bytes(data)


def _change_tags(path: Path, indexes: set[bytes]) -> None:
    data, out = path.read_bytes(), []
    for batch in _batches(data):
        changed, pos = bytearray(batch), 12
        while pos < len(batch):
            at, tag = pos, batch[pos]
            pos += 1
            if tag in (4, 5):
                _, pos = _read_varint(batch, pos)
            length, pos = _read_varint(batch, pos)
            pos += length
            if tag in (1, 5):
                length, pos = _read_varint(batch, pos)
                if batch[pos : pos + length] in indexes:
                    changed[at] = BLOB_INDEX if tag == 1 else FAMILY_BLOB_INDEX
                pos += length
            else:
                assert tag in (0, 4)
        out.append(bytes(changed))
    path.write_bytes(log(out))


def _batches(data: bytes) -> Iterator[bytes]:
    pos, parts = 0, b""
    while pos + 7 <= len(data):
        left = 32768 - pos % 32768
        if left < 7:
            pos += left
            continue
        length, kind = struct.unpack_from("<HB", data, pos + 4)
        parts += data[pos + 7 : pos + 7 + length]
        pos += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
