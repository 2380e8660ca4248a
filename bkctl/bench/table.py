"""A benchmark's findings as tables: for a terminal, and in Markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence

from bkctl.bench.results import FULL, INCREMENTAL, READ_ALL, Findings, Ratio, Result, StoreFacts
from bkctl.ui.human import format_count, format_size
from bkctl.ui.output import Page

_LEFT = ("tool", "backup", "codec")
_MIB = 1 << 20
_BACKUPS = {FULL: "full", INCREMENTAL: "incremental", READ_ALL: "read all"}
_LEGEND = (
    "MiB: memory of the largest process. /peer: bkctl's speed over the peer's. "
    "*: from the program's start to its end."
)
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def print_findings(page: Page, findings: Findings) -> None:
    """Print a table for each store, and what was left out."""
    for line in _about(findings):
        page.line(line)
    for store in findings.stores:
        page.line("")
        page.line(page.bold(_title(store)))
        head, *rows = _rows(findings, store)
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [
                cell.ljust(width) if name in _LEFT else cell.rjust(width)
                for name, cell, width in zip(head, row, widths, strict=True)
            ]
            page.line("  ".join(cells))
    if findings.notes:
        page.line("")
    for note in findings.notes:
        page.line(f"note: {note}")


def markdown(findings: Findings) -> str:
    """The same in Markdown."""
    lines = [*_about(findings)]
    for store in findings.stores:
        head, *rows = _rows(findings, store)
        rules = ["---" if name in _LEFT else "---:" for name in head]
        lines += ["", f"### {_title(store)}", ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)]
    if findings.notes:
        lines += ["", *(f"- {note}" for note in findings.notes)]
    return "\n".join(lines) + "\n"


def parts(text: str) -> tuple[str, str] | None:
    """What stands before and after the tables in a page, the marks with it; None without marks."""
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    return (before + begin, end + after) if begin and end else None


def put_into(text: str, findings: Findings) -> str:
    """A page's text with the tables between its two marks; as it is where it has not both."""
    found = parts(text)
    return f"{found[0]}\n{markdown(findings)}\n{found[1]}" if found else text


def _about(findings: Findings) -> list[str]:
    machine = findings.machine
    memory = machine.get("memory")
    size = f", {format_size(memory)}" if isinstance(memory, int) else ""
    peers = [f"{name} ({version})" if version else name for name, version in findings.peers.items()]
    return [
        f"bkctl {findings.bkctl}, {findings.started_at}; {machine.get('processor')}, "
        f"{machine.get('cores')} cores{size}, {machine.get('system')}, "
        f"Python {machine.get('python')}.",
        f"Peers: {', '.join(peers) or 'none'}. Medians of {format_count(findings.runs, 'run')}.",
        _LEGEND,
    ]


def _title(store: StoreFacts) -> str:
    rows = "" if store.rows is None else f"{format_count(store.rows, 'row')}, "
    return f"{store.name}: {rows}{format_size(store.size)} in {format_count(store.files, 'file')}"


def _rows(findings: Findings, store: StoreFacts) -> list[list[str]]:
    """The table of a store, its head first; without columns that say nothing."""
    results = findings.of(store)
    ratios = {id(result): findings.ratios(result) for result in results}
    peers = list(dict.fromkeys(ratio.peer for each in ratios.values() for ratio in each))
    columns = [_columns(result, ratios[id(result)], peers) for result in results]
    names = [name for name in (columns[0] if columns else {}) if any(row[name] for row in columns)]
    return [names, *([row[name] for name in names] for row in columns)]


def _columns(result: Result, ratios: Sequence[Ratio], peers: Sequence[str]) -> dict[str, str]:
    working = result.working
    row = {
        "tool": result.tool,
        "backup": _BACKUPS[result.backup],
        "codec": result.codec or "",
        "jobs": str(result.jobs),
        "seconds": "" if result.seconds is None else f"{result.seconds.median:.2f}",
        "min-max": f"{working.min:.2f}-{working.max:.2f}",
        "whole*": f"{result.wall.median:.2f}",
        "records/s": "" if result.kvs is None else format_count(round(result.kvs / working.median)),
        "MB/s": f"{result.plain_bytes / working.median / 1e6:.1f}",
        "MiB": f"{result.peak / _MIB:.0f}",
    }
    by_peer = {ratio.peer: ratio for ratio in ratios}
    for peer in peers:
        ratio = by_peer.get(peer)
        own = ratio.seconds if ratio else None
        row[f"/{peer}"] = f"{own.median:.2f} ({own.min:.2f}-{own.max:.2f})" if own else ""
        row[f"/{peer}*"] = f"{ratio.wall.median:.2f}" if ratio else ""
    return row
