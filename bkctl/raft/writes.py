"""What a command that writes does to the kv store.

    Put, Delete     gathered: a command's count together, or not at all
    DeleteRange     at once, whatever comes of the rest of the command
    IngestSST       at once, and so before the command's puts

So TiKV does it: exec_write_cmd, handle_* and write_to_db in its
components/raftstore/src/store/fsm/apply.rs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bkctl.proto import import_sstpb_pb2, metapb_pb2, raft_cmdpb_pb2
from bkctl.raft.kv import KvStore
from bkctl.raft.region import ContradictionError, RejectedError, Replica

DEFAULT, WRITE = "default", "write"
_DATA, _DATA_END = b"z", b"{"
_FAMILIES = frozenset({DEFAULT, "lock", WRITE, "raft"})
_PUT, _DELETE = raft_cmdpb_pb2.Put, raft_cmdpb_pb2.Delete
_READS = (raft_cmdpb_pb2.Get, raft_cmdpb_pb2.Snap)

FindSst = Callable[[str], Path | None]
"""Where a file of the store's import folder is, by its name; None if it is not there."""


class Writer:
    """Executes commands' writes on a kv store."""

    def __init__(self, kv: KvStore, find_sst: FindSst) -> None:
        """Write to `kv`, ingesting files that `find_sst` finds."""
        self._kv, self._find_sst = kv, find_sst

    def execute(self, replica: Replica, requests: Iterable[raft_cmdpb_pb2.Request]) -> None:
        """Execute one command's requests.

        Raises RejectedError if any of it is not for the region, ContradictionError for a file that
        is gone, CorruptionError for one that is damaged and for a family that the store lacks.
        """
        region = replica.region
        start, end = region.start_key, region.end_key
        gathered: list[tuple[str, bytes, bytes | None]] = []
        for request in requests:
            kind = request.cmd_type
            if kind == _PUT:
                put = request.put
                key = put.key
                if key < start or (end and key >= end):
                    raise RejectedError("a key is not in the region")
                gathered.append((put.cf or DEFAULT, _DATA + key, put.value))
            elif kind == _DELETE:
                key = request.delete.key
                if key < start or (end and key >= end):
                    raise RejectedError("a key is not in the region")
                gathered.append((request.delete.cf or DEFAULT, _DATA + key, None))
            elif kind == raft_cmdpb_pb2.DeleteRange:
                self._delete_range(region, request.delete_range)
            elif kind == raft_cmdpb_pb2.IngestSST:
                self._ingest(region, request.ingest_sst.sst)
            elif kind not in _READS:
                raise RejectedError("it is of no kind that is known")
        for family, key, value in gathered:
            if value is None:
                self._kv.delete(family, key)
            else:
                self._kv.put(family, key, value)

    def _delete_range(
        self, region: metapb_pb2.Region, request: raft_cmdpb_pb2.DeleteRangeRequest
    ) -> None:
        start, end, family = request.start_key, request.end_key, request.cf or DEFAULT
        if end and start >= end:
            raise RejectedError("its range ends before it begins")
        _check_key(region, start)
        if region.end_key and (not end or end > region.end_key):
            raise RejectedError("its range is not in the region")
        if family not in _FAMILIES:
            raise RejectedError("its family is not known")
        if not request.notify_only:
            self._kv.delete_range(family, _DATA + start, _DATA + end if end else _DATA_END)

    def _ingest(self, region: metapb_pb2.Region, sst: import_sstpb_pb2.SSTMeta) -> None:
        if len(sst.uuid) != 16 or sst.cf_name not in (DEFAULT, WRITE):
            raise RejectedError("its file is none to ingest")
        theirs, own = sst.region_epoch, region.region_epoch
        if sst.region_id != region.id or (
            (theirs.conf_ver, theirs.version) != (own.conf_ver, own.version)
        ):
            raise RejectedError("its file is not for the region as it is")
        _check_key(region, sst.range.start)
        _check_key(region, sst.range.end)
        digits = sst.uuid.hex()
        uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        stem = f"{uuid}_{region.id}_{own.conf_ver}_{own.version}_{sst.cf_name}"
        # Names of TiKV since 7.5, and before.
        for name in (f"{stem}_2.sst", f"{stem}.sst"):
            path = self._find_sst(name)
            if path is not None:
                self._kv.ingest(sst.cf_name, path, name)
                return
        raise ContradictionError(
            f"ingests import/{stem}_2.sst, which is gone; back up another replica"
        )


def _check_key(region: metapb_pb2.Region, key: bytes) -> None:
    """Raise RejectedError for a key (without `z`) that is not the region's."""
    if key < region.start_key or (region.end_key and key >= region.end_key):
        raise RejectedError("a key is not in the region")
