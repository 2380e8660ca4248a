import time

import pytest

from bkctl.codec.tso import compose, physical_ms
from tests.commands.console import bkctl

TS = 440000000000500000
LINE = "440000000000500000  2023-03-10T16:46:36.876Z  1678466796876 ms  logical 237856\n"


def test_a_tso_is_shown_with_its_time() -> None:
    outcome = bkctl("tso", TS)
    assert (outcome.code, outcome.stdout) == (0, LINE)


def test_a_time_is_shown_with_its_tso() -> None:
    outcome = bkctl("tso", "2023-03-10T17:46:36.876+01:00")
    assert outcome.stdout.split()[:2] == [
        str(compose(1678466796876)),
        "2023-03-10T16:46:36.876Z",
    ]


def test_json_is_one_list_of_all_values() -> None:
    outcome = bkctl("tso", "--json", TS, "2023-03-10T16:46:36Z")
    assert outcome.document == [
        {
            "value": str(TS),
            "tso": TS,
            "time": "2023-03-10T16:46:36.876Z",
            "physical_ms": 1678466796876,
            "logical": 237856,
        },
        {
            "value": "2023-03-10T16:46:36Z",
            "tso": compose(1678466796000),
            "time": "2023-03-10T16:46:36.000Z",
            "physical_ms": 1678466796000,
            "logical": 0,
        },
    ]


@pytest.mark.parametrize(
    ("values", "ago_ms"),
    [([], 0), (["-"], 0), (["now"], 0), (["-15m"], 900_000), (["-2h"], 7_200_000)],
)
def test_now_and_times_ago_count_from_the_clock(values: list[str], ago_ms: int) -> None:
    before = time.time_ns() // 1_000_000
    (converted,) = bkctl("tso", "--json", *values).document
    after = time.time_ns() // 1_000_000
    assert before <= physical_ms(converted["tso"]) + ago_ms <= after


@pytest.mark.parametrize("value", ["yesterday", "--bogus", "18446744073709551616", ""])
def test_what_is_no_timestamp_is_refused(value: str) -> None:
    outcome = bkctl("tso", value)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("bkctl: ")
    assert outcome.stderr.count("\n") == 1


def test_the_largest_tso_has_a_time() -> None:
    assert bkctl("tso", (1 << 64) - 1).stdout.split()[1].startswith("4199-")
