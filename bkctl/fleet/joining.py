"""How a store joins a backup that others take with it, and its share in the election.

The first part claims the backup's name; the others must have been asked for the same.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bkctl.archive.names import PART_SETTING
from bkctl.backup.backup import name_of, settle_mode, settle_start, subject_of
from bkctl.backup.follow import Base, check_gc_safe_point
from bkctl.backup.request import BackupRequest
from bkctl.backup.resume import check_same_settings, claim_info, settings_of
from bkctl.cluster.election import Voice
from bkctl.codec.tso import format_ts, physical_ms
from bkctl.errors import CorruptionError, UsageError
from bkctl.fleet.council import Council
from bkctl.fleet.election import Waiting, hold
from bkctl.fleet.shelf import Shelf
from bkctl.fleet.state import State, settings_digest
from bkctl.raft.source import RaftSource
from bkctl.raft.standing import Standing
from bkctl.storage.base import Storage
from bkctl.store.ident import StoreIdent

SETTLE_MS = 10_000
"""How long after a timestamp a running store has all up to it: its machine's clock may err."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A part that has joined: what is asked for is settled, and so is who counts so far."""

    request: BackupRequest
    base: Base
    shelf: Shelf
    state: State
    council: Council


class Joining:
    """A `bkctl.cluster.stores.Elect`: called once the store is pinned and its log can be read.

    What it takes hold of is let go with `held`. `begun` is in unix seconds, before that was pinned.
    """

    def __init__(
        self,
        request: BackupRequest,
        storage: Storage,
        begun: float,
        waiting: Waiting,
        notify: Callable[[str], None],
        held: contextlib.ExitStack,
    ) -> None:
        self._request, self._storage = request, storage
        self._begun, self._waiting, self._notify, self._held = begun, waiting, notify, held
        self._joined: tuple[BackupRequest, Base, _OwnRecords] | None = None
        self._council: Council | None = None

    def __call__(self, voice: Voice, source: RaftSource) -> None:
        """Hold the election (`bkctl.fleet.election`); UsageError for what does not fit."""
        ident, _ = voice.read()
        given = self._request.source.api_version
        ident = ident if given is None else replace(ident, api_version=given)
        self._check(ident, source)
        if self._joined is None:
            self._joined = self._join(ident, source)
        request, _, records = self._joined

        def make(standings: tuple[Standing, ...], decided: Mapping[int, int]) -> State:
            return State(
                *(ident, standings, decided, source.is_live, round(self._begun * 1000)),
                *(
                    records.settings,
                    socket.gethostname(),
                    str(self._request.source.path.absolute()),
                ),
            )

        self._council = hold(
            voice, make, records, self._waiting, allow_minority=request.allow_minority
        )
        voice.finish()

    def settled(self, api_version: int) -> Joined:
        """What came of it; `api_version` is the store's, which its configuration tells, too."""
        assert self._joined is not None
        assert self._council is not None
        request, base, records = self._joined
        council = self._council
        state = council.states[council.number_of(records.store_id)]
        if state.ident.api_version != api_version:
            state = replace(state, ident=replace(state.ident, api_version=api_version))
            records.record(state)
            request = replace(request, api_version=api_version)
        return Joined(request, base, records.shelf, state, council)

    def _check(self, ident: StoreIdent, source: RaftSource) -> None:
        if not ident.store_id or not ident.cluster_id:
            raise UsageError(
                f"{source.path}: no record tells which store of which cluster this is; --part "
                "needs one"
            )
        end_ts = self._request.end_ts
        if not is_over(end_ts, self._begun * 1000, is_live=source.is_live):
            raise UsageError(
                f"--end-ts {end_ts} ({format_ts(end_ts)}) is less than {SETTLE_MS // 1000} s ago, "
                f"and {source.path} is in use: what is committed up to then may still be on its "
                "way; run --part later, or give an earlier one"
            )

    def _join(
        self, ident: StoreIdent, source: RaftSource
    ) -> tuple[BackupRequest, Base, _OwnRecords]:
        request = settle_mode(self._request, ident.api_version, source.path)
        subject = subject_of(request, ident.cluster_id, 0)
        request, base = settle_start(request, subject, self._storage)
        check_gc_safe_point(request.gc_safe_point, request.start_ts, request.end_ts)
        shelf = Shelf(self._storage, name_of(request))
        settings = {**settings_of(request, ident.cluster_id, 0, base.name), PART_SETTING: True}
        _claim(shelf, settings)
        self._held.enter_context(shelf.lock(ident.store_id, "backup --part", self._notify))
        _refuse_sealed(shelf)  # which may have happened meanwhile, but cannot from here on
        records = _OwnRecords(shelf, ident.store_id, settings_digest(settings), self._notify)
        return request, base, records


def is_over(end_ts: int, pinned_ms: float, *, is_live: bool) -> bool:
    """Whether a store that was pinned then has all that is committed up to a timestamp."""
    return pinned_ms >= physical_ms(end_ts) + (SETTLE_MS if is_live else 0)


def _claim(shelf: Shelf, settings: Mapping[str, object]) -> None:
    """Take the backup's name for this part and all others, or find it taken for them."""
    backup_dir = shelf.backup_dir
    _refuse_sealed(shelf)
    if backup_dir.read_claim() is None:
        try:
            backup_dir.claim(claim_info("backup --part", settings))
            return
        except UsageError:
            if backup_dir.read_claim() is None:
                raise
    check_same_settings(backup_dir, settings)


def _refuse_sealed(shelf: Shelf) -> None:
    if shelf.backup_dir.is_complete():
        raise UsageError(
            f"{shelf.backup_dir.where} is sealed already; take part in a new one under another "
            "--name"
        )


class _OwnRecords:
    """What the other parts of a backup have recorded, and where this store's own goes."""

    def __init__(
        self, shelf: Shelf, store_id: int, settings: str, notify: Callable[[str], None]
    ) -> None:
        self.shelf, self.store_id, self.settings = shelf, store_id, settings
        self._notify = notify
        self._before = self._read_before()
        self._told: set[str] = set()

    def _read_before(self) -> State | None:
        try:
            return self.shelf.read_state(self.store_id)
        except CorruptionError as e:
            self._notify(f"{e}; it is recorded anew")
            return None

    def others(self) -> Sequence[State]:
        """See Records: of those, what can be read and is of this backup."""
        found = []
        for store_id in self.shelf.store_ids("state"):
            if store_id == self.store_id:
                continue
            try:
                state = self.shelf.read_state(store_id)
            except CorruptionError as e:
                self._tell(f"{e}; nothing is known of that store")
                continue
            if state is not None and state.settings != self.settings:
                self._tell(f"the state of store {store_id} is of another backup; it does not count")
            elif state is not None:
                found.append(state)
        return found

    def others_signature(self) -> object:
        """See Records."""
        return self.shelf.signature(self.store_id)

    def record(self, state: State) -> None:
        """See Records. Raises UsageError for a copy of a store that is older than another one."""
        if self._before is not None:
            refuse_older_copy(self._before, state, self.shelf)
        self.shelf.write_state(state)
        self._before = state

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._notify(message)


def refuse_older_copy(before: State, state: State, shelf: Shelf) -> None:
    """Raise UsageError where a store's log is older than its part has recorded, or damaged since.

    A log only grows: of two copies of one store the lesser one must not stand for it.
    """
    for standing in state.standings:
        other = before.by_region.get(standing.region_id)
        if other is None or other.is_gone or other.trouble or standing.is_gone:
            continue
        if other.peer_on(state.store_id) != standing.peer_on(state.store_id):
            continue
        what = standing.trouble
        if not what and _end(standing) < _end(other):
            what = "its log of region {} ends at term {}, index {}, and not at term {}, index {}"
            what = what.format(standing.region_id, *_end(standing), *_end(other))
        if what:
            raise UsageError(
                f"{state.db}: an older copy of store {state.store_id}, or one that was damaged "
                f"since, than {before.db or 'the one'} on {before.host or 'another machine'}, "
                f"which has taken part in backup {shelf.name} already: {what}; give that one, or "
                "begin anew under another --name"
            )


def _end(standing: Standing) -> tuple[int, int]:
    return standing.last_term, standing.last_index
