"""Makes small stores as TiKV would leave them: transactions in, RocksDB records out.

    family    key                                        value
    default   01 01                                      StoreIdent
    default   z memcomparable(raw key) ~start_ts         a long value (over 255 bytes)
    default   z raw key                                  a raw pair
    lock      z memcomparable(raw key)                   a lock record
    write     z memcomparable(raw key) ~commit_ts        a write record
    raft      01 03 region id (8, BE) 01                 RegionLocalState

A prewrite leaves a lock, with the value in it or, if long, in `default`. A commit turns the lock
into a write record. Source: TiKV's txn_types (`Lock`, `Write`) and the tests of its transactions,
whose names the methods carry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rocksdict

from bkctl.codec.memcomparable import encode
from bkctl.codec.varint import decode_uvarint, decode_zigzag, encode_uvarint, encode_zigzag
from bkctl.errors import UsageError

CLUSTER_ID = 7017629392171242369
SHORT_VALUE_MAX = 255
FAMILIES = ("default", "lock", "write", "raft")

_MAX_TS = (1 << 64) - 1
_BATCH_LIMIT = 4096
_CONFIG_NAME = "rocksdict-config.json"
_CONF_VER = 5


@dataclass(frozen=True, slots=True)
class _Change:
    """One record to put, or to delete where `value` is None."""

    family: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class _HeldLock:
    """What a commit or rollback needs of a lock; `lock_type` is `P`, `D`, `L` or `S`."""

    lock_type: bytes
    start_ts: int
    short_value: bytes | None


@dataclass(frozen=True, slots=True)
class _SampleRegion:
    """A region with encoded bounds, led by this store."""

    id: int
    start_key: bytes
    end_key: bytes
    version: int


class TikvStore:
    """A store in the RocksDB directory `path`, made if it is not there; a context manager.

    Every operation is one atomic write and reaches the write-ahead log before the method returns,
    except within `batched()`. Operations that TiKV would refuse raise UsageError.
    """

    def __init__(
        self, path: Path, store_id: int = 1, cluster_id: int = CLUSTER_ID, api_version: int = 0
    ) -> None:
        self.path = path
        self.store_id = store_id
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = rocksdict.Rdict(
            str(path),
            _options(),
            column_families={name: _options() for name in FAMILIES[1:]},
            access_type=rocksdict.AccessType.read_write(),
        )
        self._families = {name: self._db.get_column_family(name) for name in FAMILIES}
        self._handles = {name: self._db.get_column_family_handle(name) for name in FAMILIES}
        self._regions: list[_SampleRegion] = []
        self._is_batched = False
        self._pending: dict[tuple[str, bytes], bytes | None] = {}
        ident = _number(1, cluster_id) + _number(2, store_id) + _number(3, api_version)
        self._write(_Change("default", b"\x01\x01", ident))

    def __enter__(self) -> TikvStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def must_prewrite_put(
        self,
        raw_key: bytes,
        value: bytes,
        primary: bytes,
        start_ts: int,
        *,
        ttl: int = 3000,
        min_commit_ts: int = 0,
        use_async_commit: bool = False,
        secondaries: Sequence[bytes] = (),
        txn_size: int = 0,
        for_update_ts: int = 0,
    ) -> None:
        """Prewrite a put; `ttl` is in milliseconds, `secondaries` count for async commit only."""
        is_short = len(value) <= SHORT_VALUE_MAX
        fields = _short_value(value) if is_short else b""
        fields += _u64_field(b"f", for_update_ts) + _u64_field(b"t", txn_size)
        fields += _u64_field(b"c", min_commit_ts)
        if use_async_commit:
            fields += b"a" + encode_uvarint(len(secondaries))
            fields += b"".join(_compact_bytes(key) for key in secondaries)
        changes = [self._lock(raw_key, b"P", primary, start_ts, ttl, fields)]
        if not is_short:
            changes.append(_Change("default", _versioned_key(raw_key, start_ts), value))
        self._write(*changes)

    def must_prewrite_delete(
        self, raw_key: bytes, primary: bytes, start_ts: int, *, ttl: int = 3000
    ) -> None:
        """Prewrite a delete."""
        self._write(self._lock(raw_key, b"D", primary, start_ts, ttl))

    def must_prewrite_lock(
        self, raw_key: bytes, primary: bytes, start_ts: int, *, ttl: int = 3000
    ) -> None:
        """Prewrite a Lock: the key is read for update, its value stays."""
        self._write(self._lock(raw_key, b"L", primary, start_ts, ttl))

    def must_acquire_pessimistic_lock(
        self, raw_key: bytes, primary: bytes, start_ts: int, for_update_ts: int, *, ttl: int = 3000
    ) -> None:
        """Lock a key before its value is known; a prewrite of the same transaction follows."""
        fields = _u64_field(b"f", for_update_ts)
        self._write(self._lock(raw_key, b"S", primary, start_ts, ttl, fields))

    def shared_lock(self, raw_key: bytes, payload: bytes = b"\x00") -> None:
        """Leave a shared lock's record, `H` and any payload: backups read nothing of it."""
        self._check_unlocked(raw_key)
        self._write(_Change("lock", _data_key(raw_key), b"H" + payload))

    def must_commit(self, raw_key: bytes, start_ts: int, commit_ts: int) -> None:
        """Turn the transaction's lock into a write record; a pessimistic lock becomes a Lock."""
        lock = self._held_lock(raw_key)
        if lock is None or lock.start_ts != start_ts:
            raise UsageError(
                f"key {raw_key.hex().upper()} holds no lock of {start_ts}; prewrite it first"
            )
        record = (b"L" if lock.lock_type == b"S" else lock.lock_type) + encode_uvarint(start_ts)
        if lock.short_value is not None:
            record += _short_value(lock.short_value)
        self._write(
            _Change("write", _versioned_key(raw_key, commit_ts), record),
            _Change("lock", _data_key(raw_key), None),
        )

    def must_rollback(self, raw_key: bytes, start_ts: int, protected: bool = False) -> None:
        """Take a transaction's lock and value away, and leave a Rollback record at its start_ts.

        If another transaction committed at that very timestamp, its record stays: a protected
        rollback marks it as overlapped, with the next newer put or delete as the GC fence.
        """
        changes = []
        lock = self._held_lock(raw_key)
        if lock is not None and lock.start_ts == start_ts:
            changes.append(_Change("lock", _data_key(raw_key), None))
            if lock.lock_type == b"P" and lock.short_value is None:
                changes.append(_Change("default", _versioned_key(raw_key, start_ts), None))
        key = _versioned_key(raw_key, start_ts)
        overlapped = self._get("write", key)
        if overlapped is None or overlapped.startswith(b"R"):
            record = b"R" + encode_uvarint(start_ts) + (_short_value(b"p") if protected else b"")
            changes.append(_Change("write", key, record))
        elif protected:
            fence = self._next_version_ts(raw_key, start_ts).to_bytes(8, "big")
            changes.append(_Change("write", key, overlapped + b"RF" + fence))
        self._write(*changes)

    def put_raw(self, raw_key: bytes, value: bytes, cf: str = "default") -> None:
        """Put a raw pair, API V1."""
        self._write(_Change(cf, b"z" + raw_key, value))

    def write_record(self, raw_key: bytes, commit_ts: int, record: bytes) -> None:
        """Put any bytes as the write record of a version."""
        self._write(_Change("write", _versioned_key(raw_key, commit_ts), record))

    def default_record(self, raw_key: bytes, start_ts: int, value: bytes) -> None:
        """Put a value into `default` by itself, whether a write record refers to it or not."""
        self._write(_Change("default", _versioned_key(raw_key, start_ts), value))

    def set_regions(
        self, regions: Sequence[tuple[int, bytes, bytes, int]], is_raw: bool = False
    ) -> None:
        """Give the store its regions, all led by it: (id, raw start, raw end, epoch version).

        Bounds are stored memcomparable, or as they are for a raw store; an empty end is infinity.
        """
        old = [_Change("raft", _region_state_key(region.id), None) for region in self._regions]
        self._regions = [
            _SampleRegion(region_id, _bound(start, is_raw), _bound(end, is_raw), version)
            for region_id, start, end, version in regions
        ]
        new = [
            _Change("raft", _region_state_key(region.id), _region_state(region, self.store_id))
            for region in self._regions
        ]
        self._write(*old, *new)

    def write_region_map(self, path: Path) -> None:
        """Write the regions last set as PD's API gives them: compact JSON."""
        regions = [_pd_region(region, self.store_id) for region in self._regions]
        region_map = {"count": len(regions), "regions": regions}
        path.write_text(json.dumps(region_map, separators=(",", ":")) + "\n")

    @contextmanager
    def batched(self) -> Iterator[None]:
        """Within it, operations are gathered and written some thousands at a time."""
        self._is_batched = True
        try:
            yield
        finally:
            self._is_batched = False
            self._drain()

    def flush(self) -> None:
        """Write all families' memtables to SST files."""
        self._drain()
        for family in self._families.values():
            family.flush()

    def compact(self) -> None:
        """Flush, and compact all families."""
        self.flush()
        for family in self._families.values():
            family.compact_range(None, None)

    def close(self) -> None:
        """Close the store (twice is fine); its directory holds only what RocksDB itself writes."""
        if not self._families:
            return
        self._drain()
        self._handles.clear()
        for family in self._families.values():
            family.close()
        self._families.clear()
        self._db.close()
        (self.path / _CONFIG_NAME).unlink(missing_ok=True)

    def _write(self, *changes: _Change) -> None:
        self._pending.update({(change.family, change.key): change.value for change in changes})
        if not self._is_batched or len(self._pending) >= _BATCH_LIMIT:
            self._drain()

    def _drain(self) -> None:
        if not self._pending:
            return
        batch = rocksdict.WriteBatch(raw_mode=True)
        for (family, key), value in self._pending.items():
            if value is None:
                batch.delete(key, self._handles[family])
            else:
                batch.put(key, value, self._handles[family])
        self._pending.clear()
        self._db.write(batch)

    def _get(self, family: str, key: bytes) -> bytes | None:
        if (family, key) in self._pending:
            return self._pending[family, key]
        value: bytes | None = self._families[family].get(key)
        return value

    def _held_lock(self, raw_key: bytes) -> _HeldLock | None:
        value = self._get("lock", _data_key(raw_key))
        return None if value is None or value.startswith(b"H") else _parse_lock(value)

    def _lock(
        self,
        raw_key: bytes,
        lock_type: bytes,
        primary: bytes,
        start_ts: int,
        ttl: int,
        fields: bytes = b"",
    ) -> _Change:
        self._check_unlocked(raw_key, start_ts)
        head = lock_type + _compact_bytes(primary) + encode_uvarint(start_ts) + encode_uvarint(ttl)
        return _Change("lock", _data_key(raw_key), head + fields)

    def _check_unlocked(self, raw_key: bytes, start_ts: int | None = None) -> None:
        """Refuse a key that is locked, but by the transaction of `start_ts` itself."""
        if self._get("lock", _data_key(raw_key)) is None:
            return
        lock = self._held_lock(raw_key)
        if lock is None or lock.start_ts != start_ts:
            raise UsageError(f"key {raw_key.hex().upper()} is locked; commit or roll back first")

    def _next_version_ts(self, raw_key: bytes, commit_ts: int) -> int:
        """The commit_ts of the nearest put or delete above `commit_ts`; 0 if there is none."""
        self._drain()
        own_key = _versioned_key(raw_key, commit_ts)
        newer_ts = 0
        write = self._families["write"]
        for key, record in write.items(from_key=_versioned_key(raw_key, _MAX_TS)):
            if not isinstance(key, bytes) or key >= own_key:
                break
            if record[:1] in (b"P", b"D"):
                newer_ts = int.from_bytes(key[-8:], "big") ^ _MAX_TS
        return newer_ts


def _options() -> rocksdict.Options:
    """As TiKV sets RocksDB up, where it shows in the files: old table format, lz4, crc32c."""
    table = rocksdict.BlockBasedOptions()
    table.set_format_version(2)
    table.set_checksum_type(rocksdict.ChecksumType.crc32c())
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_block_based_table_factory(table)
    return options


def _data_key(raw_key: bytes) -> bytes:
    return b"z" + encode(raw_key)


def _versioned_key(raw_key: bytes, ts: int) -> bytes:
    return _data_key(raw_key) + (ts ^ _MAX_TS).to_bytes(8, "big")


def _short_value(value: bytes) -> bytes:
    return b"v" + bytes([len(value)]) + value


def _u64_field(flag: bytes, number: int) -> bytes:
    return flag + number.to_bytes(8, "big") if number else b""


def _compact_bytes(data: bytes) -> bytes:
    return encode_zigzag(len(data)) + data


def _parse_lock(value: bytes) -> _HeldLock:
    length, pos = decode_zigzag(value, 1)
    start_ts, pos = decode_uvarint(value, pos + length)
    _ttl, pos = decode_uvarint(value, pos)
    short_value = None
    if value[pos : pos + 1] == b"v":
        short_value = value[pos + 2 : pos + 2 + value[pos + 1]]
    return _HeldLock(value[:1], start_ts, short_value)


def _bound(raw_key: bytes, is_raw: bool) -> bytes:
    return raw_key if is_raw or not raw_key else encode(raw_key)


def _number(field: int, number: int) -> bytes:
    return encode_uvarint(field << 3) + encode_uvarint(number) if number else b""


def _message(field: int, message: bytes) -> bytes:
    return encode_uvarint(field << 3 | 2) + encode_uvarint(len(message)) + message


def _region_state_key(region_id: int) -> bytes:
    return b"\x01\x03" + region_id.to_bytes(8, "big") + b"\x01"


def _region_state(region: _SampleRegion, store_id: int) -> bytes:
    """RegionLocalState {2: Region}; the state Normal is 0 and so left out."""
    body = _number(1, region.id)
    body += _message(2, region.start_key) if region.start_key else b""
    body += _message(3, region.end_key) if region.end_key else b""
    body += _message(4, _number(1, _CONF_VER) + _number(2, region.version))
    body += _message(5, _number(1, region.id + 1) + _number(2, store_id))
    return _message(2, body)


def _pd_region(region: _SampleRegion, store_id: int) -> dict[str, object]:
    peer = {"id": region.id + 1, "store_id": store_id, "role_name": "Voter"}
    return {
        "id": region.id,
        "start_key": region.start_key.hex().upper(),
        "end_key": region.end_key.hex().upper(),
        "epoch": {"conf_ver": _CONF_VER, "version": region.version},
        "peers": [peer],
        "leader": peer,
    }
