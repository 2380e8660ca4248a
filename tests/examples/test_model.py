"""The reference model: the snapshot and lock rules, and the shared stores' oracles."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.examples.stores import history_of
from tests.histories import histories, windows
from tests.model import MAX_TS, BlockingLock, History, Version, crc64, parse_version
from tests.oracles import read_oracle, require_shared


def committed(*versions: tuple[int, int, bytes | None]) -> History:
    """Key `k` with versions (start_ts, commit_ts, value); None deletes."""
    history = History()
    for start_ts, commit_ts, value in versions:
        if value is None:
            history.must_prewrite_delete(b"k", b"k", start_ts)
        else:
            history.must_prewrite_put(b"k", value, b"k", start_ts)
        history.must_commit(b"k", start_ts, commit_ts)
    return history


def values(history: History, start_ts: int, end_ts: int) -> list[tuple[int, str, bytes]]:
    return [entry[1:] for entry in history.expected(start_ts, end_ts).entries]


def test_the_checksum_has_its_published_check_value() -> None:
    assert crc64(b"123456789") == 0x995DC9BBDF1939FA


def test_the_newest_version_at_the_end_timestamp_is_visible() -> None:
    history = committed((1, 2, b"old"), (3, 4, b"new"), (5, 6, b"later"))
    assert values(history, 0, 1) == []
    assert values(history, 0, 2) == [(2, "P", b"old")]
    assert values(history, 0, 5) == [(4, "P", b"new")]
    assert values(history, 4, 5) == []
    assert values(history, 3, 5) == [(4, "P", b"new")]


def test_a_delete_shows_in_an_incremental_backup_only() -> None:
    history = committed((1, 2, b"old"), (3, 4, None))
    assert values(history, 0, 9) == []
    assert values(history, 2, 9) == [(4, "D", b"")]


def test_locks_and_rollbacks_uncover_the_version_below() -> None:
    history = committed((1, 2, b"value"))
    history.must_prewrite_lock(b"k", b"k", 3)
    history.must_commit(b"k", 3, 4)
    history.must_rollback(b"k", 5, protected=True)
    assert values(history, 0, 9) == [(2, "P", b"value")]
    assert values(history, 2, 9) == []


@pytest.mark.parametrize(("fence", "is_visible"), [(0, True), (9, False), (10, True)])
def test_a_gc_fence_at_or_below_the_end_hides_the_key(fence: int, is_visible: bool) -> None:
    history = committed((1, 2, b"below"))
    history.write_record(b"k", 5, b"P\x04v\x01xRF" + fence.to_bytes(8, "big"))
    assert values(history, 0, 9) == ([(5, "P", b"x")] if is_visible else [])


def test_an_overlapped_rollback_fences_at_the_next_newer_version() -> None:
    history = committed((1, 2, b"a"), (3, 6, b"b"))
    history.must_rollback(b"k", 2, protected=True)
    history.must_rollback(b"k", 6, protected=True)
    assert history.versions[b"k"] == {
        2: Version("P", 1, b"a", has_overlapped_rollback=True, gc_fence=6),
        6: Version("P", 3, b"b", has_overlapped_rollback=True, gc_fence=0),
    }
    assert values(history, 0, 5) == [(2, "P", b"a")]
    assert values(history, 0, 6) == [(6, "P", b"b")]


def test_counts_follow_the_accounting_rule() -> None:
    history = committed((1, 2, b"x" * 256))
    history.must_prewrite_put(b"long", b"", b"long", 3)
    history.must_commit(b"long", 3, 4)
    expected = history.expected(0, 9)
    assert (expected.kvs, expected.bytes, expected.puts) == (2, 257 + 4, 2)
    assert (expected.deletes, expected.default_kvs) == (0, 1)
    assert expected.crc64xor == crc64(b"k" + b"x" * 256) ^ crc64(b"long")


def test_a_missing_long_value_is_no_empty_one() -> None:
    history = History()
    history.write_record(b"k", 5, b"P\x04")
    with pytest.raises(KeyError):
        history.expected(0, 9)


def test_unknown_fields_end_a_record() -> None:
    fields = b"l" + bytes(8) + b"\xac\x02" + b"S\xac\x02" + b"?RF"
    assert parse_version(b"D\xac\x02" + fields) == Version("D", 300)


@pytest.mark.parametrize(
    ("end_ts", "options", "is_blocked"),
    [
        (4, {}, False),
        (5, {}, True),
        (9, {"min_commit_ts": 10}, False),
        (10, {"min_commit_ts": 10}, True),
        (MAX_TS, {}, False),
        (MAX_TS, {"use_async_commit": True}, True),
        (MAX_TS, {"primary": b"other"}, True),
    ],
)
def test_which_puts_block(end_ts: int, options: dict[str, object], is_blocked: bool) -> None:
    history = History()
    arguments = {"primary": b"k", **options}
    History.must_prewrite_put(history, b"k", b"v", start_ts=5, ttl=7, **arguments)  # type: ignore[arg-type]
    primary = arguments["primary"]
    assert isinstance(primary, bytes)
    blocking = [BlockingLock(b"k", primary, 5, 7)] if is_blocked else []
    assert history.blocking_locks(end_ts) == blocking


def test_locks_without_a_value_never_block() -> None:
    history = History()
    history.must_prewrite_lock(b"a", b"a", 1)
    history.must_acquire_pessimistic_lock(b"b", b"b", 1, 1)
    history.shared_lock(b"c")
    history.must_prewrite_delete(b"d", b"a", 1)
    assert [lock.raw_key for lock in history.blocking_locks(9)] == [b"d"]
    assert history.blocking_locks(9, b"a", b"d") == []


def test_raw_pairs_are_counted_by_family() -> None:
    history = History()
    history.put_raw(b"a", b"1")
    history.put_raw(b"b", b"22")
    history.put_raw(b"b", b"333", cf="write")
    assert history.expected_raw(start_key=b"b").entries == [(b"b", 0, "P", b"22")]
    assert history.expected_raw("write").bytes == 4


@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_the_model_agrees_with_the_shared_oracles(name: str) -> None:
    stores: Path = require_shared() / "stores"
    history = history_of(stores / name)
    for line in read_oracle(stores / f"{name}.oracle"):
        expected = history.expected(line.start_ts, line.end_ts)
        assert (expected.kvs, expected.bytes, expected.crc64xor) == (
            line.kvs,
            line.bytes,
            line.crc64xor,
        )
        assert (expected.puts, expected.deletes) == (line.puts, line.deletes)
        assert expected.default_kvs == line.default_kvs


@given(histories(), st.data())
def test_a_chain_of_two_backups_gives_what_a_full_one_does(
    history: History, data: st.DataObject
) -> None:
    start_ts, end_ts = data.draw(windows(history))
    fences = {v.gc_fence for versions in history.versions.values() for v in versions.values()}
    # A fence that took effect stands for a version collected since: no chain can tell.
    assume(start_ts > 0 and not any(0 < fence <= end_ts for fence in fences))
    state = {key: value for key, _, _, value in history.expected(0, start_ts).entries}
    for key, _commit_ts, kind, value in history.expected(start_ts, end_ts).entries:
        if kind == "P":
            state[key] = value
        else:
            state.pop(key, None)
    assert state == {key: value for key, _, _, value in history.expected(0, end_ts).entries}


@given(histories())
def test_a_replayed_history_is_the_same(history: History) -> None:
    other = History()
    history.replay(other)
    assert other.operations == history.operations
    assert (other.versions, other.locks) == (history.versions, history.locks)
    assert other.long_values == history.long_values
