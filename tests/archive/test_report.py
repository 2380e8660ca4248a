from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.archive.report import KeyRange, RangeCounts, RangeError, Report
from bkctl.errors import CorruptionError
from bkctl.regions.region_map import Skipped

U64 = st.integers(0, 2**64 - 1)
KEY = st.binary(max_size=30)
LINE = st.text(st.characters(codec="utf-8"))
REPORTS = st.builds(
    Report,
    name=LINE,
    status=st.sampled_from(["ok", "partial", "failed", "cancelled"]),
    mode=st.sampled_from(["txn", "raw"]),
    start_ts=U64,
    end_ts=U64,
    store_id=U64,
    cluster_id=U64,
    ranges=st.builds(RangeCounts, U64, U64, U64, U64),
    files=U64,
    total_kvs=U64,
    total_bytes=U64,
    crc64xor=U64,
    size=U64,
    seconds=st.floats(0, 1e9),
    errors=st.lists(st.builds(RangeError, U64, KEY, KEY, LINE, LINE)).map(tuple),
    skipped=st.lists(st.builds(Skipped, U64, LINE)).map(tuple),
    gaps=st.lists(st.builds(KeyRange, KEY, KEY)).map(tuple),
    storage=LINE,
    started_at=st.integers(0, 10**10).map(float),
    codec=LINE,
    merged_from=st.lists(LINE).map(tuple),
)

REPORT = Report(
    name="n",
    status="partial",
    mode="txn",
    start_ts=1,
    end_ts=2**64 - 1,
    store_id=3,
    cluster_id=4,
    ranges=RangeCounts(5, 4, 1, 2),
    files=6,
    total_kvs=7,
    total_bytes=8,
    crc64xor=0xAB,
    size=9,
    seconds=1.5,
    errors=(RangeError(2, b"\xab", b"", "key_is_locked", "key is locked"),),
    skipped=(Skipped(8, "leader is on store 4"),),
    gaps=(KeyRange(b"a", b"z"),),
    storage="local:///x",
    started_at=1_795_428_900.25,
    codec="zstd",
)


def test_the_document_has_the_promised_fields() -> None:
    assert json.loads(REPORT.to_json()) == {
        "name": "n",
        "status": "partial",
        "mode": "txn",
        "start_ts": 1,
        "end_ts": 2**64 - 1,
        "store_id": 3,
        "cluster_id": 4,
        "ranges": {"total": 5, "done": 4, "failed": 1, "skipped": 2},
        "files": 6,
        "total_kvs": 7,
        "total_bytes": 8,
        "crc64xor": "00000000000000ab",
        "size": 9,
        "seconds": 1.5,
        "errors": [
            {
                "region_id": 2,
                "start_key": "AB",
                "end_key": "",
                "kind": "key_is_locked",
                "message": "key is locked",
            }
        ],
        "skipped": [{"region_id": 8, "reason": "leader is on store 4"}],
        "gaps": [{"start_key": "61", "end_key": "7A"}],
        "storage": "local:///x",
        "started_at": "2026-11-23T10:15:00.250Z",
        "codec": "zstd",
        "resumed": 0,
        "base": "",
        "decided_locks": [],
    }


def test_a_time_that_is_not_known_is_left_empty() -> None:
    assert Report.from_json(REPORT.to_json(), "x").started_at == REPORT.started_at
    document = REPORT.to_json_dict()
    document["started_at"] = ""
    assert Report.from_json(json.dumps(document).encode(), "x").started_at == 0


@given(REPORTS)
def test_what_is_written_is_read_back(report: Report) -> None:
    assert Report.from_json(report.to_json(), "x") == report


def test_unknown_fields_are_skipped_and_optional_ones_may_miss() -> None:
    document = REPORT.to_json_dict()
    document["new"] = {"a": [1]}
    for name in ("skipped", "gaps", "storage", "started_at", "codec"):
        del document[name]
    report = Report.from_json(json.dumps(document).encode(), "x")
    assert (report.name, report.errors, report.gaps) == ("n", REPORT.errors, ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("status", "fine"),
        ("mode", None),
        ("start_ts", -1),
        ("end_ts", 2**64),
        ("files", True),
        ("files", 1.5),
        ("crc64xor", "ab"),
        ("crc64xor", "zz" * 8),
        ("seconds", "1"),
        ("seconds", float("inf")),
        ("seconds", 10**400),
        ("ranges", []),
        ("ranges", {"total": 1}),
        ("errors", {}),
        ("errors", [1]),
        ("gaps", [{"start_key": "a", "end_key": ""}]),
        ("started_at", "yesterday"),
    ],
)
def test_a_field_of_another_kind_is_corruption_that_names_it(field: str, value: object) -> None:
    document = REPORT.to_json_dict()
    document[field] = value
    with pytest.raises(CorruptionError, match=rf"here.*(field {field}|start_key|total)"):
        Report.from_json(json.dumps(document).encode(), "here")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b'{"seconds": ' + b"9" * 9999 + b"}"]
)
def test_what_is_no_report_is_corruption(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="x: "):
        Report.from_json(data, "x")
