"""Makes TiKV-shaped stores for measuring: sorted files, written straight and ingested.

A kind of store is rows, value length and versions a row; keys are those of TiDB's table rows. The
same parameters give the same store.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    ChecksumType,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
)

from bkctl.codec.memcomparable import encode
from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.keys import encode_ts

END_TS = 440000000001000000
_SPAN = 1_000_000
_TABLES = 10
_FILE_ROWS = 500_000
_SHORT_VALUE_MAX = 255


@dataclass(frozen=True, slots=True)
class StoreKind:
    """What a benchmark store holds; raw stores have no versions."""

    name: str
    rows: int
    value_length: int
    versions: int = 1
    regions: int = 16
    is_raw: bool = False


def make_store(kind: StoreKind, path: Path, seed: int = 1) -> None:
    """Write the store at `path` and its region map at `path`.regions.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = _options()
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    families = {name: _options() for name in ("lock", "write", "raft")}
    db = Rdict(str(path), options, column_families=families, access_type=AccessType.read_write())
    for first in range(0, kind.rows, _FILE_ROWS):
        rows = range(first, min(first + _FILE_ROWS, kind.rows))
        _ingest(db, kind, path, rows, random.Random(seed + first))
    db[b"\x01\x01"] = b"\x08\x01\x10\x01"
    db.close()
    map_file = path.parent / f"{path.name}.regions.json"
    # Compact, and tables of an older format: the native yardstick reads no other.
    map_file.write_text(json.dumps(_regions(kind), separators=(",", ":")))


def _options() -> Options:
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    table = BlockBasedOptions()
    table.set_format_version(2)
    table.set_checksum_type(ChecksumType.crc32c())
    table.set_block_size(16 << 10)
    options.set_block_based_table_factory(table)
    return options


def _row_key(kind: StoreKind, row: int) -> bytes:
    per_table = -(-kind.rows // _TABLES)
    table = 1 << 63 | 100 + row // per_table
    return b"t%s_r%s" % (struct.pack(">Q", table), struct.pack(">Q", 1 << 63 | row % per_table))


def _ingest(db: Rdict, kind: StoreKind, path: Path, rows: range, rng: random.Random) -> None:
    writers = {}
    for family in ("default", "write"):
        writers[family] = SstFileWriter(_options())
        writers[family].open(str(path / f"bench-{family}.tmp"))
    counts = dict.fromkeys(writers, 0)
    for row in rows:
        for family, key, value in _records(kind, row, rng):
            writers[family][key] = value
            counts[family] += 1
    ingest = IngestExternalFileOptions()
    ingest.set_move_files(True)
    for family, writer in writers.items():
        if counts[family]:
            writer.finish()
            target = db if family == "default" else db.get_column_family(family)
            target.ingest_external_file([str(path / f"bench-{family}.tmp")], ingest)


def _records(kind: StoreKind, row: int, rng: random.Random) -> list[tuple[str, bytes, bytes]]:
    raw_key = _row_key(kind, row)
    if kind.is_raw:
        return [("default", b"z" + raw_key, _value(kind.value_length, rng))]
    encoded = b"z" + encode(raw_key)
    commits = sorted(
        (END_TS - _SPAN + rng.randrange(_SPAN // 4) * 4 for _ in range(kind.versions)), reverse=True
    )
    records = []
    for commit_ts in dict.fromkeys(commits):
        value = _value(kind.value_length, rng)
        record = b"P" + encode_uvarint(commit_ts - 1)
        if len(value) <= _SHORT_VALUE_MAX:
            record += b"v" + bytes([len(value)]) + value
        else:
            records.append(("default", encoded + encode_ts(commit_ts - 1), value))
        records.append(("write", encoded + encode_ts(commit_ts), record))
    return records


def _value(length: int, rng: random.Random) -> bytes:
    # Half of it repeats, so that it compresses about as rows do.
    half = length // 2
    return rng.randbytes(length - half) + b"benchmark-" * (half // 10) + b"benchmark-"[: half % 10]


def _regions(kind: StoreKind) -> dict[str, object]:
    cuts = [kind.rows * i // kind.regions for i in range(1, kind.regions)]
    keys = [_row_key(kind, row) for row in cuts]
    bounds = [b"", *(key if kind.is_raw else encode(key) for key in keys), b""]
    return {
        "count": kind.regions,
        "regions": [
            {
                "id": i + 1,
                "start_key": bounds[i].hex().upper(),
                "end_key": bounds[i + 1].hex().upper(),
                "epoch": {"conf_ver": 1, "version": 1},
                "peers": [{"id": i + 1, "store_id": 1}],
                "leader": {"id": i + 1, "store_id": 1},
                "approximate_size": 96,
                "approximate_keys": kind.rows // kind.regions,
            }
            for i in range(kind.regions)
        ],
    }
