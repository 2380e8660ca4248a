"""Chains of backups for tests, and what a repository's backups hold, record by record."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bkctl.archive.report import Report
from bkctl.merge.merge import MergeRequest, MergeResult, merge
from bkctl.sst.reader import FileReader, SstReader
from bkctl.storage.url import parse_storage
from tests.backup.helpers import Quiet, backup, files_of
from tests.oracles import require_shared

FIRST, END = 440000000000000000, 440000000001000000
WEEK = [0, *(FIRST + day * (END - FIRST) // 7 for day in range(1, 7)), END]
"""The time window of the shared stores cut into seven: a full backup and six incrementals."""

Record = tuple[str, bytes, bytes]


def take_chain(
    store: Path, repository: Path | str, cuts: Sequence[int] = WEEK, **options: Any
) -> list[str]:
    """Back the store up at each cut since the one before; the backups' names, oldest first."""
    names = []
    for number, (start_ts, end_ts) in enumerate(itertools.pairwise(cuts)):
        names.append(f"b{number}")
        report = backup(
            store,
            repository,  # type: ignore[arg-type]
            start_ts=start_ts,
            end_ts=end_ts,
            name=names[-1],
            **options,
        )
        assert report.status == "ok"
    return names


def shared_chain(name: str, repository: Path | str, **options: Any) -> list[str]:
    return take_chain(require_shared() / "stores" / name, repository, **options)


def merged(repository: Path | str, **options: Any) -> MergeResult:
    return merge(MergeRequest(parse_storage(str(repository)), **options), Quiet())


def report_of(result: MergeResult) -> Report:
    assert result.report is not None, result.chain.findings
    assert result.report.status == "ok", result.report.errors
    return result.report


def sums(report: Report) -> tuple[int, int, int]:
    return report.total_kvs, report.total_bytes, report.crc64xor


def records_of(repository: Path, name: str) -> list[Record]:
    """All records of a backup as they are stored: family, key, value; by family and key."""
    records: list[Record] = []
    for file in sorted(files_of(repository, name), key=lambda file: (file.cf, file.start_key)):
        with FileReader(repository / name / file.name) as reader:
            entries = SstReader(reader, file.name).entries(b"")
            records += [(file.cf, key, value) for key, value in entries]
    return records
