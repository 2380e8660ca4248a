"""Hypothesis strategies: histories of transactions as a cluster could have run them.

Timestamps only grow; transactions overlap; some end committed, some rolled back, some never.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from bkctl.codec.varint import encode_uvarint
from tests.model import MAX_TS, History

VALUE_SIZES = (0, 1, 254, 255, 256, 1000)
FIRST_TIMESTAMPS = (1, 120, 16_000, 440_000_000_000_000_000)

_AWKWARD = st.sampled_from([b"", b"\x00", b"\xff", b"\x00" * 8, b"\xff" * 8, b"12345678", b"a\x00"])
_PREFIXED_KEYS = st.builds(
    lambda *parts: b"".join(parts)[:40], _AWKWARD, _AWKWARD, st.binary(max_size=3)
)
raw_keys = st.one_of(_PREFIXED_KEYS, st.binary(max_size=40))
"""Raw user keys of 0 to 40 bytes, many of them prefixes of one another."""

values = st.builds(
    lambda size, seed: random.Random(seed).randbytes(size),
    st.sampled_from(VALUE_SIZES),
    st.integers(0, 255),
)
"""Values on both sides of what fits into a write record."""


@dataclass
class _Transaction:
    start_ts: int
    primary: bytes
    pessimistic: set[bytes] = field(default_factory=set)
    prewritten: set[bytes] = field(default_factory=set)


@dataclass
class _Cluster:
    """Draws one legal step after another into `history`."""

    draw: st.DrawFn
    keys: list[bytes]
    clock: int
    history: History = field(default_factory=History)
    running: list[_Transaction] = field(default_factory=list)
    odd: set[tuple[bytes, int]] = field(default_factory=set)

    def step(self) -> None:
        steps: list[Callable[[], None]] = [
            self.prewrite,
            self.prewrite,
            self.finish,
            self.finish,
            self.lock_pessimistic,
            self.leave_shared_lock,
            self.roll_back_unknown,
            self.overlap_rollback,
            self.write_odd_record,
        ]
        self.draw(st.sampled_from(steps))()

    def tick(self) -> int:
        self.clock += self.draw(st.sampled_from([1, 1, 2, 200]))
        return self.clock

    def transaction(self, key: bytes) -> _Transaction | None:
        """One that may lock this key: a new one, or one that already runs."""
        held = [txn for txn in self.running if key in txn.pessimistic]
        if held:
            return held[0]
        if key in self.history.locks:
            return None
        # One that already runs may have begun before the key's last commit, but ends after it.
        joins_running = self.draw(st.booleans())
        if self.running and joins_running:
            return self.draw(st.sampled_from(self.running))
        self.running.append(_Transaction(self.tick(), key))
        return self.running[-1]

    def prewrite(self) -> None:
        key = self.draw(st.sampled_from(self.keys))
        txn = self.transaction(key)
        if txn is None:
            return
        kind = self.draw(st.sampled_from("PPPDL"))
        if kind == "P":
            self.prewrite_put(key, txn)
        elif kind == "D":
            self.history.must_prewrite_delete(key, txn.primary, txn.start_ts, ttl=5)
        else:
            self.history.must_prewrite_lock(key, txn.primary, txn.start_ts)
        txn.pessimistic.discard(key)
        txn.prewritten.add(key)

    def prewrite_put(self, key: bytes, txn: _Transaction) -> None:
        is_async = self.draw(st.booleans())
        secondaries = sorted(txn.prewritten) if is_async and key == txn.primary else []
        self.history.must_prewrite_put(
            key,
            self.draw(values),
            txn.primary,
            txn.start_ts,
            ttl=self.draw(st.sampled_from([0, 3000, 1 << 40])),
            min_commit_ts=self.clock + 1 if is_async or self.draw(st.booleans()) else 0,
            use_async_commit=is_async,
            secondaries=secondaries,
            txn_size=self.draw(st.integers(0, 3)),
            for_update_ts=txn.start_ts if key in txn.pessimistic else 0,
        )

    def lock_pessimistic(self) -> None:
        key = self.draw(st.sampled_from(self.keys))
        txn = self.transaction(key)
        if txn is not None and key not in txn.pessimistic:
            self.history.must_acquire_pessimistic_lock(key, txn.primary, txn.start_ts, self.clock)
            txn.pessimistic.add(key)

    def leave_shared_lock(self) -> None:
        key = self.draw(st.sampled_from(self.keys))
        if key not in self.history.locks:
            self.history.shared_lock(key, self.draw(st.binary(max_size=3)))

    def finish(self) -> None:
        """Commit or roll back a transaction, perhaps with a key left locked behind it."""
        if not self.running:
            return
        txn = self.draw(st.sampled_from(self.running))
        self.running.remove(txn)
        is_committed = self.draw(st.booleans()) or self.draw(st.booleans())
        is_whole = self.draw(st.booleans())
        commit_ts = self.tick()
        for key in sorted(txn.prewritten | txn.pessimistic):
            if not is_whole and key != txn.primary:
                continue
            if is_committed and key in txn.prewritten:
                self.history.must_commit(key, txn.start_ts, commit_ts)
            else:
                self.history.must_rollback(key, txn.start_ts, self.draw(st.booleans()))

    def roll_back_unknown(self) -> None:
        """A transaction of which nothing was ever seen."""
        key = self.draw(st.sampled_from(self.keys))
        self.history.must_rollback(key, self.tick(), self.draw(st.booleans()))

    def overlap_rollback(self) -> None:
        """A rollback at the very timestamp of another transaction's commit, once a version."""
        committed = [
            (key, ts)
            for key, versions in sorted(self.history.versions.items())
            for ts, version in sorted(versions.items())
            if version.kind != "R" and not version.has_overlapped_rollback
            if (key, ts) not in self.odd
        ]
        if committed:
            key, ts = self.draw(st.sampled_from(committed))
            self.history.must_rollback(key, ts, protected=True)

    def write_odd_record(self) -> None:
        """A record with GC fence, optional fields and, at its end, those of a newer TiKV."""
        key = self.draw(st.sampled_from(self.keys))
        start_ts, commit_ts = self.tick(), self.tick()
        kind = self.draw(st.sampled_from([b"P", b"P", b"D", b"L", b"R"]))
        record = kind + encode_uvarint(commit_ts if kind == b"R" else start_ts)
        if kind == b"P":
            value = self.draw(values)
            if len(value) <= 255:
                record += b"v" + bytes([len(value)]) + value
            else:
                self.history.default_record(key, start_ts, value)
        fence = self.draw(st.sampled_from([0, start_ts, commit_ts + 1, commit_ts + 9, MAX_TS]))
        for optional in (
            b"R",
            b"F" + fence.to_bytes(8, "big"),
            b"l" + start_ts.to_bytes(8, "big") + encode_uvarint(300),
            b"S" + encode_uvarint(200),
            b"?" + self.draw(st.binary(max_size=4)),
        ):
            if self.draw(st.booleans()):
                record += optional
        self.history.write_record(key, commit_ts, record)
        self.odd.add((key, commit_ts))


@st.composite
def histories(draw: st.DrawFn, max_keys: int = 5, max_steps: int = 25) -> History:
    """A legal sequence of operations and what it leaves."""
    keys = draw(st.lists(raw_keys, min_size=1, max_size=max_keys, unique=True))
    cluster = _Cluster(draw, keys, draw(st.sampled_from(FIRST_TIMESTAMPS)))
    for _ in range(draw(st.integers(1, max_steps))):
        cluster.step()
    return cluster.history


@st.composite
def windows(draw: st.DrawFn, history: History) -> tuple[int, int]:
    """(start_ts, end_ts) at, just below or just above what happened; start_ts 0 makes it full."""
    near = {ts + delta for ts in history.timestamps() for delta in (-1, 0, 1)}
    moments = sorted(ts for ts in near if 0 < ts <= MAX_TS) or [1]
    end_ts = draw(st.sampled_from([*moments, MAX_TS]))
    return draw(st.sampled_from([0, *(ts for ts in moments if ts <= end_ts)])), end_ts
