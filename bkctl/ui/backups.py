"""Catalogues, backups and restores for people and as JSON.

`list` draws what builds on what:

    20261123T101500.000Z-full       complete   2h03m  …
    └─ 20261123T111500.000Z-incr    complete   1h03m  …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bkctl.archive.report import KeyRange
from bkctl.codec.tso import compose, format_ts, physical_ms
from bkctl.repository.catalog import Catalog
from bkctl.repository.chain import ChainNode
from bkctl.repository.contents import Totals
from bkctl.repository.details import BackupDetails
from bkctl.repository.summary import BackupState, BackupSummary
from bkctl.ui.human import format_count, format_duration, format_size
from bkctl.ui.keys import describe_key, shorten_middle
from bkctl.ui.output import Page
from bkctl.ui.printable import printable

_SPACE = "  "
_MAX_LISTED = 20
_MAX_KEY = 40
_MAX_LEAD = 32 * 3
_LEFT = ("backup", "state", "window", "cf", "keys from", "keys to", "file")


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a table; `below` are further ones, dim and indented."""

    cells: tuple[str, ...]
    below: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # As wide as they are shown, or columns would not be straight.
        object.__setattr__(self, "cells", tuple(map(printable, self.cells)))


def _print_table(page: Page, header: tuple[str, ...], rows: Sequence[_Row]) -> None:
    widths = [
        max(map(len, column)) for column in zip(header, *(row.cells for row in rows), strict=True)
    ]
    page.line(page.bold(_line(header, header, widths)))
    for row in rows:
        page.line(_line(header, row.cells, widths))
        for text in row.below:
            page.line(page.dim(text))


def _line(header: tuple[str, ...], cells: tuple[str, ...], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if name in _LEFT else cell.rjust(width)
        for name, cell, width in zip(header, cells, widths, strict=True)
    )
    return _SPACE.join(padded).rstrip()


def catalog_document(catalog: Catalog) -> dict[str, object]:
    """The JSON document of a catalogue: backups by name, and totals of the complete ones."""
    complete = [backup for backup in catalog.backups if backup.is_complete]
    return {
        "storage": catalog.url,
        "backups": [_summary_document(catalog, backup) for backup in catalog.backups],
        "totals": {
            "backups": len(complete),
            "files": sum(backup.facts.files for backup in complete),
            "size": sum(backup.facts.size for backup in complete),
            "total_kvs": sum(backup.facts.total_kvs for backup in complete),
            "total_bytes": sum(backup.facts.total_bytes for backup in complete),
        },
    }


def _summary_document(catalog: Catalog, backup: BackupSummary) -> dict[str, object]:
    base = catalog.chains.base_of(backup)
    return {
        **summary_document(backup),
        "base": base.name if base else None,
        "orphan": catalog.chains.is_orphan(backup),
    }


def summary_document(backup: BackupSummary) -> dict[str, object]:
    """One backup's figures as JSON; unknown ids, timestamps and keys are null."""
    facts, claim = backup.facts, backup.claim
    return {
        "name": backup.name,
        "state": backup.state.value,
        "remark": backup.remark,
        "kind": facts.kind or None,
        "mode": facts.mode or None,
        "start_ts": facts.start_ts,
        "end_ts": facts.end_ts,
        "store_id": facts.store_id,
        "cluster_id": facts.cluster_id,
        "start_key": facts.window.start_key.hex().upper() if facts.window else None,
        "end_key": facts.window.end_key.hex().upper() if facts.window else None,
        "files": facts.files,
        "size": facts.size,
        "total_kvs": facts.total_kvs,
        "total_bytes": facts.total_bytes,
        "created": round(backup.created, 3) or None,
        "begun_by": {"host": claim.host, "pid": claim.pid, "started_at": claim.started_at}
        if claim
        else None,
    }


def print_catalog(page: Page, catalog: Catalog, now: float) -> None:
    """Print a catalogue, chains as trees, and what it adds up to; `now` is in unix seconds."""
    if not catalog.backups:
        page.line(f"{catalog.url}: no backups")
        return
    rows = [row for root in catalog.chains.roots for row in _tree_rows(root, now)]
    _print_table(page, ("backup", "state", "age", "window", "size", "files", "kvs"), rows)
    page.line(_totals(catalog))


def _tree_rows(root: ChainNode, now: float) -> Iterator[_Row]:
    """The rows of a backup and all that builds on it, however long the chain is."""
    # What is to come, the next one last, with what is drawn before it and before those below it.
    left = [(root, "", "")]
    while left:
        node, branch, lead = left.pop()
        yield _tree_row(node, now, branch, lead)
        for child in reversed(node.children):
            is_last = child is node.children[-1]
            drawn, below = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            # Of what lies still deeper, each line would be longer than the one before.
            deeper = lead + below if len(lead) < _MAX_LEAD else lead
            left.append((child, lead + drawn, deeper))


def _tree_row(node: ChainNode, now: float, branch: str, lead: str) -> _Row:
    backup, facts = node.backup, node.backup.facts
    cells = (
        f"{branch}{backup.name}",
        backup.state.value,
        format_duration(now - backup.created) if backup.created else "",
        describe_window(backup),
        format_size(facts.size) if facts.files else "",
        format_count(facts.files) if facts.files or backup.is_complete else "",
        format_count(facts.total_kvs) if facts.files or backup.is_complete else "",
    )
    inner = lead + ("│  " if node.children else "   ")
    return _Row(cells, tuple(f"{inner}{remark}" for remark in _remarks(node)))


def _remarks(node: ChainNode) -> Iterator[str]:
    backup, facts = node.backup, node.backup.facts
    if facts.end_ts and backup.state is not BackupState.UNFINISHED:
        since = f"{facts.start_ts} to " if facts.start_ts else "up to "
        yield f"TSO {since}{facts.end_ts}"
    if backup.state is BackupState.UNFINISHED and backup.claimed_by:
        yield f"begun by {backup.claimed_by}"
    if backup.remark:
        yield backup.remark
    if node.is_orphan:
        yield f"needs a backup that ends at {facts.start_ts}, or one before that; it is missing"


def describe_window(backup: BackupSummary) -> str:
    """The span of time a backup covers; only its kind where it has no timestamps."""
    facts = backup.facts
    if not facts.end_ts:
        return facts.kind
    end = _time(facts.end_ts)
    return f"{_time(facts.start_ts)} to {end}" if facts.start_ts else f"{facts.kind}, up to {end}"


def _time(ts: int) -> str:
    """A TSO's time without its counter, which the TSO beside it has."""
    return format_ts(compose(physical_ms(ts)))


def _totals(catalog: Catalog) -> str:
    complete = [backup for backup in catalog.backups if backup.is_complete]
    parts = [format_count(len(complete), "complete backup")]
    for state in (BackupState.UNFINISHED, BackupState.DAMAGED):
        count = sum(backup.state is state for backup in catalog.backups)
        if count:
            parts.append(f"{format_count(count)} {state.value}")
    facts = [backup.facts for backup in complete]
    parts.append(format_size(sum(fact.size for fact in facts)))
    parts.append(format_count(sum(fact.files for fact in facts), "file"))
    parts.append(format_count(sum(fact.total_kvs for fact in facts), "kv"))
    return "total: " + ", ".join(parts)


def details_document(details: BackupDetails) -> dict[str, object]:
    """The JSON document of one backup."""
    meta, table, facts = details.meta, details.table_format, details.summary.facts
    return {
        **summary_document(details.summary),
        "chain": list(details.chain),
        "compression_ratio": _ratio(facts.total_bytes, facts.size),
        "cluster_version": meta.cluster_version.strip() if meta else None,
        "writer": meta.br_version.strip() if meta else None,
        "api_version": meta.api_version if meta else None,
        "raw_ranges": [
            {**_keys_document(KeyRange(entry.start_key, entry.end_key)), "cf": entry.cf}
            for entry in (meta.raw_ranges if meta else ())
        ],
        "families": [
            {"cf": family.cf, **_totals_document(family.totals)} for family in details.families
        ],
        "regions": [
            {
                "store_id": region.store_id,
                "region_id": region.region_id,
                "epoch_version": region.epoch_version,
                **_keys_document(region.keys),
                **_totals_document(region.totals),
            }
            for region in details.regions
        ],
        "largest_files": [
            {"name": file.name, "size": file.size, "total_kvs": file.total_kvs}
            for file in details.largest
        ],
        "table_format": {
            "codec": table.codec,
            "format_version": table.format_version,
            "checksum": table.checksum,
        }
        if table
        else None,
        "report": details.report.to_json_dict() if details.report else None,
    }


def _keys_document(keys: KeyRange) -> dict[str, object]:
    return {"start_key": keys.start_key.hex().upper(), "end_key": keys.end_key.hex().upper()}


def _totals_document(totals: Totals) -> dict[str, object]:
    return {
        "files": totals.files,
        "total_kvs": totals.total_kvs,
        "total_bytes": totals.total_bytes,
        "size": totals.size,
    }


def _ratio(plain: int, stored: int) -> float | None:
    return round(plain / stored, 2) if stored else None


def print_details(page: Page, details: BackupDetails, now: float) -> None:
    """Print one backup; `now` is in unix seconds."""
    backup, meta = details.summary, details.meta
    page.line(f"{page.bold(backup.name)}: {backup.state.value}")
    for name, text in _facts(details, now):
        page.line(f"  {name:<9}{text}")
    if meta is not None and details.families:
        page.line("")
        header = ("cf", "files", "kvs", "plain", "size")
        _print_table(
            page,
            header,
            [_Row((family.cf, *_figures(family.totals))) for family in details.families],
        )
    _print_regions(page, details)
    if details.largest:
        page.line("")
        rows = [
            _Row((file.name, format_count(file.total_kvs), format_size(file.size)))
            for file in details.largest
        ]
        _print_table(page, ("file", "kvs", "size"), rows)
        _print_rest(page, len(meta.files if meta else ()) - len(rows), "smaller file")
    _print_report(page, details)


def _facts(details: BackupDetails, now: float) -> Iterator[tuple[str, str]]:
    backup, facts, meta = details.summary, details.summary.facts, details.meta
    if backup.remark:
        yield "remark", backup.remark
    if backup.claimed_by:
        yield "begun by", backup.claimed_by
    if backup.created:
        yield "age", format_duration(now - backup.created)
    if facts.mode:
        yield "mode", facts.mode
    if facts.end_ts:
        start = f"{facts.start_ts} to " if facts.start_ts else ""
        yield "window", f"{describe_window(backup)} (TSO {start}{facts.end_ts})"
    yield from _ranges(details)
    if facts.cluster_id or facts.store_id:
        yield "of", f"cluster {facts.cluster_id or '?'}, store {facts.store_id or 'several'}"
    if meta is not None and facts.kind == "incr":
        yield "chain", " → ".join(details.chain) or "its base is missing; it cannot be restored"
    if meta is not None:
        ratio = _ratio(facts.total_bytes, facts.size)
        yield (
            "data",
            f"{format_count(facts.total_kvs, 'kv')}, {format_size(facts.total_bytes)} of keys and "
            f"values in {format_count(facts.files, 'file')} of {format_size(facts.size)}"
            + (f" (ratio {ratio})" if ratio else ""),
        )
        table = details.table_format
        yield (
            "format",
            f"{table.codec}, format version {table.format_version}, {table.checksum}"
            if table
            else details.format_remark,
        )
        if meta.br_version:
            yield "by", meta.br_version.strip().splitlines()[0]


def _ranges(details: BackupDetails) -> Iterator[tuple[str, str]]:
    raw_ranges = details.meta.raw_ranges if details.meta else ()
    for entry in raw_ranges[:_MAX_LISTED]:
        yield "range", f"{_shown_keys(KeyRange(entry.start_key, entry.end_key))} of {entry.cf}"
    if len(raw_ranges) > _MAX_LISTED:
        yield "range", f"and {format_count(len(raw_ranges) - _MAX_LISTED)} more"
    if not raw_ranges and details.summary.facts.window is not None:
        yield "range", _shown_keys(details.summary.facts.window)


def _shown_keys(keys: KeyRange) -> str:
    start = shorten_middle(describe_key(keys.start_key, "(start)"), _MAX_KEY)
    return f"{start} to {shorten_middle(describe_key(keys.end_key, '(end)'), _MAX_KEY)}"


def _figures(totals: Totals) -> tuple[str, str, str, str]:
    return (
        format_count(totals.files),
        format_count(totals.total_kvs),
        format_size(totals.total_bytes),
        format_size(totals.size),
    )


def _print_regions(page: Page, details: BackupDetails) -> None:
    if not details.regions:
        return
    page.line("")
    rows = [
        _Row(
            (
                str(region.region_id),
                str(region.epoch_version),
                shorten_middle(describe_key(region.keys.start_key, "(start)"), _MAX_KEY),
                shorten_middle(describe_key(region.keys.end_key, "(end)"), _MAX_KEY),
                *_figures(region.totals),
            )
        )
        for region in details.regions[:_MAX_LISTED]
    ]
    header = ("region", "epoch", "keys from", "keys to", "files", "kvs", "plain", "size")
    _print_table(page, header, rows)
    _print_rest(page, len(details.regions) - len(rows), "region")


def _print_report(page: Page, details: BackupDetails) -> None:
    report = details.report
    if report is None:
        return
    page.line("")
    counts = report.ranges
    page.line(
        f"run: {report.status}, {counts.done} of {format_count(counts.total, 'range')} done, "
        f"{counts.failed} failed, {counts.skipped} skipped, in {format_duration(report.seconds)}"
    )
    if report.merged_from:
        page.line(f"  merged from {' → '.join(report.merged_from)}")
    for error in report.errors[:_MAX_LISTED]:
        page.line(f"  region {error.region_id}: {error.kind}: {error.message}")
    _print_rest(page, len(report.errors) - _MAX_LISTED, "error")
    for skipped in report.skipped[:_MAX_LISTED]:
        page.line(f"  skipped region {skipped.region_id}: {skipped.reason}")
    _print_rest(page, len(report.skipped) - _MAX_LISTED, "skipped region")
    for gap in report.gaps[:_MAX_LISTED]:
        page.line(f"  no region covered {_shown_keys(KeyRange(gap.start_key, gap.end_key))}")
    _print_rest(page, len(report.gaps) - _MAX_LISTED, "gap")


def _print_rest(page: Page, count: int, noun: str) -> None:
    if count > 0:
        page.line(f"  and {format_count(count, 'more ' + noun)} (see --json)")
