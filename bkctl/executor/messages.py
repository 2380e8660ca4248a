"""What the coordinator, the Dask workers and the agents beside them tell each other.

    coordinator  --Parcel-->  Dask worker (`bridge`)  --Ask, Run, Cancel-->  agent
    coordinator  <--Parcel--  Dask worker (`bridge`)  <--Answer, Told, Ended--  agent

A Parcel holds pickled bytes that show nowhere: Dask logs and shows what its tasks are given.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkctl import errors
from bkctl.errors import BkctlError
from bkctl.pool.pool import Again
from bkctl.raft.standing import Standing
from bkctl.regions.plan import BackupRange
from bkctl.store.ident import StoreIdent
from bkctl.store.manifest import LiveFile
from bkctl.store.source import SourceOptions
from bkctl.titan.manifest import BlobFileMeta


class Parcel:
    """A message on its way through Dask."""

    __slots__ = ("_data",)

    def __init__(self, content: Any) -> None:
        self._data = pickle.dumps(content, protocol=5)

    def __repr__(self) -> str:
        return f"Parcel({len(self._data)} bytes)"

    def __sizeof__(self) -> int:
        return len(self._data)

    @classmethod
    def of(cls, data: bytes) -> Parcel:
        """One whose bytes came another way."""
        parcel = cls(None)
        parcel._data = data
        return parcel

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return self._data

    def open(self) -> Any:
        """What is in it."""
        return pickle.loads(self._data)


@dataclass(frozen=True, slots=True)
class OpenStore:
    """Asks to pin a store, whose logs are then applied as told; whether it has a raft log.

    `place` is the agent's, as it is known to the coordinator.
    """

    options: SourceOptions
    place: str


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for (StoreIdent, Standings); see `bkctl.cluster.election.Voice`."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Asks to apply the raft log as far as it is decided; for Standings."""

    decided: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Finish:
    """Says that nothing more will be decided; asks for StoreFacts."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store that is ready says of itself; see `bkctl.raft.at_hand.StoreAtHand`."""

    ident: StoreIdent
    path: Path
    db_dir: Path
    families: tuple[str, ...]
    is_live: bool
    is_encrypted: bool
    is_ttl_known: bool
    is_log_ignored: bool
    has_regions: bool
    standings: tuple[Standing, ...]
    live_files: tuple[LiveFile, ...]
    blob_files: tuple[BlobFileMeta, ...]


@dataclass(frozen=True, slots=True)
class RegionRecords:
    """Asks for the store's region records, as (key, value)."""


@dataclass(frozen=True, slots=True)
class Records:
    """Asks for the records of `[lower, upper)` of a family, as (key, value); small ones."""

    family: str
    lower: bytes
    upper: bytes


@dataclass(frozen=True, slots=True)
class BlockingLocks:
    """Asks for the locks in spans of data keys that block a snapshot, as (data key, value)."""

    spans: tuple[tuple[bytes, bytes], ...]
    end_ts: int


@dataclass(frozen=True, slots=True)
class FindChanges:
    """Asks for `bkctl.backup.changes.find_changes`."""

    ranges: tuple[BackupRange, ...]
    start_ts: int
    end_ts: int


@dataclass(frozen=True, slots=True)
class Without:
    """Asks for the folder that shows all but these files."""

    files: tuple[LiveFile, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to what failed: the error's class in `bkctl.errors`, and its text."""

    error: str
    text: str

    @classmethod
    def of(cls, error: BkctlError) -> Refused:
        """Of any error that is meant for users."""
        known = (each.__name__ for each in type(error).__mro__ if _own_error(each.__name__))
        return cls(next(known, "BkctlError"), str(error))

    def as_error(self, where: str = "") -> BkctlError:
        """The error, to be raised here; `where` is the machine that it is from."""
        return (_own_error(self.error) or BkctlError)(f"{where}{self.text}")


def _own_error(name: str) -> type[BkctlError] | None:
    """An error class whose one argument is its text."""
    found = getattr(errors, name, None)
    is_error = isinstance(found, type) and issubclass(found, BkctlError)
    return found if is_error and found is not errors.CancelledError else None


@dataclass(frozen=True, slots=True)
class Lost:
    """How a job ended that was not done: see `bkctl.pool.pool.JobLost`."""

    worker: int
    reason: str
    again: Again


@dataclass(frozen=True, slots=True)
class Done:
    """How a job ended that was done, by the agent's worker of this number."""

    worker: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a job told, the `number`th of what it did (from 0); by a worker of the agent's."""

    number: int
    worker: int
    event: Any


@dataclass(frozen=True, slots=True)
class JobResult:
    """All that a job told that counts, and how it ended."""

    events: tuple[Event, ...]
    end: Done | Lost


@dataclass(frozen=True, slots=True)
class Ask:
    """To the agent: answer a request."""

    number: int
    request: Any


@dataclass(frozen=True, slots=True)
class Run:
    """To the agent: run a RangeJob."""

    number: int
    job: Any


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the agent: stop what is in work soon."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the agent: the answer to a request, or Refused."""

    number: int
    answer: Any


@dataclass(frozen=True, slots=True)
class Told:
    """Of the agent: what came of a job meanwhile."""

    number: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """Of the agent: a job's end."""

    number: int
    end: Done | Lost
