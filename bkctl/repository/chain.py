"""Chains: which backups build on which, and what to restore, in order, for one of them.

    full (0, A]  <-  incremental (A, B]  <-  incremental (B, C]

An incremental's base is a backup of the same data that ends exactly where it starts. Several may
build on one, so chains form trees. One whose base is missing is an orphan: it restores to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from bkctl.codec.tso import format_ts
from bkctl.errors import UsageError
from bkctl.repository.summary import BackupState, BackupSummary

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A backup, whether it has all it builds on, and what builds on it, oldest first."""

    backup: BackupSummary
    is_orphan: bool
    children: tuple[ChainNode, ...]


class Chains:
    """The backups of one repository, by what they build on; `where` is the repository's URL."""

    def __init__(self, where: str, backups: Iterable[BackupSummary]) -> None:
        self._where = where
        self._by_name = {backup.name: backup for backup in sorted(backups, key=_age_order)}
        self._bases: dict[str, BackupSummary] = {}
        self._orphans: set[str] = set()
        self._ending: dict[int | None, list[BackupSummary]] = {}
        for backup in self._by_name.values():
            self._ending.setdefault(backup.facts.end_ts, []).append(backup)
        # Oldest first, so that every base has been placed before what builds on it.
        for backup in self._by_name.values():
            if backup.facts.kind == "incr" and backup.state is not BackupState.UNFINISHED:
                self._place(backup)

    def _place(self, backup: BackupSummary) -> None:
        base = self.find_base(backup)
        if base is None:
            self._orphans.add(backup.name)
            return
        self._bases[backup.name] = base
        if base.name in self._orphans:
            self._orphans.add(backup.name)

    def find_base(self, backup: BackupSummary) -> BackupSummary | None:
        """What a backup builds on, or would if it were finished; None if there is no such."""
        if backup.facts.kind != "incr":
            return None
        ending = self._ending.get(backup.facts.start_ts, [])
        bases = [base for base in ending if _is_base(base, backup)]
        return max(bases, key=self._preference) if bases else None

    def _preference(self, base: BackupSummary) -> tuple[bool, bool, bool, float, str]:
        """Of several bases the one that is whole, complete to its root, and needs least."""
        return (
            base.is_complete,
            base.name not in self._orphans,
            base.facts.kind != "incr",
            base.created,
            base.name,
        )

    @property
    def oldest_first(self) -> tuple[BackupSummary, ...]:
        """All backups, oldest first, none before what it builds on."""
        return tuple(self._by_name.values())

    @property
    def roots(self) -> tuple[ChainNode, ...]:
        """All trees, oldest first: full and raw backups, orphans, and what is no backup."""
        children: dict[str, list[BackupSummary]] = {}
        for name, base in self._bases.items():
            children.setdefault(base.name, []).append(self._by_name[name])
        nodes: dict[str, ChainNode] = {}
        # Youngest first, as a base is never younger than what builds on it.
        for backup in reversed(self._by_name.values()):
            grown = tuple(nodes[child.name] for child in children.get(backup.name, ()))
            nodes[backup.name] = ChainNode(backup, backup.name in self._orphans, grown)
        return tuple(nodes[name] for name in self._by_name if name not in self._bases)

    def is_orphan(self, backup: BackupSummary) -> bool:
        """Whether the backup, or one that it builds on, has no base in the repository."""
        return backup.name in self._orphans

    def base_of(self, backup: BackupSummary) -> BackupSummary | None:
        """What an incremental builds on; None for an orphan and all other backups."""
        return self._bases.get(backup.name)

    def chain_of(self, backup: BackupSummary) -> list[BackupSummary]:
        """The backup with all it builds on, in the order to restore them.

        One of them may be damaged. Raises UsageError for an orphan.
        """
        chain = list(self._line(backup))[::-1]
        if backup.name in self._orphans:
            first = chain[0]
            raise UsageError(
                f"{self._where}: backup {backup.name} needs one that ends at "
                f"{first.facts.start_ts}, and there is none; bring it back, or take another backup"
            )
        return chain

    def _line(self, backup: BackupSummary | None) -> Iterator[BackupSummary]:
        while backup is not None:
            yield backup
            backup = self._bases.get(backup.name)

    def look_up(self, name: str, *, prefer_whole: bool = False) -> BackupSummary:
        """The backup called `name`, whatever its state, or the newest complete one for `latest`.

        With `prefer_whole`, one that is not limited to some keys, if there is any. Raises
        UsageError for an unknown name, and for `latest` if there is none.
        """
        if name == LATEST:
            return self._newest(self._complete(), prefer_whole)
        backup = self._by_name.get(name)
        if backup is None:
            close = get_close_matches(name, self._by_name, 1)
            hint = f"did you mean {close[0]}?" if close else "see what there is with bkctl list"
            raise UsageError(f"{self._where}: there is no backup {name!a}; {hint}")
        return backup

    def find(self, name: str, *, prefer_whole: bool = False) -> BackupSummary:
        """The same, of backups that were finished; UsageError for another."""
        backup = self.look_up(name, prefer_whole=prefer_whole)
        if backup.state is BackupState.UNFINISHED:
            by = f" (begun by {backup.claimed_by})" if backup.claimed_by else ""
            raise UsageError(
                f"{self._where}: backup {name} is unfinished{by} and cannot be used; "
                "see what there is with bkctl list"
            )
        return backup

    def find_at(self, ts: int, *, prefer_whole: bool = False) -> BackupSummary:
        """The newest complete backup that ends at or before `ts`; UsageError if there is none.

        `prefer_whole` as for `look_up`.
        """
        complete = self._complete()
        not_after = [backup for backup in complete if (backup.facts.end_ts or 0) <= ts]
        if not not_after:
            ends = [backup.facts.end_ts or 0 for backup in complete]
            raise UsageError(
                f"{self._where}: no backup ends at {ts} ({format_ts(ts)}) or before it; "
                + (f"the first ends at {min(ends)} ({format_ts(min(ends))})" if ends else "none is")
            )
        return self._newest(not_after, prefer_whole)

    def newest(self, is_wanted: Callable[[BackupSummary], bool]) -> BackupSummary | None:
        """The newest complete backup that `is_wanted`; of several with one end the one to use."""
        wanted = [backup for backup in self._by_name.values() if backup.is_complete]
        return max(filter(is_wanted, wanted), key=self._order, default=None)

    def _order(self, backup: BackupSummary) -> tuple[object, ...]:
        return (backup.facts.end_ts or 0, *self._preference(backup))

    def _complete(self) -> list[BackupSummary]:
        complete = [backup for backup in self._by_name.values() if backup.is_complete]
        if not complete:
            raise UsageError(f"{self._where}: holds no complete backup; check the URL")
        return complete

    def _newest(self, backups: list[BackupSummary], prefer_whole: bool) -> BackupSummary:
        if prefer_whole:
            backups = [each for each in backups if not each.facts.is_limited] or backups
        stores = {(backup.facts.cluster_id, backup.facts.store_id) for backup in backups}
        known = sorted((cluster, store) for cluster, store in stores if cluster and store)
        if len(known) > 1:
            shown = ", ".join(f"{store} of cluster {cluster}" for cluster, store in known[:4])
            raise UsageError(
                f"{self._where}: holds backups of several stores ({shown}); choose one by its name"
            )
        return max(backups, key=self._order)


def _age_order(backup: BackupSummary) -> tuple[bool, int, int, float, str]:
    """Oldest first, no incremental before what it can build on; last what no timestamp is known of.

    An incremental over nothing, (A, A], comes behind all else that ends at A.
    """
    facts = backup.facts
    return (
        facts.end_ts is None,
        facts.end_ts or 0,
        facts.start_ts or 0,
        backup.created,
        backup.name,
    )


def _is_base(base: BackupSummary, backup: BackupSummary) -> bool:
    """Whether `backup` starts where `base` ends, of the same data as far as that is known."""
    one, other = base.facts, backup.facts
    return (
        base.state is not BackupState.UNFINISHED
        and one.mode == other.mode
        and one.end_ts == other.start_ts
        # An empty window would be its own base.
        and not (one.kind == "incr" and one.start_ts == one.end_ts)
        and _agree(one.cluster_id, other.cluster_id)
        and _agree(one.store_id, other.store_id)
        and _agree(one.window, other.window)
    )


def _agree(one: object, other: object) -> bool:
    return one is None or other is None or one == other
