"""Takes an unfinished backup up again: what is finished and whole stays, the rest is done anew.

A run writes down its settings when it claims a name, and a record for every range it finishes. A
resumed run must have the same settings; it trusts a record only if it lies in a range of the plan
and its files are there with their sizes and checksums. All else in the folder is removed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.checkpoint import FinishedRange, read_checkpoints
from bkctl.archive.meta import BackupFile
from bkctl.archive.names import LOCK_NAME
from bkctl.backup.parts import finished_span, whole_of
from bkctl.backup.request import BackupRequest
from bkctl.codec.json_text import loads
from bkctl.errors import StorageError, UsageError
from bkctl.regions.plan import BackupRange
from bkctl.repository.holder import this_process
from bkctl.repository.summary import parse_claim
from bkctl.storage.base import Storage, side_by_side
from bkctl.store.raft_log_mode import RaftLogMode

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

_READ_CHUNK = 4 << 20


def claim_info(command: str, settings: Mapping[str, object], **facts: object) -> bytes:
    """What a run writes down when it claims a name: who it is, `facts` about it, its settings."""
    claim = this_process(command, time.time()).identity() | facts | {"settings": settings}
    return json.dumps(claim).encode()


def settings_of(
    request: BackupRequest, cluster_id: int, store_id: int, base: str
) -> dict[str, object]:
    """What a resumed run must have in common with the one that began."""
    return {
        "cluster_id": cluster_id,
        "store_id": store_id,
        "start_ts": request.start_ts,
        "end_ts": request.end_ts,
        "start_key": request.start_key.hex().upper(),
        "end_key": request.end_key.hex().upper(),
        "mode": "raw" if request.is_raw else "txn",
        "cf": request.family if request.is_raw else "",
        "compression": request.compression.codec,
        "compression_level": request.compression.level,
        "sst_max_size": request.sst_max_size,
        **({"base": base} if base else {}),
        **_settings_of_sources(request),
        **cipher_settings(request.cipher),
    }


def _settings_of_sources(request: BackupRequest) -> dict[str, object]:
    """What decides how much of the logs is in a range, where it is not the usual."""
    source, settings = request.source, dict[str, object]()
    if source.raft_log is not RaftLogMode.COMMITTED:
        settings["raft-log"] = source.raft_log.value
    if source.point_in_time:
        settings["recovery"] = "point-in-time"
    if request.allow_minority:
        settings["allow-minority"] = True
    return settings


def check_same_settings(backup_dir: BackupDir, settings: Mapping[str, object]) -> None:
    """Raise UsageError unless the unfinished backup was begun with these settings.

    Also where there is no unfinished backup of that name, or a finished one.
    """
    if backup_dir.is_complete():
        raise UsageError(f"{backup_dir.where} is complete; there is nothing to resume")
    claim = backup_dir.read_claim()
    if claim is None:
        raise UsageError(f"{backup_dir.where} was never begun; leave --resume out")
    if (parsed := parse_claim(claim)) is not None and parsed.is_deleted:
        raise UsageError(
            f"{backup_dir.where} is half deleted; let bkctl prune finish that, and begin a new "
            "backup under another --name"
        )
    try:
        document: Any = loads(claim)
        begun = document["settings"]
    except (ValueError, KeyError, TypeError):
        begun = None
    if not isinstance(begun, dict):
        raise UsageError(f"{backup_dir.where} was not begun by bkctl; give another --name")
    for name in dict.fromkeys([*settings, *begun]):
        value = settings.get(name)
        if begun.get(name) != value:
            raise UsageError(
                f"{backup_dir.where} was begun with {name} {begun.get(name)!r}, now it is "
                f"{value!r}; give the same, or begin a new backup under another --name"
            )


def cipher_settings(cipher: Cipher | None) -> dict[str, object]:
    """What a claim says of the encryption: the method, and what tells another key from the same."""
    if cipher is None:
        return {}
    return {"crypter.method": cipher.method, "crypter.key (a hash of it)": cipher.check_value}


def keep_finished(
    storage: Storage, backup_dir: BackupDir, ranges: Sequence[BackupRange], is_raw: bool
) -> list[FinishedRange]:
    """What need not be done again, in key order; removes all else that earlier runs left.

    `ranges` are the plan's, in key order. Each record that is kept lies in one of them, and apart
    from the others.
    """
    records: list[FinishedRange] = []
    end = b""
    for record in read_checkpoints(storage, backup_dir.name):
        span = finished_span(record, is_raw)
        if whole_of(span, ranges) is not None and span[0] >= end:
            records.append(record)
            end = span[1]
    kept = whole_of_records(backup_dir, records)
    wanted = {LOCK_NAME}
    for record in kept:
        wanted.add(record.record_name)
        wanted.update(file.name for file in record.files)
    present = [info.name for info in backup_dir.list_files()]
    others = [name for name in present if name.removeprefix(f"{backup_dir.name}/") not in wanted]
    side_by_side(storage.delete, others)
    storage.discard_staging(backup_dir.name)
    return kept


def whole_of_records(
    backup_dir: BackupDir, records: Sequence[FinishedRange]
) -> list[FinishedRange]:
    """Those of the records whose files are all there, with their sizes and hashes."""
    whole = side_by_side(lambda record: _is_whole(backup_dir, record), records)
    return [record for record, is_whole in zip(records, whole, strict=True) if is_whole]


def _is_whole(backup_dir: BackupDir, record: FinishedRange) -> bool:
    return all(_is_file_whole(backup_dir, file) for file in record.files)


def _is_file_whole(backup_dir: BackupDir, file: BackupFile) -> bool:
    try:
        with backup_dir.open_file(file.name) as reader:
            if reader.size != file.size:
                return False
            digest = hashlib.sha256()
            for offset in range(0, reader.size, _READ_CHUNK):
                digest.update(reader.read_at(offset, _READ_CHUNK))
            return digest.digest() == file.sha256
    except StorageError:
        return False
