"""Opens the stores of a cluster, or of a part of it, as one source.

Each store is pinned, its logs are replayed, and its raft log is read; then is chosen, region by
region, whose log counts (`bkctl.cluster.choice`), and applied as far as that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

from bkctl.cluster.choice import Choice, choose
from bkctl.cluster.regions import ClusterRegions, cluster_regions
from bkctl.errors import SourceError, UsageError
from bkctl.raft.replayer import RaftReplayer
from bkctl.raft.source import RaftSource
from bkctl.raft.standing import Standing
from bkctl.store.ident import StoreIdent
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.source import SourceOptions

_ATTEMPTS = 3


class Stores:
    """A context manager: stores at hand, each pinned and with its raft log applied.

    `choices` tell of each region which replica counts; None where no choice was asked for, or
    where there is one store without a raft log.
    """

    def __init__(
        self,
        options: Sequence[SourceOptions],
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        chooses: bool,
        allow_minority: bool = False,
    ) -> None:
        """Open them; `chooses` is whether the stores' own records say which regions there are.

        With `allow_minority`, the newest log at hand decides even where fewer than a majority of
        the voters are. Raises UsageError for stores that do not belong together, and what
        RaftSource raises.
        """
        self.choices: dict[int, Choice] | None = None
        self._allow_minority = allow_minority
        is_led = chooses or len(options) > 1
        if len(options) > 1:
            _check_modes(options)
        self.sources: tuple[RaftSource, ...] = ()
        try:
            for each in options:
                own = replace(each, raft_log=RaftLogMode.COMMITTED) if len(options) > 1 else each
                source = RaftSource(own, is_cancelled, is_led=is_led)
                self.sources += (source,)
            if is_led:
                self._replay()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stores:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let all stores go; may be called twice."""
        for source in self.sources:
            source.close()

    @property
    def first(self) -> RaftSource:
        """The store that was named first: the only one, mostly."""
        return self.sources[0]

    @property
    def ident(self) -> StoreIdent:
        """The store's identity; of several, the cluster's, with no store's id."""
        ident = self.first.ident
        return ident if len(self.sources) == 1 else replace(ident, store_id=0)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Where the only store's regions stand; see `choices` for several."""
        return self.first.standings if len(self.sources) == 1 else ()

    @property
    def is_troubled(self) -> bool:
        """Whether running stores' logs did not fit together, which another moment may change."""
        return any(
            standing.trouble
            for source in self.sources
            if source.is_live
            for standing in source.standings
        )

    @property
    def path(self) -> Path:
        """The first store's directory, for messages."""
        return self.first.path

    @cached_property
    def regions(self) -> ClusterRegions | None:
        """What the choices come to; None without any."""
        if self.choices is None:
            return None
        return cluster_regions(self.choices, self.sources, allow_minority=self._allow_minority)

    @property
    def is_final(self) -> bool:
        """Whether nothing can be written to these regions any more: no store of them runs."""
        return self.choices is not None and not any(source.is_live for source in self.sources)

    def chosen(self) -> dict[int, tuple[int, str]] | None:
        """By region the id of the store that was chosen, and why; None without a choice."""
        if self.choices is None:
            return None
        return {
            choice.region_id: (self.sources[choice.best.number].ident.store_id, choice.why)
            for choice in self.choices.values()
            if choice.best is not None
        }

    def rest(self) -> None:
        """See Source.rest."""
        for source in self.sources:
            source.rest()

    def require(self, *families: str) -> None:
        """See Source.require."""
        for source in self.sources:
            source.require(*families)

    def _replay(self) -> None:
        with ExitStack() as stack:
            replayers = [stack.enter_context(source.replaying()) for source in self.sources]
            led = [replayer for replayer in replayers if replayer is not None]
            if len(led) == len(self.sources):
                self.choices = _Election(led, allow_minority=self._allow_minority).hold()
            elif len(self.sources) > 1:
                silent = self.sources[replayers.index(None)].path
                raise SourceError(
                    f"{silent}: no raft log was found, without which nobody can tell which store's "
                    "replica of a region counts; give it with its data directory"
                )
        for source in self.sources:
            source.settle()


class _Election:
    """Applies raft logs as far as the choice among replicas decides, until that does not change.

    What one choice decides ends where peers change: who decides the rest is chosen by the new ones.
    """

    def __init__(self, replayers: Sequence[RaftReplayer], *, allow_minority: bool) -> None:
        self._replayers, self._allow_minority = replayers, allow_minority
        # By store and region the conf_ver of the peers who decided last.
        self._decided: dict[tuple[int, int], int] = {}

    def hold(self) -> dict[int, Choice]:
        """What is chosen in the end."""
        read = [replayer.read() for replayer in self._replayers]
        ids = [ident.store_id for ident, _ in read]
        _check_idents([ident for ident, _ in read])
        choices = self._choose([standings for _, standings in read], ids)
        self._decide(choices)
        is_done = False
        while not is_done:
            found = [
                replayer.apply(
                    {region: told for (own, region), told in self._decided.items() if own == number}
                )
                for number, replayer in enumerate(self._replayers)
            ]
            choices = self._choose(found, ids)
            is_done = not self._decide(choices)
        for replayer in self._replayers:
            replayer.finish()
        return choices

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


def open_stores(
    options: Sequence[SourceOptions],
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    chooses: bool,
    allow_minority: bool = False,
) -> Stores:
    """Open stores; running ones are pinned again if their logs do not fit together.

    Raises what Stores does.
    """
    for attempt in range(_ATTEMPTS):
        stores = Stores(options, is_cancelled, chooses=chooses, allow_minority=allow_minority)
        if attempt == _ATTEMPTS - 1 or not stores.is_troubled:
            break
        stores.close()
    return stores


def _check_modes(options: Sequence[SourceOptions]) -> None:
    if any(each.raft_log is RaftLogMode.IGNORE for each in options):
        raise UsageError(
            "--raft-log ignore cannot go with several stores: their raft logs tell which store's "
            "replica of a region counts"
        )


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
