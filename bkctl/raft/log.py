"""What all raft logs answer, wherever TiKV keeps them.

Indexes are raft's: entries of a region are numbered from 1 on, without a gap; ranges are half open.
Source: TiKV's components/raft_log_engine, components/keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bkctl.errors import CorruptionError
from bkctl.proto import eraftpb_pb2, raft_serverpb_pb2
from bkctl.proto.strict import parse


class StoreKey(Enum):
    """What a raft log knows of the store itself: (key in raft-engine, key in RocksDB)."""

    IDENT = (b"\x01", b"\x01\x01")
    PREPARED_REGION = (b"\x02", b"\x01\x02")
    RECOVER_STATE = (b"\x05", b"\x01\x03")


class RaftLog(Protocol):
    """An open raft log. It stays as it was when it was pinned, whatever the store does.

    Entries behind the last index of a region's RaftLocalState do not count: they were replaced by
    fewer, and may still lie about. Methods raise CorruptionError for damage, naming file and place,
    SourceError for what cannot be read. Not for use by two threads at a time.
    """

    @property
    def path(self) -> Path:
        """The store's own directory of the log, for messages."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of how it was read, a line each: files that were left out."""

    def region_ids(self) -> list[int]:
        """The regions that it has anything of, in order."""

    def raft_local_state(self, region_id: int) -> raft_serverpb_pb2.RaftLocalState | None:
        """What a region's peer has promised, and its last index; None if there is no record."""

    def first_index(self, region_id: int) -> int | None:
        """The first entry it holds of a region; None if it holds none."""

    def last_index(self, region_id: int) -> int | None:
        """The last entry it holds of a region; None if it holds none."""

    def term_of(self, region_id: int, index: int) -> int | None:
        """The term of an entry; None if it does not hold it."""

    def entries(self, region_id: int, low: int, high: int) -> Iterator[eraftpb_pb2.Entry]:
        """The entries `[low, high)` of a region, in order, a batch in memory at a time.

        Raises CorruptionError at once if it does not hold them all.
        """

    def store_value(self, key: StoreKey) -> bytes | None:
        """A record of the store's own; None if there is none."""


class PinnedRaftLog(Protocol):
    """A context manager: a raft log whose files are held, to be read later."""

    def __enter__(self) -> PinnedRaftLog: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """Let the files go, and the log that was read of them; may be called twice."""

    def read(self, keep_from: Mapping[int, int]) -> RaftLog:
        """Read it through; once only. The log stays open as long as this.

        Of the regions in `keep_from`, entries from the index given on are kept, and earlier ones
        need not be; of a running store's even if the log says that they were compacted since (the
        kv store was pinned before). Of others all are kept that are not compacted.

        Raises CorruptionError for damage, SourceError for what cannot be read or changes too fast,
        StorageError where temporary files cannot be written.
        """


def parse_state(value: bytes, region_id: int, path: Path) -> raft_serverpb_pb2.RaftLocalState:
    """Read a RaftLocalState; CorruptionError names region and `path` for anything else."""
    try:
        return parse(raft_serverpb_pb2.RaftLocalState, value)
    except CorruptionError as e:
        raise CorruptionError(
            f"{path}: region {region_id}: its raft state is damaged: {e}"
        ) from None


def parse_entry(data: bytes, region_id: int, index: int, where: str) -> eraftpb_pb2.Entry:
    """Read the entry that is to have `index`; CorruptionError names region and `where`."""
    try:
        entry = parse(eraftpb_pb2.Entry, data)
        if entry.index != index:
            raise CorruptionError(f"it has index {entry.index}")
    except CorruptionError as e:
        raise CorruptionError(
            f"{where}: entry {index} of region {region_id} is damaged: {e}"
        ) from None
    return entry


def within_state(
    first: int, last: int, state: raft_serverpb_pb2.RaftLocalState | None
) -> tuple[int, int] | None:
    """Of the entries `first` to `last`, (first, last) of those that count; None if none does."""
    if state is not None:
        last = min(last, state.last_index)
    return (first, last) if first <= last else None


def check_held(
    path: Path, region_id: int, low: int, high: int, held: tuple[int, int] | None
) -> None:
    """Raise CorruptionError if entries `[low, high)` are not all `held`, (first, last)."""
    if low >= high or (held is not None and held[0] <= low and high <= held[1] + 1):
        return
    what = "none of it" if held is None else f"{held[0]} to {held[1]}"
    raise CorruptionError(
        f"{path}: region {region_id}: entries {low} to {high - 1} are wanted of the raft log, "
        f"which holds {what}"
    )
