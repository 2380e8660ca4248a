"""The raft log in raft-engine's files: pinned, read once through, then asked for entries.

Reading it through keeps no entries, only in which batches those lie that are wanted (`table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bkctl.errors import CorruptionError, SourceError
from bkctl.proto import eraftpb_pb2, raft_serverpb_pb2
from bkctl.raft.blocks import Blocks
from bkctl.raft.directory import LogFiles
from bkctl.raft.log import StoreKey, check_held, parse_entry, parse_state, within_state
from bkctl.raft.log_file import FileId, LogFile, OpenFile, PlainFile, Queue
from bkctl.raft.replay import Replay
from bkctl.raft.spool import UNSIGNED, copy_batches
from bkctl.raft.table import RegionTable, place_of
from bkctl.raft.walk import Walk

_ATTEMPTS = 20
_STORE = 0


class RaftEngineLog:
    """A RaftLog (`log`) of what was read; open as long as the PinnedRaftEngine it is of."""

    def __init__(
        self, path: Path, tables: dict[int, RegionTable], blocks: Blocks, notes: Sequence[str]
    ) -> None:
        """Answer by `tables`, whose places `blocks` reads."""
        self.path, self.notes = path, tuple(notes)
        self._tables, self._blocks = tables, blocks

    def region_ids(self) -> list[int]:
        """See RaftLog."""
        return sorted(region_id for region_id in self._tables if region_id != _STORE)

    def raft_local_state(self, region_id: int) -> raft_serverpb_pb2.RaftLocalState | None:
        """See RaftLog."""
        table = self._tables.get(region_id)
        if table is None or table.raft_state is None:
            return None
        return parse_state(table.raft_state, region_id, self.path)

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
        table = self._tables.get(_STORE)
        return None if table is None else table.get(key.value[0])

    def _held(self, region_id: int) -> tuple[int, int] | None:
        """(first, last) of the entries held; None if there are none."""
        table = self._tables.get(region_id)
        if table is None or table.first == table.end:
            return None
        return within_state(table.first, table.end - 1, self.raft_local_state(region_id))

    def _entries(self, region_id: int, low: int, high: int) -> Iterator[eraftpb_pb2.Entry]:
        if low >= high:
            return
        for start, behind, place in self._tables[region_id].runs(low, high):
            block, where = self._blocks.block(place), self._blocks.where(place)
            for index in range(start, behind):
                try:
                    data = block.entry(region_id, index)
                except CorruptionError as e:
                    raise CorruptionError(f"{where} makes no sense: {e}") from None
                if data is None:
                    raise CorruptionError(f"{where}: entry {index} of region {region_id} is gone")
                yield parse_entry(data, region_id, index, where)


class PinnedRaftEngine:
    """A context manager: raft-engine's files as they were, to be read later."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        copy_to: Path | None = None,
        point_in_time: bool = False,
        open_file: OpenFile = PlainFile,
    ) -> None:
        """Open the files in `folders`: the log's own, and the one it spills to if it has one.

        `copy_to` is a folder that takes a private copy of the batches that are still wanted once
        the log is read, as is needed while the store is running. `point_in_time` takes what lies
        before a damage in the newest file. Raises SourceError where the files cannot be read,
        CorruptionError where there are none.
        """
        self._folders, self._open_file = folders, open_file
        self._copy_to, self._point_in_time = copy_to, point_in_time
        self._copy: LogFile | None = None
        self._pin()

    def __enter__(self) -> PinnedRaftEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go; may be called twice."""
        self._files.close()
        if self._copy is not None:
            self._copy.reader.close()
            self._copy = None

    def read(self, keep_from: Mapping[int, int]) -> RaftEngineLog:
        """See PinnedRaftLog.

        Of a region in `keep_from`, entries before its index are kept if they are in the batch of
        the newest one, too. Files that the running store wrote over since are opened anew: the log
        is of a later moment then.
        """
        for _ in range(_ATTEMPTS):
            log = self._try_read(keep_from)
            if log is not None:
                return log
            self._files.close()
            self._pin()
        raise SourceError(
            f"{self._folders[0]}: the store wrote its raft log over {_ATTEMPTS} times while "
            "bkctl read it; try again when it is less busy"
        )

    def _pin(self) -> None:
        self._files = LogFiles(self._folders, self._open_file)
        self._until: dict[FileId, int] = {}
        try:
            for file in filter(self._files.is_newest, self._files.files):
                self._until[file.id] = Walk(
                    file, is_newest=True, point_in_time=True
                ).written_until()
        except BaseException:
            self._files.close()
            raise

    def _try_read(self, keep_from: Mapping[int, int]) -> RaftEngineLog | None:
        """The log; None if files were written over before they were read."""
        # A running store may have compacted what its kv store lacked when that was pinned. One that
        # is down has lost it, by TiKV's own rule, though it may still lie about.
        replay = Replay(keep_from, keeps_compacted=self._copy_to is not None)
        files: list[tuple[LogFile, int]] = []
        for slot, file in enumerate(self._files.files):
            walk = Walk(
                file,
                is_newest=file.id in self._until,
                until=self._until.get(file.id),
                point_in_time=self._point_in_time,
            )
            try:
                _replay_file(replay, walk, file, slot)
            except CorruptionError:
                if self._files.is_recycled(file):
                    return None
                raise
            if walk.torn_at is not None and self._files.is_recycled(file):
                return None
            files.append((file, walk.signature))
        tables = replay.finish()
        blocks = Blocks(files)
        notes = [
            f"{path}: left out: files are missing between it and the newest, as after a recycling"
            for path in self._files.ignored
        ]
        if self._copy_to is not None:
            try:
                self._copy = copy_batches(tables.values(), blocks, self._copy_to)
            except CorruptionError:
                if any(map(self._files.is_recycled, self._files.files)):
                    return None
                raise
            blocks = Blocks([(self._copy, UNSIGNED)])
            self._files.close()
        return RaftEngineLog(self._folders[0], tables, blocks, notes)


def _replay_file(replay: Replay, walk: Walk, file: LogFile, slot: int) -> None:
    take = replay.append if file.id.queue is Queue.APPEND else replay.rewrite
    for offset, items in walk:
        try:
            take(items, place_of(slot, offset))
        except CorruptionError as e:
            raise CorruptionError(f"{file.path}: the log batch at offset {offset}: {e}") from None
