"""One backup in full: its figures by column family and region, and how its files are written."""

from __future__ import annotations

from dataclasses import dataclass

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupFile, BackupMeta
from bkctl.archive.report import Report
from bkctl.errors import CorruptionError, UsageError
from bkctl.repository.catalog import open_backup, read_catalog
from bkctl.repository.contents import FamilyTotals, RegionTotals, total_by_family, total_by_region
from bkctl.repository.summary import BackupState, BackupSummary
from bkctl.sst.reader import SstReader
from bkctl.storage.base import NotFoundError, Storage

_LARGEST = 10


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How one of the SST files is written, as its own footer and properties say."""

    file: str
    codec: str
    format_version: int
    checksum: str


@dataclass(frozen=True, slots=True)
class BackupDetails:
    """A backup; `meta` is None for one that is unfinished or damaged.

    `chain` names what to restore for it, in order; it is empty if something is missing.
    `table_format` is None, and `format_remark` says why, where no file could be looked at.
    """

    summary: BackupSummary
    chain: tuple[str, ...]
    meta: BackupMeta | None
    report: Report | None
    families: tuple[FamilyTotals, ...]
    regions: tuple[RegionTotals, ...]
    largest: tuple[BackupFile, ...]
    table_format: TableFormat | None
    format_remark: str


def inspect_backup(storage: Storage, name: str) -> BackupDetails:
    """Look at a backup, or at the newest for `latest`; of its SST files only a tail is read.

    Raises UsageError where there is no such backup, StorageError where the storage fails.
    """
    catalog = read_catalog(storage)
    summary = catalog.chains.look_up(name)
    backup_dir = open_backup(storage, summary.name)
    chain: tuple[str, ...] = ()
    if summary.state is not BackupState.UNFINISHED and not catalog.chains.is_orphan(summary):
        chain = tuple(backup.name for backup in catalog.chains.chain_of(summary))
    try:
        report = backup_dir.read_report()
    except CorruptionError:
        report = None  # told by the summary's remark
    meta: BackupMeta | None = None
    if summary.is_complete:
        try:
            meta = backup_dir.read_meta()
        except UsageError as e:
            raise UsageError(f"{e} (it has changed just now)") from None
    files = meta.files if meta else ()
    table_format, remark = _table_format(backup_dir, files)
    return BackupDetails(
        summary=summary,
        chain=chain,
        meta=meta,
        report=report,
        families=tuple(total_by_family(files)),
        regions=tuple(total_by_region(files)),
        largest=tuple(sorted(files, key=lambda file: (-file.size, file.name))[:_LARGEST]),
        table_format=table_format,
        format_remark=remark,
    )


def _table_format(
    backup_dir: BackupDir, files: tuple[BackupFile, ...]
) -> tuple[TableFormat | None, str]:
    """How the first file is written, read from its tail; or why that cannot be told."""
    if not files:
        return None, "no files"
    name = files[0].name
    if files[0].cipher_iv:
        return None, "encrypted"
    try:
        with backup_dir.open_file(name) as reader:
            sst = SstReader(reader, name)
            footer, codec = sst.footer, sst.properties.compression_name
            checksum = footer.checksum_type.name.lower()
            return TableFormat(name, codec, footer.format_version, checksum), ""
    except NotFoundError:
        return None, f"{name} is missing"
    except CorruptionError as e:
        return None, str(e)
