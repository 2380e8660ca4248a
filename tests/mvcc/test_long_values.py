"""Few long values among many are looked up one by one, and are the same that a scan finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import CorruptionError
from bkctl.mvcc import long_values
from bkctl.store import column_scan
from bkctl.store.column_scan import ColumnScan
from bkctl.store.source import Source, SourceOptions
from examples.tikv_store import TikvStore
from tests.model import History
from tests.mvcc.test_scan import scan
from tests.oracles import read_oracle, require_shared


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each lookup was answered; they begin with the second chunk, which comes soon."""
    told: list[bool] = []
    lookup = ColumnScan.lookup

    def noted(self: ColumnScan, *args: object) -> object:
        values = lookup(self, *args)  # type: ignore[arg-type]
        told.append(values is not None)
        return values

    monkeypatch.setattr(ColumnScan, "lookup", noted)
    monkeypatch.setattr(column_scan, "SCAN_CHUNK", 1)
    monkeypatch.setattr(long_values, "_SAMPLE", 0)
    return told


@pytest.mark.parametrize("few", [0, 4])
@pytest.mark.parametrize("store", ["mvcc-long", "mvcc-short"])
def test_windows_are_exact(
    store: str, few: int, answers: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_values, "_FEW", few)
    path = require_shared() / "stores" / store
    with Source(SourceOptions(path)) as source:
        for line in read_oracle(path.parent / f"{store}.oracle"):
            _, accounting, default_kvs = scan(source, line.start_ts, line.end_ts)
            assert (accounting.total_kvs, accounting.total_bytes, accounting.crc64xor) == (
                line.kvs,
                line.bytes,
                line.crc64xor,
            )
            assert default_kvs == line.default_kvs
    if store == "mvcc-long":
        assert all(answers)
        assert answers or few


def changed_here_and_there() -> History:
    history = History()
    for i in range(2000):
        key = b"k%05d" % i
        history.must_prewrite_put(key, b"old" * 100, key, 10)
        history.must_commit(key, 10, 11)
    for i in range(0, 2000, 50):
        key = b"k%05d" % i
        history.must_prewrite_put(key, b"%05d" % i * 100, key, 20)
        history.must_commit(key, 20, 21)
    return history


def test_a_window_with_few_of_the_values_is_exact(answers: list[bool], tmp_path: Path) -> None:
    history = changed_here_and_there()
    with TikvStore(tmp_path / "store") as tikv:
        history.replay(tikv)
    expected = history.expected(15, 30)
    with Source(SourceOptions(tmp_path / "store")) as source:
        _, accounting, default_kvs = scan(source, 15, 30)
    assert answers
    assert all(answers)
    assert default_kvs == expected.default_kvs == 40
    assert (accounting.total_bytes, accounting.crc64xor) == (expected.bytes, expected.crc64xor)


def test_a_missing_value_is_corruption_that_names_its_key(
    answers: list[bool], tmp_path: Path
) -> None:
    with TikvStore(tmp_path / "store") as tikv:
        changed_here_and_there().replay(tikv)
        tikv.write_record(b"k01234", 25, b"P\x18")
    with (
        Source(SourceOptions(tmp_path / "store")) as source,
        pytest.raises(CorruptionError, match=r"6B30313233.*missing from the default family"),
    ):
        scan(source, 15, 30)
    assert answers[-1] is False
