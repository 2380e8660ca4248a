"""A store's share in the election of its fleet: its log is applied as far as is decided, and waits.

    1. apply     what the store knows to be committed
    2. read      what the other parts have recorded
    3. apply     as far as all of that decides, until it decides no more
    4. record    where the store stands now; with patience, from 2 on until nothing changes

What a part has decided of its own log holds for the moment at which that was pinned: another run
decides anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from bkctl.backup.wait import Patience
from bkctl.cluster.election import Voice
from bkctl.errors import CancelledError
from bkctl.fleet.council import Council
from bkctl.fleet.state import State
from bkctl.raft.standing import Standing

_PAUSE_SECONDS = 2.0
_STEP_SECONDS = 0.2
# Services tell times by the second: an object may have changed though it looks the same.
_LOOKS = 8
# So long a majority waits for the others: whoever comes late may count instead.
_GRACE_SECONDS = 60.0

Make = Callable[[tuple[Standing, ...], Mapping[int, int]], State]
"""Makes the state of standings, and of what is decided."""


class Records(Protocol):
    """Where the parts of one backup record their states."""

    def others(self) -> Sequence[State]:
        """What other parts have recorded."""

    def others_signature(self) -> object:
        """What is another one once that has changed."""

    def record(self, state: State) -> None:
        """Record a state, in place of the one before."""


def hold(
    voice: Voice, make: Make, records: Records, waiting: Waiting, *, allow_minority: bool
) -> Council:
    """Apply and record, as long as `waiting` lets it; give what is known in the end.

    The log of `voice` was read. Raises CancelledError.
    """
    decided: dict[int, int] = {}
    found = _each_once(voice.apply({}))
    while True:
        signature, others = records.others_signature(), records.others()
        while True:
            state = make(found, dict(decided))
            council = Council.of((*others, state), allow_minority=allow_minority)
            more = council.decided_of(state.store_id)
            if not more:
                break
            decided |= more
            found = _each_once(voice.apply(decided))
        records.record(state)
        if council.is_settled_for(state.store_id) and (
            council.is_complete_for(state.store_id) or waiting.is_long
        ):
            return council
        if not waiting.for_change(records, signature):
            return council


class Waiting:
    """How long a part waits for others in all; without patience not at all."""

    def __init__(
        self, patience: Patience | None, is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._patience, self._is_cancelled = patience, is_cancelled
        now = 0.0 if patience is None else patience.clock()
        seconds = 0.0 if patience is None else patience.seconds
        self._until = now + seconds
        self._grace_until = now + min(_GRACE_SECONDS, seconds / 4)

    @property
    def is_long(self) -> bool:
        """Whether those who are not needed have had time enough to come."""
        return self._patience is None or self._patience.clock() >= self._grace_until

    def for_change(self, records: Records, signature: object) -> bool:
        """Wait until others have recorded something, perhaps; False once the time is up."""
        patience = self._patience
        if patience is None:
            return False
        was_long = self.is_long
        for _ in range(_LOOKS):
            until = min(self._until, patience.clock() + _PAUSE_SECONDS)
            if patience.clock() >= self._until:
                return False
            while (left := until - patience.clock()) > 0:
                if self._is_cancelled():
                    raise CancelledError(0)
                patience.pause(min(left, _STEP_SECONDS))
            if records.others_signature() != signature or self.is_long is not was_long:
                break
        return True


def _each_once(standings: Iterable[Standing]) -> tuple[Standing, ...]:
    """Of a region that comes again, the last counts."""
    return tuple({standing.region_id: standing for standing in standings}.values())
