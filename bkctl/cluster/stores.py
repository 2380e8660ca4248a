"""Opens the stores of a cluster, or of a part of it, as one source.

Each store is pinned, its logs are replayed, and its raft log is read; then is chosen, region by
region, whose log counts (`bkctl.cluster.choice`), and applied as far as that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

from bkctl.cluster.choice import Choice
from bkctl.cluster.election import Election, Voice
from bkctl.cluster.regions import ClusterRegions, cluster_regions
from bkctl.errors import SourceError, UsageError
from bkctl.raft.at_hand import StoreAtHand
from bkctl.raft.source import RaftSource
from bkctl.raft.standing import Standing
from bkctl.store.ident import StoreIdent
from bkctl.store.raft_log_mode import RaftLogMode
from bkctl.store.source import SourceOptions

_ATTEMPTS = 3

Elect = Callable[[Voice, RaftSource], None]
"""Has a store take part in an election that is held elsewhere; its log is applied by that."""


class Stores:
    """A context manager: stores at hand, each pinned and with its raft log applied.

    `choices` tell of each region which replica counts; None where no choice was asked for, or
    where there is one store without a raft log.
    """

    def __init__(
        self,
        sources: Iterable[StoreAtHand],
        choices: dict[int, Choice] | None,
        *,
        allow_minority: bool,
    ) -> None:
        """With `allow_minority`, the choices are those of the newest logs at hand."""
        self.choices = choices
        self._allow_minority = allow_minority
        self.sources: tuple[StoreAtHand, ...] = tuple(sources)

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
    def first(self) -> StoreAtHand:
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


class LocalStores(Stores):
    """Stores of this machine; `own` are their sources."""

    def __init__(
        self,
        options: Sequence[SourceOptions],
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        chooses: bool,
        allow_minority: bool = False,
        elect: Elect | None = None,
    ) -> None:
        """Open them; `chooses` is whether the stores' own records say which regions there are.

        With `allow_minority`, the newest log at hand decides even where fewer than a majority of
        the voters are. With `elect`, the choice is made by that: there are no `choices` here.
        Raises UsageError for stores that do not belong together, and what RaftSource raises.
        """
        super().__init__((), None, allow_minority=allow_minority)
        self._elect = elect
        is_led = chooses or len(options) > 1
        self.own: tuple[RaftSource, ...] = ()
        try:
            for each in options_of(options):
                self.sources = self.own = (
                    *self.own,
                    RaftSource(each, is_cancelled, is_led=is_led),
                )
            if is_led:
                self._replay()
        except BaseException:
            self.close()
            raise

    def _replay(self) -> None:
        own = self.own
        with ExitStack() as stack:
            replayers = [stack.enter_context(source.replaying()) for source in own]
            led = [replayer for replayer in replayers if replayer is not None]
            if self._elect is not None and len(led) == 1:
                self._elect(led[0], self.own[0])
            elif len(led) == len(own):
                self.choices = Election(led, allow_minority=self._allow_minority).hold()
            elif len(own) > 1 or self._elect is not None:
                raise no_raft_log(own[replayers.index(None)].path)
        for source in own:
            source.settle()


def options_of(options: Sequence[SourceOptions]) -> list[SourceOptions]:
    """How stores are opened together: of several, no more is applied than the election decides.

    Raises UsageError where their raft logs are to be ignored.
    """
    if len(options) == 1:
        return list(options)
    if any(each.raft_log is RaftLogMode.IGNORE for each in options):
        raise UsageError(
            "--raft-log ignore cannot go with several stores: their raft logs tell which store's "
            "replica of a region counts"
        )
    return [replace(each, raft_log=RaftLogMode.COMMITTED) for each in options]


def no_raft_log(path: Path) -> SourceError:
    """What is wrong with one of several stores that has none."""
    return SourceError(
        f"{path}: no raft log was found, without which nobody can tell which store's "
        "replica of a region counts; give it with its data directory"
    )


def open_stores(
    options: Sequence[SourceOptions],
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    chooses: bool,
    allow_minority: bool = False,
    elect: Elect | None = None,
) -> LocalStores:
    """Open stores; running ones are pinned again if their logs do not fit together.

    Raises what Stores does.
    """
    for attempt in range(_ATTEMPTS):
        stores = LocalStores(
            options, is_cancelled, chooses=chooses, allow_minority=allow_minority, elect=elect
        )
        if attempt == _ATTEMPTS - 1 or not stores.is_troubled:
            break
        stores.close()
    return stores
