"""The lines that the summaries of all runs have in common."""

from __future__ import annotations

from bkctl.archive.report import Report
from bkctl.ui.human import format_count, format_duration, format_size
from bkctl.ui.output import Page


def print_outcome(page: Page, report: Report) -> None:
    """What became of the backup, and where it is."""
    state = "published" if report.status == "ok" else f"{report.status}, nothing is published"
    page.line(f"{page.bold(report.name)}: {state}")
    page.line(f"  where   {report.storage}")


def print_figures(page: Page, report: Report) -> None:
    """How much it holds, in what files, and how fast that went."""
    rate = report.total_bytes / report.seconds if report.seconds else 0.0
    page.line(
        f"  data    {format_count(report.total_kvs, 'key')}, {format_size(report.total_bytes)} in "
        f"{format_duration(report.seconds)} ({format_size(rate)}/s)"
    )
    page.line(
        f"  files   {format_count(report.files)}, {format_size(report.size)} ({report.codec}), "
        f"crc64xor {report.crc64xor:016x}"
    )
