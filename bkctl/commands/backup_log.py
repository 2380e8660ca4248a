"""Log lines at the end of a backup: what its summary has no room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bkctl.ui import log

if TYPE_CHECKING:
    from bkctl.archive.report import Report

_MAX_SHOWN = 20


def log_ending(report: Report) -> None:
    """Say what a summary has no room for: what is wrong, and all of it in a log for machines."""
    from bkctl.ui.json_progress import log_report

    for note in report.notes:
        log.info("notice", note)
    if report.uncovered:
        _log_uncovered(report)
    if report.replicas:
        _log_replicas(report)
    if report.minority:
        count = len(report.minority)
        message = (
            f"of {count:,} {'region' if count == 1 else 'regions'} fewer than a majority of voters "
            "were at hand: what they lack of acknowledged writes, nobody knows; see minority in "
            "report.json"
        )
        log.warning("minority", message, regions=count)
    for error in report.errors[:_MAX_SHOWN]:
        where = f"region {error.region_id}: " if error.region_id else ""
        log.error(
            "range_error",
            f"{where}{error.kind}: {error.message}",
            region_id=error.region_id,
            start_key=error.start_key.hex().upper(),
            end_key=error.end_key.hex().upper(),
            kind=error.kind,
            reason=error.message,
        )
    if len(report.errors) > _MAX_SHOWN:
        log.info("notice", f"and {len(report.errors) - _MAX_SHOWN:,} more errors")
    log_report(report)


def _log_replicas(report: Report) -> None:
    """Say of how many regions nobody knows that this store has all that was acknowledged."""
    from bkctl.ui.human import format_count

    open_ones = [each for each in report.replicas if each.replica != "complete"]
    if not open_ones:
        return
    behind = sum(each.replica == "behind" for each in open_ones)
    above = sum(each.above for each in open_ones)
    message = (
        f"whether this store has all that was acknowledged is not known of "
        f"{format_count(len(open_ones) - behind, 'region')} of {len(report.replicas):,}: others "
        "have a say in what is committed"
    )
    if behind:
        message += f"; {format_count(behind, 'region')} is known to lack something"
    if above:
        message += f"; {format_count(above, 'entry', 'entries')} lie above what was applied"
    log.warning("replicas", f"{message}; see report.json", regions=len(open_ones))


def _log_uncovered(report: Report) -> None:
    from bkctl.archive.coverage import KeySet

    keys = KeySet.of(each.keys for each in report.uncovered)
    reasons = "; ".join(dict.fromkeys(each.reason for each in report.uncovered))
    if report.status == "ok":
        message = f"published without keys {keys} ({reasons}), as --allow-gaps lets it"
    else:
        message = (
            f"keys {keys} would not be in the backup ({reasons}); fetch the region map again, back "
            "up the stores that lead them, or take what there is with --allow-gaps"
        )
    log.warning("gaps", message, gaps=len(keys.ranges))
