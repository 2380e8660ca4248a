import contextlib
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.codec import tso
from bkctl.codec.tso import MAX_TSO, compose, format_ts, parse_timestamp, to_datetime
from bkctl.errors import UsageError

NOW_MS = 1_763_862_459_123


@given(st.integers(0, (1 << 46) - 1), st.integers(0, (1 << 18) - 1))
def test_a_tso_holds_milliseconds_and_a_counter(physical_ms: int, logical: int) -> None:
    ts = compose(physical_ms, logical)
    assert ts == physical_ms << 18 | logical
    assert (tso.physical_ms(ts), tso.logical(ts)) == (physical_ms, logical)


@pytest.mark.parametrize(("physical_ms", "logical"), [(-1, 0), (1 << 46, 0), (0, -1), (0, 1 << 18)])
def test_parts_that_do_not_fit_are_refused(physical_ms: int, logical: int) -> None:
    with pytest.raises(UsageError):
        compose(physical_ms, logical)


def test_a_tso_is_shown_as_utc_time() -> None:
    ts = compose(1_633_919_546_277)
    assert to_datetime(ts) == datetime(2021, 10, 11, 2, 32, 26, 277_000, tzinfo=timezone.utc)
    assert format_ts(ts) == "2021-10-11T02:32:26.277Z"
    assert format_ts(ts + 5) == "2021-10-11T02:32:26.277Z, logical 5"


@given(st.integers(0, MAX_TSO))
def test_every_tso_has_a_text_whose_time_reads_back(ts: int) -> None:
    time_text = format_ts(ts).split(",")[0]
    assert parse_timestamp(time_text) == ts - tso.logical(ts)


@given(st.integers(0, MAX_TSO))
def test_an_integer_is_a_tso(ts: int) -> None:
    assert parse_timestamp(str(ts)) == ts


@pytest.mark.parametrize(
    ("text", "physical_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2021-10-11T02:32:26.277Z", 1_633_919_546_277),
        ("2021-10-11t02:32:26.277z", 1_633_919_546_277),
        ("2021-10-11 02:32:26Z", 1_633_919_546_000),
        ("2021-10-11T02:32:26.2Z", 1_633_919_546_200),
        ("2021-10-11T02:32:26.2779999Z", 1_633_919_546_277),
        ("2021-10-11T04:32:26.277+02:00", 1_633_919_546_277),
        ("2021-10-10T21:02:26.277-05:30", 1_633_919_546_277),
        (" 2021-10-11T02:32:26Z\n", 1_633_919_546_000),
        ("now", NOW_MS),
        ("NOW", NOW_MS),
        ("-15s", NOW_MS - 15_000),
        ("-15m", NOW_MS - 900_000),
        ("-2h", NOW_MS - 7_200_000),
        ("-1d", NOW_MS - 86_400_000),
        ("-1w", NOW_MS - 604_800_000),
        ("-0s", NOW_MS),
    ],
)
def test_a_time_means_its_millisecond_with_logical_zero(text: str, physical_ms: int) -> None:
    assert parse_timestamp(text, now_ms=NOW_MS) == physical_ms << 18


def test_now_is_the_clock() -> None:
    before = time.time_ns() // 1_000_000
    ts = parse_timestamp("now")
    assert before <= tso.physical_ms(ts) <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("text", ["2021-10-11T02:32:26", "2021-10-11 02:32:26.277", "2021-10-11"])
def test_a_time_without_zone_is_refused_with_advice(text: str) -> None:
    with pytest.raises(UsageError, match=r"2021-10-11T\d\d:\d\d:\d\dZ or with an offset"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "-15",
        "-m",
        "15m",
        "-15y",
        "-1.5h",
        "- 15m",
        "+15m",
        "1_000",
        "0x10",
        "1e3",
        "-1",
        "\u0661\u0662",
        "-\u0661m",
        "\ud800",
        str(MAX_TSO + 1),
        "9" * 5000,
        "-9999999999w",
        "-" + "9" * 5000 + "w",
        "2021-13-01T00:00:00Z",
        "2021-02-29T00:00:00Z",
        "2021-10-11T24:00:00Z",
        "2021-10-11T02:32:61Z",
        "2021-10-11T02:32Z",
        "2021-10-11T02:32:26+24:00",
        "2021-10-11T02:32:26+02:60",
        "2021-10-11T02:32:26+0200",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+00:01",
        "4200-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_anything_else_is_one_line_of_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_timestamp(text, now_ms=NOW_MS)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@given(st.text())
def test_no_text_gives_anything_but_a_tso_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 <= parse_timestamp(text, now_ms=NOW_MS) <= MAX_TSO


def test_a_clock_beyond_the_range_of_a_tso_is_refused() -> None:
    with pytest.raises(UsageError):
        parse_timestamp("now", now_ms=1 << 60)
