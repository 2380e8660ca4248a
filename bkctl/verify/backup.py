"""Proves a backup's description whole: backupmeta against the folder, the report and itself.

What the files themselves hold is for `verify_file`; all here is seen without reading one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bkctl.archive.backup_dir import BackupDir, StoredMeta
from bkctl.archive.checkpoint import FOLDER as CHECKPOINT_FOLDER
from bkctl.archive.meta import BackupFile, BackupMeta, RawRange, encode_meta
from bkctl.archive.names import LOCK_NAME, META_NAME, REPORT_NAME
from bkctl.archive.report import Report
from bkctl.errors import CorruptionError
from bkctl.verify.file import Finding

_OWN_WRITER = "bkctl "


@dataclass(frozen=True, slots=True)
class Description:
    """What a backup says of itself; `meta` and `report` are None where they cannot be read.

    A backup of br has no report, and is whole without one.
    """

    meta: BackupMeta | None
    report: Report | None
    findings: tuple[Finding, ...]


def check_description(backup_dir: BackupDir) -> Description:
    """Read a backup's description and compare it with all that bears witness to it.

    Raises UsageError where there is no complete backup, StorageError where the storage fails.
    """
    try:
        stored = backup_dir.load_meta()
    except CorruptionError as e:
        finding = Finding(META_NAME, None, _told(e, backup_dir, META_NAME))
        return Description(None, None, (finding,))
    findings: list[Finding] = []
    report: Report | None = None
    try:
        report = backup_dir.read_report()
    except CorruptionError as e:
        findings.append(Finding(REPORT_NAME, None, _told(e, backup_dir, REPORT_NAME)))
    meta = stored.meta
    findings += _check_bytes(stored, report)
    if report is not None:
        findings += _check_report(meta, report)
    findings += _check_ranges(meta)
    findings += _check_folder(backup_dir, stored)
    return Description(meta, report, tuple(findings))


def _told(error: CorruptionError, backup_dir: BackupDir, name: str) -> str:
    """An error's text without the place, which the finding names."""
    return str(error).removeprefix(f"{backup_dir.where}: ").removeprefix(f"{name}: ")


def _check_bytes(stored: StoredMeta, report: Report | None) -> Iterator[Finding]:
    """Bytes of backupmeta that change nothing else, like a version's text, are checked here."""
    if report is not None and report.backupmeta_sha256:
        if stored.sha256 != report.backupmeta_sha256:
            yield Finding(META_NAME, None, f"its SHA-256 is not the one in {REPORT_NAME}")
    elif (
        stored.meta.br_version.startswith(_OWN_WRITER)
        and hashlib.sha256(encode_meta(stored.meta)).digest() != stored.sha256
    ):
        yield Finding(META_NAME, None, "holds bytes that bkctl would not have written")


def _check_report(meta: BackupMeta, report: Report) -> Iterator[Finding]:
    """The figures of the run against those of its files."""
    crc = 0
    for file in meta.files:
        crc ^= file.crc64xor
    figures: tuple[tuple[str, object, object], ...] = (
        ("status", report.status, "ok"),
        ("mode", report.mode, "raw" if meta.is_raw_kv else "txn"),
        ("cluster_id", report.cluster_id, meta.cluster_id),
        ("start_ts", report.start_ts, meta.start_version),
        ("end_ts", report.end_ts, meta.end_version),
        ("files", report.files, len(meta.files)),
        ("total_kvs", report.total_kvs, sum(file.total_kvs for file in meta.files)),
        ("total_bytes", report.total_bytes, sum(file.total_bytes for file in meta.files)),
        ("crc64xor", f"{report.crc64xor:016x}", f"{crc:016x}"),
        ("size", report.size, sum(file.size for file in meta.files)),
        ("backup_size", report.size, meta.backup_size or report.size),
    )
    for name, told, found in figures:
        if told != found:
            yield Finding(
                META_NAME, None, f"{name} is {found} by backupmeta, {told} by {REPORT_NAME}"
            )


def _check_ranges(meta: BackupMeta) -> Iterator[Finding]:
    """Files keep to the backup's window and ranges, and those of one family do not overlap."""
    by_family: defaultdict[str, list[BackupFile]] = defaultdict(list)
    for file in meta.files:
        by_family[file.cf].append(file)
        if file.end_key and file.end_key <= file.start_key:
            yield Finding(file.name, None, "its range ends before it begins")
        elif meta.raw_ranges and not any(_covers(whole, file) for whole in meta.raw_ranges):
            yield Finding(file.name, None, "its range lies outside those of the backup")
        # An incremental's may begin at 0: what its base did not cover is in it in full.
        starts_right = not file.start_version or meta.start_version <= file.start_version
        if not meta.is_raw_kv and not (
            starts_right and file.start_version <= file.end_version <= meta.end_version
        ):
            yield Finding(
                file.name,
                None,
                f"holds the versions ({file.start_version}, {file.end_version}], the backup those "
                f"of ({meta.start_version}, {meta.end_version}]",
            )
    for files in by_family.values():
        yield from _check_overlaps(files)


def _covers(whole: RawRange, file: BackupFile) -> bool:
    is_before_end = not whole.end_key or (file.end_key and file.end_key <= whole.end_key)
    return whole.cf == file.cf and whole.start_key <= file.start_key and bool(is_before_end)


def _check_overlaps(files: Iterable[BackupFile]) -> Iterator[Finding]:
    furthest: BackupFile | None = None
    for file in sorted(files, key=lambda file: (file.start_key, file.name)):
        if furthest is not None and not _ends_by(furthest, file.start_key):
            yield Finding(file.name, None, f"its range overlaps that of {furthest.name}")
        if furthest is None or (furthest.end_key and not _ends_before(file, furthest.end_key)):
            furthest = file


def _ends_by(file: BackupFile, raw_key: bytes) -> bool:
    return bool(file.end_key) and file.end_key <= raw_key


def _ends_before(file: BackupFile, raw_key: bytes) -> bool:
    return bool(file.end_key) and file.end_key < raw_key


def _check_folder(backup_dir: BackupDir, stored: StoredMeta) -> Iterator[Finding]:
    """The objects of the folder against those that there should be."""
    folder = f"{backup_dir.name}/"
    sizes = {info.name.removeprefix(folder): info.size for info in backup_dir.list_files()}
    for file in stored.meta.files:
        size = sizes.pop(file.name, None)
        if size is None:
            yield Finding(file.name, None, "is missing")
        elif file.size and size != file.size:
            yield Finding(file.name, None, f"has {size} bytes, backupmeta says {file.size}")
    known = {META_NAME, LOCK_NAME, REPORT_NAME, *stored.index_names}
    for name in sizes:
        if name not in known and not name.startswith(f"{CHECKPOINT_FOLDER}/"):
            yield Finding(name, None, "backupmeta does not know this file")
