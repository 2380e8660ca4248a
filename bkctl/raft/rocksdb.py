"""The raft log in a RocksDB of its own, `raft/`, as TiKV kept it before raft-engine, or is told to.

In the `default` family, with region ids and indexes as eight bytes, BE:

    01 01                          StoreIdent
    01 02 | region id | 01 | index   an entry (bkctl/proto/eraftpb.proto)
    01 02 | region id | 02           RaftLocalState (bkctl/proto/raft_serverpb.proto)

Entries that are compacted, or replaced by fewer, are deleted. Source: TiKV's
components/engine_rocks/src/raft_engine.rs and components/keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from bkctl.errors import CorruptionError
from bkctl.proto import eraftpb_pb2, raft_serverpb_pb2
from bkctl.raft.log import StoreKey, check_held, parse_entry, parse_state, within_state
from bkctl.store.database import Database
from bkctl.store.flush import flush_logs
from bkctl.store.layout import StoreLayout
from bkctl.store.view import PinnedView

_FAMILY = "default"
_PREFIX = b"\x01\x02"
_PREFIX_END = b"\x01\x03"
_ENTRY, _STATE = b"\x01", b"\x02"
_MAX_ID = (1 << 64) - 1
_ID_SIZE = 8
_PREFIX_SIZE = len(_PREFIX) + _ID_SIZE + 1
_KEY_SIZE = _PREFIX_SIZE + _ID_SIZE
_BATCH, _BATCH_BYTES = 1024, 4 << 20
# Of the many places looked up, most hold a key's few bytes.
_NO_READAHEAD = 0


class RocksRaftLog:
    """A RaftLog (`log`) of what was read; open as long as the PinnedRaftRocks it is of."""

    def __init__(self, path: Path, database: Database) -> None:
        """Answer by `database`, whose directory in the store is `path`."""
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._database = database

    def region_ids(self) -> list[int]:
        """See RaftLog."""
        found: list[int] = []
        scan = self._database.scan(_FAMILY, _PREFIX, _PREFIX_END, readahead=_NO_READAHEAD)
        while records := scan.take(1):
            key = records[0][0]
            if len(key) not in (_PREFIX_SIZE, _KEY_SIZE):
                raise CorruptionError(f"{self.path}: the raft log has a key {key.hex().upper()}")
            region_id = int.from_bytes(key[len(_PREFIX) : len(_PREFIX) + _ID_SIZE], "big")
            found.append(region_id)
            if region_id == _MAX_ID:
                break
            scan.seek(_key(region_id + 1))
        return found

    def raft_local_state(self, region_id: int) -> raft_serverpb_pb2.RaftLocalState | None:
        """See RaftLog."""
        value = self._database.get(_FAMILY, _key(region_id) + _STATE)
        return None if value is None else parse_state(value, region_id, self.path)

    def first_index(self, region_id: int) -> int | None:
        """See RaftLog."""
        held = self._held(region_id)
        return None if held is None else held[0]

    def last_index(self, region_id: int) -> int | None:
        """See RaftLog."""
        held = self._held(region_id)
        return None if held is None else held[1]

    def term_of(self, region_id: int, index: int) -> int | None:
        """See RaftLog."""
        held = self._held(region_id)
        if held is None or not held[0] <= index <= held[1]:
            return None
        return next(self.entries(region_id, index, index + 1)).term

    def entries(self, region_id: int, low: int, high: int) -> Iterator[eraftpb_pb2.Entry]:
        """See RaftLog."""
        check_held(self.path, region_id, low, high, self._held(region_id))
        return self._entries(region_id, low, high)

    def store_value(self, key: StoreKey) -> bytes | None:
        """See RaftLog."""
        return self._database.get(_FAMILY, key.value[1])

    def _held(self, region_id: int) -> tuple[int, int] | None:
        """(first, last) of the entries held; None if there are none."""
        low, high = _key(region_id) + _ENTRY, _key(region_id) + _STATE
        first = self._database.scan(_FAMILY, low, high, readahead=_NO_READAHEAD).take(1)
        last = self._database.last_key(_FAMILY, low, high)
        if not first or last is None:
            return None
        indexes = _index(first[0][0], self.path), _index(last, self.path)
        return within_state(*indexes, self.raft_local_state(region_id))

    def _entries(self, region_id: int, low: int, high: int) -> Iterator[eraftpb_pb2.Entry]:
        if low >= high:
            return
        end = _entry_key(region_id, high - 1) + b"\0"
        scan = self._database.scan(_FAMILY, _entry_key(region_id, low), end)
        while records := scan.take_bounded(_BATCH, _BATCH_BYTES):
            for key, value in records:
                if _index(key, self.path) != low:
                    break
                yield self._parse(value, region_id, low)
                low += 1
            else:
                continue
            break
        if low < high:
            raise CorruptionError(
                f"{self.path}: entry {low} of region {region_id} is missing between others"
            )

    def _parse(self, value: bytes, region_id: int, index: int) -> eraftpb_pb2.Entry:
        return parse_entry(value, region_id, index, str(self.path))


class PinnedRaftRocks:
    """A context manager: a raft log's RocksDB as it was, to be read later."""

    def __init__(
        self, layout: StoreLayout, work_dir: Path | None = None, *, point_in_time: bool = False
    ) -> None:
        """Pin it, as the kv store is (`PinnedView`, which says what is raised)."""
        self._view = PinnedView(layout, work_dir, point_in_time=point_in_time)
        self._database: Database | None = None

    def __enter__(self) -> PinnedRaftRocks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go, and the log that was read of it; may be called twice."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._view.close()

    def read(self, keep_from: Mapping[int, int]) -> RocksRaftLog:
        """See PinnedRaftLog. Compacted entries are gone, whatever `keep_from` asks for."""
        if self._view.has_wal:
            with self._view.replaying() as folder:
                flush_logs(folder, self._view.source)
        self._database = Database(self._view.db_dir, self._view.source)
        return RocksRaftLog(self._view.source, self._database)


def _key(region_id: int) -> bytes:
    return _PREFIX + region_id.to_bytes(_ID_SIZE, "big")


def _entry_key(region_id: int, index: int) -> bytes:
    return _key(region_id) + _ENTRY + index.to_bytes(_ID_SIZE, "big")


def _index(key: bytes, path: Path) -> int:
    if len(key) != _KEY_SIZE:
        raise CorruptionError(f"{path}: the raft log has a key {key.hex().upper()}")
    return int.from_bytes(key[_PREFIX_SIZE:], "big")
