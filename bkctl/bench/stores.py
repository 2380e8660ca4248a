"""Makes stores to measure on, shaped as TiKV leaves them, from columns and in flat memory.

    DIR/                RocksDB: SST files of 16 MiB of plain data, LZ4, in two levels
      below             what was committed in the first nineteen of twenty hours
      above             what was committed in the last hour, anywhere among the keys
    DIR.regions.json    its region map, as PD's JSON

Keys are those of TiDB's table rows (`t`, table, `_r`, row, both sign-flipped), in ten tables. Files
of `write` tell the span of their timestamps, as TiKV's do. Raw stores have one level. The same
parameters give the same store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bkctl.codec.memcomparable import encode
from bkctl.codec.strings import I64, U8, U64, ByteStrings
from bkctl.codec.tso import compose
from bkctl.sst.writer import Compression, SstWriter
from bkctl.store.ident import IDENT_KEY
from bkctl.store.new_store import NewStore

_HOUR = compose(3_600_000)
END_TS = compose(1_767_225_600_000)  # 2026-01-01T00:00:00Z
INCREMENT_TS = END_TS - _HOUR
_FIRST_TS = END_TS - 20 * _HOUR
REGIONS = 16
MIN_ROWS = REGIONS

_TABLES, _FIRST_TABLE = 10, 100
_FILE_BYTES = 16 << 20
_CHUNK_ROWS = 1 << 14
_SHORT_VALUE_MAX = 255
_SIGN_BIT = 1 << 63
_IDENT = b"\x08\x01\x10\x01"  # cluster 1, store 1
_REPEATED = b"benchmark-"
_TS_GAP = 4
# Of sixteen versions of a row that has several, so many are deletes, Locks and Rollbacks.
_TYPES = np.frombuffer(b"PPPPPPPPPPPPDDLR", np.uint8)
_PUT, _ROLLBACK = b"PR"


@dataclass(frozen=True, slots=True)
class StoreKind:
    """What a store holds: `share` of its rows are as many as one row of the store of short values.

    Rows have 1 to `versions` versions; values of up to 255 bytes lie in `write`.
    """

    word: str
    name: str
    value_length: int
    share: int = 1
    versions: int = 1
    is_raw: bool = False

    def rows(self, rows: int) -> int:
        """How many rows, where the store of short values has `rows`."""
        return max(MIN_ROWS, rows // self.share)


KINDS = (
    StoreKind("short", "short values", 100),
    StoreKind("long", "long values", 1024, share=8),
    StoreKind("versions", "many versions", 100, share=3, versions=6),
    StoreKind("raw", "raw", 100, is_raw=True),
)


def make_store(
    kind: StoreKind, rows: int, path: Path, made: Callable[[int], None] = lambda rows: None
) -> None:
    """Write a store of `rows` rows at `path` and its region map at `region_map_of(path)`.

    `made` is told of rows as they are made. Raises StorageError where there is no room.
    """
    files = path.parent / f"{path.name}.files"
    files.mkdir(parents=True)
    layers = [_Layer(files, "below"), _Layer(files, "above")]
    layers[0].add("default", ByteStrings.of([IDENT_KEY]), ByteStrings.of([_IDENT]))
    for first in range(0, rows, _CHUNK_ROWS):
        chunk = np.arange(first, min(first + _CHUNK_ROWS, rows), dtype=np.uint64)
        rng = np.random.default_rng([kind.value_length, kind.versions, kind.is_raw, first])
        for layer, family, keys, values, ts in _records(kind, chunk, -(-rows // _TABLES), rng):
            layers[layer].add(family, keys, values, ts)
        made(len(chunk))
    with NewStore(path) as store:
        for layer_files in layers:
            for family, paths in layer_files.finish().items():
                store.ingest(family, paths)
        store.finish()
    files.rmdir()
    region_map_of(path).write_text(_region_map(kind, rows))


def region_map_of(path: Path) -> Path:
    """Where the region map of the store at `path` lies."""
    return path.parent / f"{path.name}.regions.json"


class _Layer:
    """The files of one level, by family; each is cut once it has enough in it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._files: dict[str, list[Path]] = {}
        self._open: dict[str, _TimedFile] = {}

    def add(
        self, family: str, keys: ByteStrings, values: ByteStrings, ts: U64 | None = None
    ) -> None:
        """Append records in key order; `ts` are their commit timestamps."""
        if not len(keys):
            return
        file = self._open.get(family)
        if file is None:
            paths = self._files.setdefault(family, [])
            path = self._folder / f"{self._name}-{family}-{len(paths)}.sst"
            paths.append(path)
            file = self._open[family] = _TimedFile(path)
        file.add(keys, values, ts)
        if file.plain_bytes >= _FILE_BYTES:
            self._open.pop(family).finish()

    def finish(self) -> dict[str, list[Path]]:
        """Complete all files, and return them by family."""
        for file in self._open.values():
            file.finish()
        return self._files


class _TimedFile:
    """An SST file that notes the span of its commit timestamps in its properties, as TiKV does."""

    def __init__(self, path: Path) -> None:
        self._writer = SstWriter(path, Compression("lz4"))
        self._span: tuple[int, int] | None = None
        self.plain_bytes = 0

    def add(self, keys: ByteStrings, values: ByteStrings, ts: U64 | None) -> None:
        self._writer.write_columns(keys, values)
        self.plain_bytes += int(keys.lengths.sum() + values.lengths.sum())
        if ts is not None:
            low, high = self._span or (int(ts[0]), int(ts[0]))
            self._span = min(low, int(ts.min())), max(high, int(ts.max()))

    def finish(self) -> None:
        names = ("tikv.min_ts", "tikv.max_ts")
        span = zip(names, self._span or (), strict=False)
        self._writer.finish({name: ts.to_bytes(8, "big") for name, ts in span})


_Records = tuple[int, str, ByteStrings, ByteStrings, U64 | None]


def _records(
    kind: StoreKind, rows: U64, per_table: int, rng: np.random.Generator
) -> Iterator[_Records]:
    """The records of some rows: layer, family, keys, values and commit timestamps, in key order."""
    raw_keys = _raw_keys(rows, per_table)
    if kind.is_raw:
        keys = _joined(len(rows), b"z", raw_keys)
        yield 0, "default", _strings(keys), _strings(_values(len(rows), kind, rng)), None
        return
    row, commit_ts = _versions(kind, len(rows), rng)
    keys = _joined(len(row), b"z", _encoded(raw_keys)[row])
    types = rng.choice(_TYPES, len(row)) if kind.versions > 1 else np.full(len(row), _PUT, np.uint8)
    # A rollback stands at its own start.
    start_ts = commit_ts - np.where(types == _ROLLBACK, 0, 1).astype(np.uint64)
    head = _joined(len(row), types[:, None], _uvarints(start_ts))
    values = _values(len(row), kind, rng)
    is_put = types == _PUT
    is_short = kind.value_length <= _SHORT_VALUE_MAX
    whole = _joined(len(row), head, b"v" + bytes([kind.value_length]), values) if is_short else head
    written = _strings(whole)
    lengths = np.where(is_put, np.int64(whole.shape[1]), np.int64(head.shape[1]))
    written = ByteStrings(written.data, written.starts, lengths)
    write_keys = _strings(_joined(len(row), keys, _big_endian(~commit_ts)))
    is_late = commit_ts > INCREMENT_TS
    for layer, chosen in enumerate((~is_late, is_late)):
        yield layer, "write", write_keys.take(chosen), written.take(chosen), commit_ts[chosen]
        if not is_short:
            long = chosen & is_put
            default_keys = _strings(_joined(len(row), keys, _big_endian(~start_ts)))
            yield layer, "default", default_keys.take(long), _strings(values).take(long), None


def _versions(kind: StoreKind, count: int, rng: np.random.Generator) -> tuple[I64, U64]:
    """Which row each version is of, and its commit timestamp; newest first in each row."""
    counts = rng.integers(1, kind.versions, count, endpoint=True)
    row = np.repeat(np.arange(count, dtype=np.int64), counts)
    steps = (END_TS - _FIRST_TS) // _TS_GAP
    before_end = rng.integers(0, steps, len(row), dtype=np.uint64)
    order = np.lexsort((before_end, row))
    before_end = before_end[order]
    is_own = np.ones(len(row), np.bool_)
    is_own[1:] = (row[1:] != row[:-1]) | (before_end[1:] != before_end[:-1])
    ts = np.uint64(END_TS) - before_end * np.uint64(_TS_GAP)
    return row[is_own], ts[is_own]


def _raw_keys(rows: U64, per_table: int) -> U8:
    table, row = np.divmod(rows, np.uint64(per_table))
    table_id = table + np.uint64(_SIGN_BIT | _FIRST_TABLE)
    row_id = row + np.uint64(_SIGN_BIT)
    return _joined(len(rows), b"t", _big_endian(table_id), b"_r", _big_endian(row_id))


def _encoded(raw_keys: U8) -> U8:
    """The memcomparable form of raw keys of one length."""
    groups = encode(bytes(raw_keys.shape[1]))
    encoded = np.tile(np.frombuffer(groups, np.uint8), (len(raw_keys), 1))
    for start in range(0, raw_keys.shape[1], 8):
        group = raw_keys[:, start : start + 8]
        at = start // 8 * 9
        encoded[:, at : at + group.shape[1]] = group
    return encoded


def _uvarints(numbers: U64) -> U8:
    """Numbers of 57 to 63 bits, as timestamps of our time are, as varints: nine bytes each."""
    shifts = np.arange(0, 63, 7, dtype=np.uint64)
    digits: U8 = (numbers[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    digits[:, :-1] |= 0x80
    return digits


def _values(count: int, kind: StoreKind, rng: np.random.Generator) -> U8:
    """Values of which half repeats, so that they compress about as rows do."""
    repeated = kind.value_length // 2
    noise = rng.integers(0, 256, (count, kind.value_length - repeated), np.uint8)
    text = (_REPEATED * (repeated // len(_REPEATED) + 1))[:repeated]
    return _joined(count, noise, text)


def _big_endian(numbers: U64) -> U8:
    rows: U8 = numbers.astype(">u8").view(np.uint8).reshape(len(numbers), 8)
    return rows


def _joined(count: int, *parts: U8 | bytes) -> U8:
    """Columns side by side; bytes stand in every row."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def _strings(rows: U8) -> ByteStrings:
    """The rows of a matrix."""
    count, width = rows.shape
    starts = np.arange(count, dtype=np.int64) * width
    return ByteStrings(rows.ravel(), starts, np.full(count, width, np.int64), width)


def _region_map(kind: StoreKind, rows: int) -> str:
    cuts = np.array([rows * i // REGIONS for i in range(1, REGIONS)], np.uint64)
    raw_keys = _strings(_raw_keys(cuts, -(-rows // _TABLES))).tolist()
    bounds = [b"", *(key if kind.is_raw else encode(key) for key in raw_keys), b""]
    regions = [
        {
            "id": i + 1,
            "start_key": bounds[i].hex().upper(),
            "end_key": bounds[i + 1].hex().upper(),
            "epoch": {"conf_ver": 1, "version": 1},
            "peers": [{"id": i + 1, "store_id": 1}],
            "leader": {"id": i + 1, "store_id": 1},
            "approximate_keys": rows // REGIONS,
        }
        for i in range(REGIONS)
    ]
    # Compact, as simple readers expect it.
    return json.dumps({"count": len(regions), "regions": regions}, separators=(",", ":"))
