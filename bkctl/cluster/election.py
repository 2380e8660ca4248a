"""Applies raft logs as far as the choice among replicas decides, until that does not change.

What one choice decides ends where peers change: who decides the rest is chosen by the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from bkctl.cluster.choice import Choice, choose
from bkctl.errors import UsageError
from bkctl.raft.standing import Standing
from bkctl.store.ident import StoreIdent


class Voice(Protocol):
    """A store in an election, wherever it is: see `bkctl.raft.replayer.RaftReplayer`."""

    def read(self) -> tuple[StoreIdent, tuple[Standing, ...]]:
        """Who the store is, and where each of its regions stands by its raft log."""

    def apply(self, decided: Mapping[int, int] | None = None) -> tuple[Standing, ...]:
        """Apply the log to the ends that are decided, by region; give what came of each."""

    def finish(self) -> None:
        """Nothing more will be decided."""


_Answer = TypeVar("_Answer")


class Each(Protocol):
    """Calls a function for each store's number; the answers in the same order."""

    def __call__(self, ask: Callable[[int], _Answer], numbers: Sequence[int], /) -> list[_Answer]:
        """Ask all of them; raises what one of them raises."""


def map_in_turn(ask: Callable[[int], _Answer], numbers: Sequence[int]) -> list[_Answer]:
    """See Each: one after the other."""
    return [ask(number) for number in numbers]


class Election:
    """One election among stores; its choices are what each region is to be read by."""

    def __init__(
        self, replayers: Sequence[Voice], *, allow_minority: bool, each: Each = map_in_turn
    ) -> None:
        """`each` asks all stores for the same thing, one after the other or at once."""
        self._replayers, self._allow_minority, self._each = replayers, allow_minority, each
        # By store and region the conf_ver of the peers who decided last.
        self._decided: dict[tuple[int, int], int] = {}

    def hold(self) -> dict[int, Choice]:
        """What is chosen in the end."""
        numbers = range(len(self._replayers))
        read = self._each(lambda number: self._replayers[number].read(), numbers)
        ids = [ident.store_id for ident, _ in read]
        _check_idents([ident for ident, _ in read])
        choices = self._choose([standings for _, standings in read], ids)
        self._decide(choices)
        is_done = False
        while not is_done:
            found = self._each(self._apply, numbers)
            choices = self._choose(found, ids)
            is_done = not self._decide(choices)
        self._each(lambda number: self._replayers[number].finish(), numbers)
        return choices

    def _apply(self, number: int) -> tuple[Standing, ...]:
        decided = {region: told for (own, region), told in self._decided.items() if own == number}
        return self._replayers[number].apply(decided)

    def _choose(
        self, surveys: Sequence[Sequence[Standing]], ids: Sequence[int]
    ) -> dict[int, Choice]:
        return choose(surveys, ids, allow_minority=self._allow_minority)

    def _decide(self, choices: dict[int, Choice]) -> bool:
        """Take in what is decided; tell whether that is more than before."""
        is_more = False
        for choice in choices.values():
            if not (choice.has_majority or self._allow_minority):
                continue
            for number in choice.decided:
                own = number, choice.region_id
                if self._decided.get(own, -1) < choice.config.conf_ver:
                    # It only grows, and not beyond what the logs hold: this comes to an end.
                    self._decided[own] = choice.config.conf_ver
                    is_more = True
        return is_more


def _check_idents(idents: Sequence[StoreIdent]) -> None:
    """Raise UsageError unless they are different stores of one cluster."""
    seen: set[int] = set()
    for ident in idents:
        if ident.cluster_id != idents[0].cluster_id:
            raise UsageError(
                f"the stores are of different clusters ({idents[0].cluster_id} and "
                f"{ident.cluster_id}); give those of one"
            )
        if ident.store_id in seen and len(idents) > 1:
            raise UsageError(f"store {ident.store_id} is given twice; give each store once")
        seen.add(ident.store_id)
