"""One folder of a repository in a few figures: what backup it holds, or why it holds none.

What is known comes from three objects, each of which may be missing:

    backupmeta     makes it a backup; the files, the window of timestamps, the cluster
    report.json    the same from the run itself, and the store; also of runs that failed
    backup.lock    who began the run, when, and with what settings
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from enum import Enum

from bkctl.archive.backup_dir import DELETED_FIELD, BackupDir
from bkctl.archive.names import META_NAME, PART_SETTING, PARTS_FOLDER
from bkctl.archive.report import MODES, KeyRange, Report
from bkctl.codec.json_text import loads
from bkctl.errors import CorruptionError, UsageError
from bkctl.repository.figures import MetaFigures, read_figures
from bkctl.storage.base import Storage

_LARGE_META = 1 << 20
_reading_large = threading.Lock()
# Keys in hexadecimal are the longest texts that a claim has: TiKV's have 8 KiB at most.
_MAX_TEXT = 32 << 10
_USUAL_TEXTS = 256


class BackupState(str, Enum):
    """Whether a folder holds a backup: only a complete one can be used."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Claim:
    """What backup.lock says: who took the backup's name, when, and what for.

    `window` is the raw user keys the run was limited to. Fields that it lacks are empty, 0 or None.
    `is_deleted` tells that the folder is being, or was not wholly, deleted, `is_of_several` that
    the backup is of several stores, `is_parted` that its parts are taken on several machines.
    """

    host: str = ""
    pid: int = 0
    started_at: str = ""
    mode: str = ""
    start_ts: int | None = None
    end_ts: int | None = None
    store_id: int = 0
    cluster_id: int = 0
    window: KeyRange | None = None
    cf: str = ""
    is_deleted: bool = False
    is_of_several: bool = False
    is_parted: bool = False


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What is known of a backup's content; timestamps are TSOs, sizes bytes.

    `mode` is txn, raw or, if unknown, empty. Ids are None where they are unknown or, as the store
    of a whole cluster's backup, not one. `window` is the raw user keys the backup was limited to,
    `cf` the column family of raw ones.
    """

    mode: str = ""
    start_ts: int | None = None
    end_ts: int | None = None
    store_id: int | None = None
    cluster_id: int | None = None
    window: KeyRange | None = None
    files: int = 0
    size: int = 0
    total_kvs: int = 0
    total_bytes: int = 0
    cf: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether the backup was limited to some of the keys there are."""
        return self.window is not None and self.window != KeyRange(b"", b"")

    @property
    def kind(self) -> str:
        """`full`, `incr` or `raw`; empty where nothing tells."""
        if self.mode and self.start_ts:
            return "incr"
        return "full" if self.mode == "txn" else self.mode


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """A folder of a repository; `created` is in unix seconds, 0 if unknown.

    `remark` says why a backup is damaged, or what else is odd about it; mostly it is empty.
    """

    name: str
    state: BackupState
    remark: str
    claim: Claim | None
    facts: BackupFacts
    created: float

    @property
    def is_complete(self) -> bool:
        """Whether this is a backup, whole as far as its description tells."""
        return self.state is BackupState.COMPLETE

    @property
    def weight(self) -> int:
        """How many bytes its texts take beyond what those of a backup mostly do."""
        claim, facts = self.claim or Claim(), self.facts
        texts = (self.remark, claim.host, claim.started_at, claim.mode, claim.cf, facts.cf)
        windows = {window for window in (claim.window, facts.window) if window is not None}
        keys = sum(len(window.start_key) + len(window.end_key) for window in windows)
        return max(0, sum(map(len, texts)) + keys - _USUAL_TEXTS)

    @property
    def claimed_by(self) -> str:
        """Who began it: `host HOST, pid PID, since TIME`, as far as that is known."""
        claim = self.claim or Claim()
        parts = (
            claim.host and f"host {claim.host}",
            claim.pid and f"pid {claim.pid}",
            claim.started_at and f"since {claim.started_at}",
        )
        return ", ".join(part for part in parts if part)


def damaged(name: str, remark: str) -> BackupSummary:
    """The summary of a folder of which nothing can be read."""
    return BackupSummary(name, BackupState.DAMAGED, remark, None, BackupFacts(), 0.0)


def summarize(storage: Storage, backup_dir: BackupDir) -> BackupSummary:
    """Read a folder's descriptions; damage is told in the summary, not raised.

    Raises StorageError where the storage fails.
    """
    meta_info = storage.stat(backup_dir.object_name(META_NAME))
    state, remark = BackupState.UNFINISHED, ""
    meta: MetaFigures | None = None
    if meta_info is not None:
        try:
            meta, state = _read_figures(backup_dir, meta_info.size), BackupState.COMPLETE
        except CorruptionError as e:
            state, remark = BackupState.DAMAGED, str(e)
        except UsageError:
            meta_info = None  # it was deleted just now
    claim: Claim | None = None
    report: Report | None = None
    try:
        claim = parse_claim(backup_dir.read_claim())
        report = backup_dir.read_report(figures_only=True)
    except CorruptionError as e:
        remark = remark or str(e)
    if state is BackupState.UNFINISHED and claim is None and report is None:
        remark = remark or f"it has no {META_NAME} and no trace of a run; perhaps no backup at all"
    if state is BackupState.UNFINISHED and claim is not None and claim.is_deleted:
        remark = "its deletion was cut off; bkctl prune finishes it"
    elif state is BackupState.UNFINISHED and claim is not None and claim.is_parted:
        remark = remark or _parts_remark(backup_dir)
    modified = meta_info.modified if meta_info is not None else 0.0
    created = report.started_at + report.seconds if report and report.started_at else modified
    facts = _facts_of_meta(meta, report, claim) if meta else _facts_of_run(report, claim)
    return BackupSummary(backup_dir.name, state, remark, claim, facts, created)


def _parts_remark(backup_dir: BackupDir) -> str:
    """Of how many stores there are parts, for a backup that is not sealed."""
    names = (info.name for info in backup_dir.list_files())
    count = sum(f"/{PARTS_FOLDER}/" in name and name.endswith(".state") for name in names)
    return f"parts: {count}, not sealed yet (bkctl seal)"


def _read_figures(backup_dir: BackupDir, size: int) -> MetaFigures:
    """Read a backup's figures; of large ones one at a time, as each of them takes memory."""
    with contextlib.nullcontext() if size < _LARGE_META else _reading_large:
        return read_figures(backup_dir)


def parse_claim(data: bytes | None) -> Claim | None:
    """Read backup.lock; None where there is none, an empty claim where it says nothing of use."""
    if data is None:
        return None
    try:
        fields = loads(data)
    except ValueError:
        return Claim()
    if not isinstance(fields, dict):
        return Claim()
    settings = fields.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    try:
        window = KeyRange(
            bytes.fromhex(_text(settings, "start_key")), bytes.fromhex(_text(settings, "end_key"))
        )
    except ValueError:
        window = None
    return Claim(
        host=_text(fields, "host"),
        pid=_count(fields, "pid") or 0,
        started_at=_text(fields, "started_at"),
        mode=_text(settings, "mode"),
        start_ts=_count(settings, "start_ts"),
        end_ts=_count(settings, "end_ts"),
        store_id=_count(settings, "store_id") or 0,
        cluster_id=_count(settings, "cluster_id") or 0,
        window=window if "start_key" in settings else None,
        cf=_text(settings, "cf"),
        is_deleted=DELETED_FIELD in fields,
        is_of_several=settings.get("store_id") == 0 and bool(_count(settings, "cluster_id")),
        is_parted=settings.get(PART_SETTING) is True,
    )


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name, "")
    is_fit = isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()
    return str(value) if is_fit else ""


def _count(fields: dict[str, object], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _facts_of_meta(meta: MetaFigures, report: Report | None, claim: Claim | None) -> BackupFacts:
    totals = meta.totals
    claim = claim or Claim()
    window = meta.window if claim.window is None else claim.window
    # All that several stores had may have come from one of them.
    named = None if claim.is_of_several else meta.store_id
    return BackupFacts(
        mode="raw" if meta.is_raw_kv else "txn",
        start_ts=meta.start_version,
        end_ts=meta.end_version,
        store_id=(report.store_id if report else 0) or claim.store_id or named,
        cluster_id=meta.cluster_id or None,
        window=window,
        files=totals.files,
        size=totals.size or meta.backup_size,
        total_kvs=totals.total_kvs,
        total_bytes=totals.total_bytes,
        cf=", ".join(meta.families) or claim.cf,
    )


def _facts_of_run(report: Report | None, claim: Claim | None) -> BackupFacts:
    claim = claim or Claim()
    if report is None:
        return BackupFacts(
            mode=claim.mode if claim.mode in MODES else "",
            start_ts=claim.start_ts,
            end_ts=claim.end_ts,
            store_id=claim.store_id or None,
            cluster_id=claim.cluster_id or None,
            window=claim.window,
            cf=claim.cf,
        )
    return BackupFacts(
        mode=report.mode,
        start_ts=report.start_ts,
        end_ts=report.end_ts,
        store_id=report.store_id or None,
        cluster_id=report.cluster_id or None,
        window=claim.window,
        files=report.files,
        size=report.size,
        total_kvs=report.total_kvs,
        total_bytes=report.total_bytes,
        cf=claim.cf,
    )
