"""What of an unfinished backup is done: one record a finished range, beside its files.

    <backup>/checkpoint/<sha256 of raw start key>.json
        {"region_id", "epoch_version", "start_key", "end_key", "files": [{"name", "sha256",
         "start_key", "end_key", "start_version", "end_version", "crc64xor", "total_kvs",
         "total_bytes", "cf", "size", "cipher_iv"}],
         "decided_locks": [{"key", "primary", "start_ts", "commit_ts"}],
         "as_of": [counts], "sha256"}

A record is written when the range's files are saved, so a range counts as finished once it is
there. Keys, hashes and IVs are hexadecimal. Records are removed once the backup is published.
Those of a part of a backup lie in a folder of its own, and say as of which state of its region's
replica the range is; `sha256` is that of the rest, as other machines go by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bkctl.archive.meta import BackupFile
from bkctl.codec.json_text import loads
from bkctl.errors import CorruptionError, StorageError
from bkctl.mvcc.lock import DecidedLock
from bkctl.storage.base import Storage, check_name, side_by_side

FOLDER = "checkpoint"
_MAX_RECORD = 64 << 20
# Those of the files of a range of 10 TiB.
_MAX_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class FinishedRange:
    """A range that is saved: raw user keys `[start_key, end_key)`, and its files."""

    region_id: int
    epoch_version: int
    start_key: bytes
    end_key: bytes
    files: tuple[BackupFile, ...]
    decided_locks: tuple[DecidedLock, ...] = ()
    as_of: tuple[int, ...] = ()

    @property
    def record_name(self) -> str:
        """The record's name in the backup's folder."""
        return self.record_name_in(FOLDER)

    def record_name_in(self, folder: str) -> str:
        """The same where records are in another folder of it."""
        return f"{folder}/{hashlib.sha256(self.start_key).hexdigest()}.json"


def write_checkpoint(
    storage: Storage, backup_name: str, finished: FinishedRange, folder: str = FOLDER
) -> None:
    """Record a finished range; may be repeated."""
    document: dict[str, object] = {
        "region_id": finished.region_id,
        "epoch_version": finished.epoch_version,
        "start_key": finished.start_key.hex(),
        "end_key": finished.end_key.hex(),
        "files": [_file_to_json(file) for file in finished.files],
        "decided_locks": [
            {
                "key": lock.key.hex(),
                "primary": lock.primary.hex(),
                "start_ts": lock.start_ts,
                "commit_ts": lock.commit_ts,
                **({"presumed": True} if lock.is_presumed else {}),
            }
            for lock in finished.decided_locks
        ],
    }
    if finished.as_of:
        document["as_of"] = list(finished.as_of)
        document["sha256"] = _digest(document)
    name = f"{backup_name}/{finished.record_name_in(folder)}"
    storage.write(name, json.dumps(document).encode())


def _digest(document: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def read_checkpoints(
    storage: Storage, backup_name: str, folder: str = FOLDER
) -> list[FinishedRange]:
    """Read all records of a backup, in key order.

    A record that cannot be understood is passed over: its range will be done again.
    """
    names = [info.name for info in storage.list(f"{backup_name}/{folder}")]
    records = side_by_side(lambda name: _read(storage, name), names)
    return sorted(filter(None, records), key=lambda finished: finished.start_key)


def _read(storage: Storage, name: str) -> FinishedRange | None:
    data = storage.read(name, _MAX_RECORD)
    with contextlib.suppress(CorruptionError):
        return _parse(data)
    return None


def remove_checkpoints(storage: Storage, backup_name: str, folder: str = FOLDER) -> None:
    """Remove all records of a backup, or all that is in another folder of it."""
    names = [info.name for info in storage.list(f"{backup_name}/{folder}")]
    side_by_side(storage.delete, names)


def _file_to_json(file: BackupFile) -> dict[str, str | int]:
    return {
        "name": file.name,
        "sha256": file.sha256.hex(),
        "start_key": file.start_key.hex(),
        "end_key": file.end_key.hex(),
        "start_version": file.start_version,
        "end_version": file.end_version,
        "crc64xor": file.crc64xor,
        "total_kvs": file.total_kvs,
        "total_bytes": file.total_bytes,
        "cf": file.cf,
        "size": file.size,
        "cipher_iv": file.cipher_iv.hex(),
    }


def _parse(data: bytes) -> FinishedRange:
    try:
        document: Any = loads(data, _MAX_VALUES)
        as_of = tuple(_count(each) for each in document.get("as_of", ()))
        if as_of and document.pop("sha256", "") != _digest(document):
            raise ValueError("sha256")
        return FinishedRange(
            region_id=int(document["region_id"]),
            epoch_version=int(document["epoch_version"]),
            start_key=bytes.fromhex(document["start_key"]),
            end_key=bytes.fromhex(document["end_key"]),
            files=tuple(_file_from_json(file) for file in document["files"]),
            decided_locks=tuple(
                DecidedLock(
                    bytes.fromhex(lock["key"]),
                    bytes.fromhex(lock["primary"]),
                    int(lock["start_ts"]),
                    None if lock["commit_ts"] is None else int(lock["commit_ts"]),
                    bool(lock.get("presumed")),
                )
                for lock in document.get("decided_locks", ())
            ),
            as_of=as_of,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, StorageError) as e:
        raise CorruptionError(f"a checkpoint record is damaged ({type(e).__name__})") from None


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(value)
    return value


def _file_from_json(fields: dict[str, str | int]) -> BackupFile:
    def number(name: str) -> int:
        return _count(fields[name])

    def data(name: str) -> bytes:
        return bytes.fromhex(str(fields[name]))

    name = str(fields["name"])
    check_name(name)
    if "/" in name:
        raise ValueError(name)
    return BackupFile(
        name=name,
        sha256=data("sha256"),
        start_key=data("start_key"),
        end_key=data("end_key"),
        start_version=number("start_version"),
        end_version=number("end_version"),
        crc64xor=number("crc64xor"),
        total_kvs=number("total_kvs"),
        total_bytes=number("total_bytes"),
        cf=str(fields["cf"]),
        size=number("size"),
        cipher_iv=data("cipher_iv"),
    )
