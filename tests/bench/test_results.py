from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from bkctl.bench.chart import draw
from bkctl.bench.results import Findings, Result, Run, StoreFacts, parse_findings
from bkctl.bench.table import BEGIN, END, markdown, parts, put_into
from bkctl.errors import UsageError


def result(tool: str, times: list[float], **changes: Any) -> Result:
    values: dict[str, Any] = {
        "store": "short values",
        "backup": "full",
        "codec": "zstd",
        "jobs": 1,
        "kvs": 1000,
        "plain_bytes": 4_000_000,
        "size": 100,
        "runs": tuple(Run(time, time + 1, time * 2, 5 << 20) for time in times),
    }
    return Result(tool=tool, **(values | changes))


def without_own_time(times: list[float]) -> tuple[Run, ...]:
    return tuple(Run(None, time, time, 1 << 20) for time in times)


FINDINGS = Findings(
    bkctl="1.2.3",
    started_at="2026-11-23T10:15:00Z",
    machine={"system": "Linux", "processor": "A <fast> one & more", "cores": 2, "memory": 1 << 30},
    runs=3,
    peers={"refscan": "", "tar": "tar 1"},
    notes=("ldb is not on this machine",),
    stores=(StoreFacts("short values", 1000, 3, 1 << 20),),
    results=(
        result("bkctl", [2.0, 1.0, 4.0]),
        result("bkctl", [1.0, 1.0, 1.0], backup="incremental"),
        result("refscan", [1.0, 2.0, 1.5]),
        result("refscan", [1.0, 2.0, 1.5], jobs=2),
        result("refscan", [1.0, 2.0, 1.5], codec="lz4"),
        result("tar", [], codec=None, kvs=None, runs=without_own_time([6.0, 6.0, 6.0])),
    ),
)


def test_ratios_are_of_medians_with_the_spread_of_rounds() -> None:
    ours = FINDINGS.results[0]
    refscan, tar = FINDINGS.ratios(ours)
    assert refscan.peer == "refscan"
    assert refscan.seconds is not None
    assert (refscan.seconds.median, refscan.seconds.min, refscan.seconds.max) == (0.75, 0.375, 2.0)
    assert refscan.wall.median == 2.5 / 3.0
    assert (tar.peer, tar.seconds, tar.wall.median) == ("tar", None, 2.0)


def test_a_peer_is_compared_with_what_did_the_same() -> None:
    assert FINDINGS.ratios(FINDINGS.results[1]) == []
    assert FINDINGS.ratios(FINDINGS.results[2]) == []


def test_json_and_back() -> None:
    document = json.loads(json.dumps(FINDINGS.to_json_dict()))
    assert parse_findings(document) == FINDINGS
    first = document["results"][0]
    assert first["seconds"] == {"median": 2.0, "min": 1.0, "max": 4.0, "runs": [2.0, 1.0, 4.0]}
    assert first["kvs_per_second"] == 500.0
    assert first["bytes_per_second"] == 2_000_000.0
    assert first["ratios"]["refscan"]["seconds"] == {"median": 0.75, "min": 0.375, "max": 2.0}
    assert document["results"][-1]["seconds"] is None


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda top: top.pop("runs"),
        lambda top: top.update(results={}),
        lambda top: top.update(machine=[]),
        lambda top: top["stores"].append(1),
        lambda top: top["results"][0].update(backup="half"),
        lambda top: top["results"][0].update(jobs="1"),
        lambda top: top["results"][0].update(peaks=[1, 2]),
        lambda top: top["results"][0].update(peaks=[]),
        lambda top: top["results"][0].pop("wall"),
        lambda top: top["results"][0]["wall"].update(runs=[1, 0, 1]),
        lambda top: top["results"][0]["wall"].update(runs=[1, "2", 1]),
    ],
)
def test_what_is_no_result_is_refused(damage: Damage) -> None:
    document = copy.deepcopy(json.loads(json.dumps(FINDINGS.to_json_dict())))
    damage(document)
    with pytest.raises(UsageError):
        parse_findings(document)


@pytest.mark.parametrize("document", [None, [], 1, "x"])
def test_another_document_is_refused(document: object) -> None:
    with pytest.raises(UsageError):
        parse_findings(document)


def test_the_chart_is_well_formed_and_names_what_it_shows() -> None:
    root = ElementTree.fromstring(draw(FINDINGS))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for label in ("short values, zstd", "short values, lz4", "bkctl x1", "refscan x2", "2.0"):
        assert label in texts
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(bars) == 1 + 5  # the ground, and one for each full backup


def test_a_chart_of_nothing() -> None:
    empty = Findings("1", "2026", {}, 1, {}, (), (), ())
    ElementTree.fromstring(draw(empty))


def test_tables_go_between_the_marks_of_a_page() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n"
    once = put_into(page, FINDINGS)
    assert once.startswith(f"# Title\n\n{BEGIN}\n")
    assert once.endswith(f"{END}\nrest\n")
    assert "old" not in once
    assert "| bkctl" in once
    assert put_into(once, FINDINGS) == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}\n"])
def test_a_page_without_both_marks_has_no_place(page: str) -> None:
    assert parts(page) is None


def test_markdown_has_rows_of_one_width_and_every_note() -> None:
    text = markdown(FINDINGS)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "- ldb is not on this machine" in text
    assert "0.75 (0.38-2.00)" in text
