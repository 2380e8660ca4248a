"""Names: of backups in a repository and of the files in a backup.

repository/
  bkctl.lock       who is writing there now
  <backup name>/
    backup.lock    who took the name; the first thing written
    *.sst          {store}_{region}_{epoch version}_{sha256 of raw start key}_{unix ms}_{cf}.sst;
                   one of several machines writes its number behind the time, in six digits
    report.json    the run's report
    parts/         what machines keep that take it together, until it is sealed
    parts-done/    and the ranges that each has finished
    backupmeta     the list of files; the last thing written
"""

from __future__ import annotations

import hashlib

from bkctl.codec.tso import physical_ms, to_datetime
from bkctl.errors import UsageError

META_NAME = "backupmeta"
LOCK_NAME = "backup.lock"
REPORT_NAME = "report.json"
PARTS_FOLDER = "parts"
PARTS_DONE_FOLDER = "parts-done"
PART_SETTING = "part"
REPOSITORY_LOCK_NAME = "bkctl.lock"
MAX_BACKUP_NAME_BYTES = 200


MAX_WRITER = 999_999


def backup_file_name(
    store_id: int,
    region_id: int,
    epoch_version: int,
    raw_start_key: bytes,
    unix_ms: int,
    cf: str,
    writer: int = 0,
) -> str:
    """Name an SST file as TiKV does.

    The hash of the file's raw start key keeps apart the files of one region, the time those of
    two tries, the number of the `writer` (0 for the only one) those of two machines.
    """
    digest = hashlib.sha256(raw_start_key).hexdigest()
    when = f"{unix_ms}{writer:06d}" if writer else f"{unix_ms}"
    return f"{store_id}_{region_id}_{epoch_version}_{digest}_{when}_{cf}.sst"


def default_backup_name(end_ts: int, kind: str) -> str:
    """Name a backup after the UTC time of its end timestamp (a TSO) and its kind.

    `kind` is `full`, `incr` or `raw`: `20261123T101500.000Z-full`. Names sort by time.
    """
    return f"{to_datetime(end_ts):%Y%m%dT%H%M%S}.{physical_ms(end_ts) % 1000:03d}Z-{kind}"


def check_backup_name(name: str) -> None:
    """Refuse, with UsageError, what cannot be a backup's folder everywhere."""
    problem = _backup_name_problem(name)
    if problem:
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise UsageError(f"backup name {shown!a} {problem}; use letters, digits, '.', '-' and '_'")


def _backup_name_problem(name: str) -> str:
    if not name:
        return "is empty"
    if not name.isprintable():
        return "holds control or unprintable characters"
    if "/" in name or "\\" in name:
        return "is more than one part of a path"
    if name.startswith("."):
        return "begins with a dot"
    if len(name.encode()) > MAX_BACKUP_NAME_BYTES:
        return f"is longer than {MAX_BACKUP_NAME_BYTES} bytes"
    return ""
