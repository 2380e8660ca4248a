"""What a backup must hold, worked out from a history of transactions and never from a scan.

`History` takes the operations of `examples.tikv_store.TikvStore` and keeps the versions and locks
they leave in memory. It then answers by the snapshot rule and the lock rule, one key and one
version at a time. `replay` drives a store through the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec

MAX_TS = (1 << 64) - 1
SHORT_VALUE_MAX = 255

_POLYNOMIAL = 0xC96C5795D7870F42
P = ParamSpec("P")


def _crc64_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC64_TABLE = _crc64_table()


def crc64(data: bytes) -> int:
    """CRC-64/XZ, byte by byte."""
    crc = MAX_TS
    for byte in data:
        crc = crc >> 8 ^ _CRC64_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ MAX_TS


@dataclass(frozen=True, slots=True)
class Version:
    """One record of the write family; `kind` is one of P, D, L, R."""

    kind: str
    start_ts: int
    short_value: bytes | None = None
    has_overlapped_rollback: bool = False
    gc_fence: int = 0


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock; `kind` is one of P, D, L, S (pessimistic), H (shared)."""

    kind: str
    primary: bytes = b""
    start_ts: int = 0
    ttl: int = 0
    value: bytes | None = None
    min_commit_ts: int = 0
    use_async_commit: bool = False


@dataclass(frozen=True, slots=True)
class BlockingLock:
    """A lock that fails a backup, as its error names it."""

    raw_key: bytes
    primary: bytes
    start_ts: int
    ttl: int


Entry = tuple[bytes, int, str, bytes]
"""(raw_key, commit_ts, P or D, value)"""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a backup must hold and report; `entries` are in key order."""

    kvs: int
    bytes: int
    crc64xor: int
    puts: int
    deletes: int
    default_kvs: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Operation:
    """A call of one of a store's methods."""

    method: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        shown = [repr(argument) for argument in self.arguments]
        shown += [f"{name}={value!r}" for name, value in self.options]
        return f"store.{self.method}({', '.join(shown)})"


def _recorded(
    method: Callable[Concatenate[History, P], None],
) -> Callable[Concatenate[History, P], None]:
    def call(self: History, /, *args: P.args, **kwargs: P.kwargs) -> None:
        method(self, *args, **kwargs)
        self.operations.append(Operation(method.__name__, args, tuple(kwargs.items())))

    return call


class History:
    """Versions, long values, raw pairs and locks, as a sequence of operations leaves them."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.versions: dict[bytes, dict[int, Version]] = {}
        self.long_values: dict[tuple[bytes, int], bytes] = {}
        self.locks: dict[bytes, HeldLock] = {}
        self.raw_pairs: dict[tuple[str, bytes], bytes] = {}

    def __repr__(self) -> str:
        return "History:\n" + "\n".join(map(repr, self.operations))

    def replay(self, store: object) -> None:
        """Do the same to a store (or another history)."""
        for operation in self.operations:
            method = getattr(store, operation.method)
            method(*operation.arguments, **dict(operation.options))

    @_recorded
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
        lock = HeldLock("P", primary, start_ts, ttl, value, min_commit_ts, use_async_commit)
        self._lock(raw_key, lock)
        if len(value) > SHORT_VALUE_MAX:
            self.long_values[raw_key, start_ts] = value

    @_recorded
    def must_prewrite_delete(
        self, raw_key: bytes, primary: bytes, start_ts: int, *, ttl: int = 3000
    ) -> None:
        self._lock(raw_key, HeldLock("D", primary, start_ts, ttl))

    @_recorded
    def must_prewrite_lock(
        self, raw_key: bytes, primary: bytes, start_ts: int, *, ttl: int = 3000
    ) -> None:
        self._lock(raw_key, HeldLock("L", primary, start_ts, ttl))

    @_recorded
    def must_acquire_pessimistic_lock(
        self, raw_key: bytes, primary: bytes, start_ts: int, for_update_ts: int, *, ttl: int = 3000
    ) -> None:
        self._lock(raw_key, HeldLock("S", primary, start_ts, ttl))

    @_recorded
    def shared_lock(self, raw_key: bytes, payload: bytes = b"\x00") -> None:
        assert raw_key not in self.locks
        self.locks[raw_key] = HeldLock("H")

    @_recorded
    def must_commit(self, raw_key: bytes, start_ts: int, commit_ts: int) -> None:
        lock = self.locks.pop(raw_key)
        assert lock.start_ts == start_ts
        assert lock.kind != "H"
        value = lock.value
        if value is not None and len(value) > SHORT_VALUE_MAX:
            value = None
        kind = "L" if lock.kind == "S" else lock.kind
        self._versions_of(raw_key)[commit_ts] = Version(kind, start_ts, value)

    @_recorded
    def must_rollback(self, raw_key: bytes, start_ts: int, protected: bool = False) -> None:
        lock = self.locks.get(raw_key)
        if lock is not None and lock.kind != "H" and lock.start_ts == start_ts:
            del self.locks[raw_key]
            self.long_values.pop((raw_key, start_ts), None)
        versions = self._versions_of(raw_key)
        committed = versions.get(start_ts)
        if committed is None or committed.kind == "R":
            versions[start_ts] = Version("R", start_ts, b"p" if protected else None)
        elif protected:
            newer = [ts for ts, v in versions.items() if ts > start_ts and v.kind in "PD"]
            versions[start_ts] = replace(
                committed, has_overlapped_rollback=True, gc_fence=min(newer, default=0)
            )

    @_recorded
    def put_raw(self, raw_key: bytes, value: bytes, cf: str = "default") -> None:
        self.raw_pairs[cf, raw_key] = value

    @_recorded
    def write_record(self, raw_key: bytes, commit_ts: int, record: bytes) -> None:
        self._versions_of(raw_key)[commit_ts] = parse_version(record)

    @_recorded
    def default_record(self, raw_key: bytes, start_ts: int, value: bytes) -> None:
        self.long_values[raw_key, start_ts] = value

    def timestamps(self) -> list[int]:
        """Every timestamp that means something here, ascending."""
        found = {ts for versions in self.versions.values() for ts in versions}
        found |= {v.start_ts for versions in self.versions.values() for v in versions.values()}
        found |= {v.gc_fence for versions in self.versions.values() for v in versions.values()}
        for lock in self.locks.values():
            found |= {lock.start_ts, lock.min_commit_ts}
        return sorted(found - {0})

    def expected(
        self, start_ts: int, end_ts: int, start_key: bytes = b"", end_key: bytes = b""
    ) -> Expected:
        """What a backup over (start_ts, end_ts] and [start_key, end_key) holds if nothing blocks.

        KeyError where a long value is missing: the store is corrupt.
        """
        entries: list[Entry] = []
        default_kvs = 0
        for raw_key in sorted(self.versions):
            if not _in_range(raw_key, start_key, end_key):
                continue
            found = self._visible(raw_key, start_ts, end_ts)
            if found is None:
                continue
            commit_ts, version = found
            value = version.short_value or b""
            if version.kind == "P" and version.short_value is None:
                value = self.long_values[raw_key, version.start_ts]
                default_kvs += 1
            if version.kind == "D":
                value = b""
            entries.append((raw_key, commit_ts, version.kind, value))
        return _sum(entries, default_kvs)

    def expected_raw(
        self, cf: str = "default", start_key: bytes = b"", end_key: bytes = b""
    ) -> Expected:
        """What a raw backup holds, API V1: commit_ts is 0, all kinds are P."""
        entries = [
            (raw_key, 0, "P", value)
            for (family, raw_key), value in sorted(self.raw_pairs.items())
            if family == cf and _in_range(raw_key, start_key, end_key)
        ]
        return _sum(entries, 0)

    def blocking_locks(
        self, end_ts: int, start_key: bytes = b"", end_key: bytes = b""
    ) -> list[BlockingLock]:
        """The locks that fail a backup at `end_ts`, in key order."""
        return [
            BlockingLock(raw_key, lock.primary, lock.start_ts, lock.ttl)
            for raw_key, lock in sorted(self.locks.items())
            if _in_range(raw_key, start_key, end_key) and _blocks(raw_key, lock, end_ts)
        ]

    def _visible(self, raw_key: bytes, start_ts: int, end_ts: int) -> tuple[int, Version] | None:
        for commit_ts, version in sorted(self.versions[raw_key].items(), reverse=True):
            if commit_ts > end_ts:
                continue
            if commit_ts <= start_ts:
                return None
            if 0 < version.gc_fence <= end_ts:
                return None
            if version.kind == "P" or (version.kind == "D" and start_ts > 0):
                return commit_ts, version
            if version.kind == "D":
                return None
        return None

    def _versions_of(self, raw_key: bytes) -> dict[int, Version]:
        return self.versions.setdefault(raw_key, {})

    def _lock(self, raw_key: bytes, lock: HeldLock) -> None:
        held = self.locks.get(raw_key)
        assert held is None or (held.kind != "H" and held.start_ts == lock.start_ts)
        self.locks[raw_key] = lock


def _blocks(raw_key: bytes, lock: HeldLock, end_ts: int) -> bool:
    if lock.kind in "LSH" or lock.start_ts > end_ts or lock.min_commit_ts > end_ts:
        return False
    reads_latest = end_ts == MAX_TS and raw_key == lock.primary and not lock.use_async_commit
    return not reads_latest


def _in_range(raw_key: bytes, start_key: bytes, end_key: bytes) -> bool:
    return raw_key >= start_key and (not end_key or raw_key < end_key)


def _sum(entries: list[Entry], default_kvs: int) -> Expected:
    crc64xor = 0
    for raw_key, _commit_ts, _kind, value in entries:
        crc64xor ^= crc64(raw_key + value)
    return Expected(
        kvs=len(entries),
        bytes=sum(len(raw_key) + len(value) for raw_key, _, _, value in entries),
        crc64xor=crc64xor,
        puts=sum(kind == "P" for _, _, kind, _ in entries),
        deletes=sum(kind == "D" for _, _, kind, _ in entries),
        default_kvs=default_kvs,
        entries=entries,
    )


def parse_version(record: bytes) -> Version:
    """What a write record says; an unknown field ends it, a cut one is an IndexError."""
    reader = _Reader(record)
    version = Version(chr(reader.byte()), reader.varint())
    while not reader.at_end():
        field = chr(reader.byte())
        if field == "v":
            version = replace(version, short_value=reader.take(reader.byte()))
        elif field == "R":
            version = replace(version, has_overlapped_rollback=True)
        elif field == "F":
            version = replace(version, gc_fence=int.from_bytes(reader.take(8), "big"))
        elif field == "l":
            reader.take(8)
            reader.varint()
        elif field == "S":
            reader.varint()
        else:
            break
    return version


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._rest = list(reversed(data))

    def at_end(self) -> bool:
        return not self._rest

    def byte(self) -> int:
        return self._rest.pop()

    def take(self, count: int) -> bytes:
        return bytes(self.byte() for _ in range(count))

    def varint(self) -> int:
        byte = self.byte()
        return byte if byte < 0x80 else byte - 0x80 + (self.varint() << 7)
