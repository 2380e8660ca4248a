"""A run's report: what `backup --json` prints and every backup keeps as report.json.

    {"name", "status": "ok|partial|failed|cancelled", "mode": "txn|raw", "start_ts", "end_ts",
     "store_id", "cluster_id", "ranges": {"total", "done", "failed", "skipped"}, "files",
     "total_kvs", "total_bytes", "crc64xor": "16 hex digits", "size", "seconds",
     "errors": [{"region_id", "start_key", "end_key", "kind", "message"}...],
     "skipped": [{"region_id", "reason"}...], "gaps": [{"start_key", "end_key"}...],
     "covered": [{"start_key", "end_key", "start_ts"}...],
     "uncovered": [{"start_key", "end_key", "region_id", "reason"}...],
     "replicas": [see `bkctl.archive.replica`...], "minority": [region ids...], "notes": [texts...],
     "storage", "started_at", "codec", "resumed", "base", "merged_from": [names...],
     "decided_locks": [{"key", "primary", "start_ts", "commit_ts", "presumed"}...],
     "parts": [{"store_id", "host", "pinned_at", "ranges", "files"}...],
     "backupmeta_sha256"}

Keys are upper-case hexadecimal of raw user keys, timestamps TSOs, sizes bytes, `started_at` RFC
3339 in UTC. Readers skip fields they do not know; those from `covered` on may be missing.
`covered` are the keys that the backup covers, 0 being in full; `uncovered` those it was asked for
and does not; without `covered`, nobody wrote it down. `replicas` tell of each region that was read
what is known of its replica. `minority` are regions of which fewer than a majority of voters were
at hand: what they lack, nobody knows. `notes` are for people. Decided locks are those of
transactions whose end the store knew: `commit_ts` is null if rolled back. Those
`presumed` are of transactions that nobody can end any more, as the cluster is dead.
`merged_from` names the backups that a merged one was made of, oldest first. `parts` are there where
machines took a backup together: when each store was pinned, and what it did of the whole.
`backupmeta_sha256` (64 hex digits) is there once a backup is published: nothing else vouches for
the bytes of backupmeta.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime, timezone

from bkctl.archive.coverage import CoveredKeys, UncoveredKeys
from bkctl.archive.coverage import KeyRange as KeyRange
from bkctl.archive.fields import Fields
from bkctl.archive.replica import ReplicaNote as ReplicaNote
from bkctl.codec.stream import ByteStream, read_bytes
from bkctl.mvcc.lock import DecidedLock
from bkctl.regions.region_map import Skipped

STATUSES = frozenset({"ok", "partial", "failed", "cancelled"})
MODES = frozenset({"txn", "raw"})

_CRC_DIGITS = 16
_SHORT_LIST = 64 << 10


@dataclass(frozen=True, slots=True)
class RangeCounts:
    """How many ranges were planned, are saved, failed, and how many regions were left out."""

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class RangeError:
    """Why a range failed: raw user keys, `kind` one of `bkctl.errors.KINDS`, one line of text."""

    region_id: int
    start_key: bytes
    end_key: bytes
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class PartNote:
    """What one store did of a backup that several took; `pinned_at` is in unix seconds."""

    store_id: int
    host: str
    pinned_at: float
    ranges: int
    files: int


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went; `files` counts SST files, `size` is theirs in bytes as stored.

    `total_bytes` counts raw user keys and values, `crc64xor` is over the same. `started_at` is in
    unix seconds, 0 if not known; `gaps` are what no region of the map covered; `resumed`
    ranges were finished by earlier runs. `base` names the backup that this one was told to follow,
    `note` says how that came (not kept). `backupmeta_sha256` is empty while there is no backupmeta.
    """

    name: str
    status: str
    mode: str
    start_ts: int
    end_ts: int
    store_id: int = 0
    cluster_id: int = 0
    ranges: RangeCounts = RangeCounts()
    files: int = 0
    total_kvs: int = 0
    total_bytes: int = 0
    crc64xor: int = 0
    size: int = 0
    seconds: float = 0.0
    errors: tuple[RangeError, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    gaps: tuple[KeyRange, ...] = ()
    storage: str = ""
    started_at: float = 0.0
    codec: str = ""
    resumed: int = 0
    base: str = ""
    note: str = ""
    decided_locks: tuple[DecidedLock, ...] = ()
    backupmeta_sha256: bytes = b""
    merged_from: tuple[str, ...] = ()
    covered: tuple[CoveredKeys, ...] | None = None
    uncovered: tuple[UncoveredKeys, ...] = ()
    replicas: tuple[ReplicaNote, ...] = ()
    notes: tuple[str, ...] = ()
    minority: tuple[int, ...] = ()
    parts: tuple[PartNote, ...] = ()

    def to_json_dict(self) -> dict[str, object]:
        """Give the report as the JSON object of the module's text."""
        counts = self.ranges
        document: dict[str, object] = {
            "name": self.name,
            "status": self.status,
            "mode": self.mode,
            "start_ts": self.start_ts,
            "end_ts": self.end_ts,
            "store_id": self.store_id,
            "cluster_id": self.cluster_id,
            "ranges": {
                "total": counts.total,
                "done": counts.done,
                "failed": counts.failed,
                "skipped": counts.skipped,
            },
            "files": self.files,
            "total_kvs": self.total_kvs,
            "total_bytes": self.total_bytes,
            "crc64xor": f"{self.crc64xor:0{_CRC_DIGITS}x}",
            "size": self.size,
            "seconds": self.seconds,
            "errors": [
                {
                    "region_id": error.region_id,
                    "start_key": _hex(error.start_key),
                    "end_key": _hex(error.end_key),
                    "kind": error.kind,
                    "message": error.message,
                }
                for error in self.errors
            ],
            "skipped": [{"region_id": s.region_id, "reason": s.reason} for s in self.skipped],
            "gaps": [_range(gap) for gap in self.gaps],
            **self._coverage(),
            "storage": self.storage,
            "started_at": _format_time(self.started_at),
            "codec": self.codec,
            "resumed": self.resumed,
            "base": self.base,
            "decided_locks": [
                {
                    "key": _hex(lock.key),
                    "primary": _hex(lock.primary),
                    "start_ts": lock.start_ts,
                    "commit_ts": lock.commit_ts,
                    **({"presumed": True} if lock.is_presumed else {}),
                }
                for lock in self.decided_locks
            ],
        }
        if self.merged_from:
            document["merged_from"] = list(self.merged_from)
        if self.parts:
            document["parts"] = [
                {**dataclasses.asdict(part), "pinned_at": _format_time(part.pinned_at)}
                for part in self.parts
            ]
        if self.backupmeta_sha256:
            document["backupmeta_sha256"] = self.backupmeta_sha256.hex()
        return document

    def _coverage(self) -> dict[str, object]:
        """What was covered, and from where; nothing where nobody wrote it down."""
        if self.covered is None:
            return {}
        document: dict[str, object] = {
            "covered": [{**_range(each.keys), "start_ts": each.start_ts} for each in self.covered],
            "uncovered": [
                {**_range(each.keys), "region_id": each.region_id, "reason": each.reason}
                for each in self.uncovered
            ],
        }
        if self.replicas:
            document["replicas"] = [dataclasses.asdict(each) for each in self.replicas]
        if self.minority:
            document["minority"] = list(self.minority)
        if self.notes:
            document["notes"] = list(self.notes)
        return document

    def to_json(self) -> bytes:
        """Give the JSON document, indented for people."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, source: str) -> Report:
        """Read a report; `source` says in errors where it comes from. Raises CorruptionError."""
        return cls.read(ByteStream(read_bytes(data), 0, len(data)), source)

    @classmethod
    def read(cls, stream: ByteStream, source: str, *, figures_only: bool = False) -> Report:
        """The same of what is read in pieces.

        With `figures_only`, lists that are long are passed over, and left empty, as reports of very
        many ranges are large: nothing may be decided by the lists of such a report.
        """
        fields = Fields.read(stream, source, _SHORT_LIST if figures_only else stream.end)
        counts = fields.object("ranges")
        return cls(
            name=fields.text("name"),
            status=fields.word("status", STATUSES),
            mode=fields.word("mode", MODES),
            start_ts=fields.count("start_ts"),
            end_ts=fields.count("end_ts"),
            store_id=fields.count("store_id"),
            cluster_id=fields.count("cluster_id"),
            ranges=RangeCounts(
                *(counts.count(name) for name in ("total", "done", "failed", "skipped"))
            ),
            files=fields.count("files"),
            total_kvs=fields.count("total_kvs"),
            total_bytes=fields.count("total_bytes"),
            crc64xor=fields.crc("crc64xor"),
            size=fields.count("size"),
            seconds=fields.number("seconds"),
            errors=tuple(
                RangeError(
                    error.count("region_id"),
                    error.key("start_key"),
                    error.key("end_key"),
                    error.text("kind"),
                    error.text("message"),
                )
                for error in fields.objects("errors")
            ),
            skipped=tuple(
                Skipped(entry.count("region_id"), entry.text("reason"))
                for entry in fields.objects("skipped")
            ),
            gaps=tuple(_read_range(gap) for gap in fields.objects("gaps")),
            storage=fields.text("storage", ""),
            started_at=fields.time("started_at"),
            codec=fields.text("codec", ""),
            resumed=fields.count("resumed", 0),
            base=fields.text("base", ""),
            decided_locks=tuple(
                DecidedLock(
                    lock.key("key"),
                    lock.key("primary"),
                    lock.count("start_ts"),
                    lock.optional_count("commit_ts"),
                    is_presumed=lock.flag("presumed"),
                )
                for lock in fields.objects("decided_locks")
            ),
            backupmeta_sha256=fields.digest("backupmeta_sha256"),
            merged_from=fields.texts("merged_from"),
            covered=_read_covered(fields),
            uncovered=tuple(
                UncoveredKeys(_read_range(each), each.count("region_id"), each.text("reason"))
                for each in fields.objects("uncovered")
            ),
            replicas=tuple(
                ReplicaNote.read(each.count, each.text) for each in fields.objects("replicas")
            ),
            notes=fields.texts("notes"),
            minority=fields.counts("minority"),
            parts=tuple(
                PartNote(
                    part.count("store_id"),
                    part.text("host"),
                    part.time("pinned_at"),
                    part.count("ranges"),
                    part.count("files"),
                )
                for part in fields.objects("parts")
            ),
        )


def _read_covered(fields: Fields) -> tuple[CoveredKeys, ...] | None:
    if not fields.has("covered"):
        return None
    return tuple(
        CoveredKeys(_read_range(each), each.count("start_ts")) for each in fields.objects("covered")
    )


def _read_range(fields: Fields) -> KeyRange:
    return KeyRange(fields.key("start_key"), fields.key("end_key"))


def _range(keys: KeyRange) -> dict[str, object]:
    return {"start_key": _hex(keys.start_key), "end_key": _hex(keys.end_key)}


def _hex(raw_key: bytes) -> str:
    return raw_key.hex().upper()


def _format_time(unix_seconds: float) -> str:
    if not unix_seconds:
        return ""
    time = datetime.fromtimestamp(unix_seconds, timezone.utc)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"
