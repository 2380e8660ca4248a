"""Chooses each region's replica that has everything, as an election among its voters would.

A write is acknowledged once the logs of a majority of its region's voters have it. With a majority
of them at hand, the log with the greatest (last term, last index) has everything that was
acknowledged, and all that it has is decided. Logs with the same last term are beginnings of one
another (raft's log matching): they are decided to their ends, too.

Which peers vote is in the log itself. So replicas are chosen by what they are before their logs are
applied, and again by what came of that, until nothing changes (`bkctl.cluster.stores`).

A peer that was removed from its store has taken its log with it: it is not at hand. One that the
store has not made yet has none, and is. A region that is to be merged into another takes no writes,
but the other does once it has it: so what it has counts only if the other's log tells that it is
not merged yet.
Source: the Raft paper, 5.4; TiKV's components/snap_recovery, which does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bkctl.raft.standing import Standing


@dataclass(frozen=True, slots=True)
class Replica:
    """A region's replica on the store with this number, of those at hand."""

    number: int
    standing: Standing

    @property
    def log(self) -> tuple[int, int]:
        """What decides between two logs."""
        return self.standing.last_term, self.standing.last_index


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen of one region; `best` is None where no voter's log is at hand.

    `config` is the newest record of the region at hand. `lacking` says which voters are not at
    hand, if those that are make no majority; `unfit` why `best` cannot be read;
    `is_troubled` is whether that is as its raft log cannot be applied.
    """

    region_id: int
    config: Standing
    best: Replica | None
    decided: tuple[int, ...]
    lacking: str
    unfit: str
    is_troubled: bool = False

    @property
    def has_majority(self) -> bool:
        """Whether what `best` has is known to be everything."""
        return not self.lacking

    @property
    def why(self) -> str:
        """Why this replica, in few words."""
        if self.best is None:
            return "no voter's log is at hand"
        term, index = self.best.log
        voters = len(self.config.voters)
        if voters == 1:
            return "the only voter"
        count = len(self.decided)
        same = "alone" if count == 1 else f"with {count - 1} more of that term"
        return f"has the newest log (term {term}, index {index}), {same}"


def choose(
    surveys: Sequence[Sequence[Standing]], store_ids: Sequence[int], *, allow_minority: bool
) -> dict[int, Choice]:
    """Choose for each region that any store has a record of, but for those that were merged away.

    With `allow_minority`, a replica that does not vote will do where none that votes is at hand.

    `surveys` are the stores' standings, `store_ids` the stores' ids, in the same order.
    """
    numbers = {store_id: number for number, store_id in enumerate(store_ids)}
    regions: dict[int, list[Replica]] = {}
    for number, survey in enumerate(surveys):
        for standing in survey:
            regions.setdefault(standing.region_id, []).append(Replica(number, standing))
    found: dict[int, Choice] = {}
    for region_id, replicas in regions.items():
        known = [each for each in replicas if each.standing.state != "absent"]
        if not known:
            continue  # a split that is to come makes it, or it is gone
        config = max(known, key=_newness).standing
        if config.is_merged:
            continue
        choice = _choose(region_id, config, replicas, numbers)
        if choice.best is None and allow_minority:
            choice = _without_voters(choice, replicas)
        found[region_id] = choice
    if not allow_minority:
        _add_doubts(found, regions)
    return found


def _add_doubts(found: dict[int, Choice], regions: Mapping[int, Sequence[Replica]]) -> None:
    """Declare those unfit that may have been merged into others, and what may be in those."""
    is_more = True
    while is_more:
        is_more = False
        for region_id, choice in found.items():
            doubt = "" if choice.unfit else _doubt(choice, found, regions)
            if doubt:
                found[region_id] = replace(choice, unfit=doubt)
                is_more = True


def _newness(replica: Replica) -> tuple[int, int, bool, bool]:
    standing = replica.standing
    # Of one epoch, a record that says that it is over is the later one.
    return standing.version, standing.conf_ver, standing.is_merged, standing.is_gone


def _doubt(
    choice: Choice, choices: Mapping[int, Choice], regions: Mapping[int, Sequence[Replica]]
) -> str:
    """Why a region that is to be merged may be merged already; empty if it is known not to be."""
    best = choice.best
    if best is None or best.standing.state != "merging" or best.standing.merge_target is None:
        return ""
    target_id, version = best.standing.merge_target
    target = choices.get(target_id)
    text = f"it is to be merged into region {target_id}, and may have been:"
    if target is None or target.best is None or target.unfit or not target.has_majority:
        return f"{text} what became of that is not known"
    if target.best.standing.version <= version:
        return ""
    # The target has changed since. Had its log merged them, this region were gone on that store.
    there = any(
        each.number == target.best.number
        and not each.standing.is_gone
        and each.standing.state != "absent"
        for each in regions[choice.region_id]
    )
    return "" if there else f"{text} that has changed since"


def _choose(
    region_id: int, config: Standing, replicas: Sequence[Replica], numbers: Mapping[int, int]
) -> Choice:
    by_number = {replica.number: replica for replica in replicas}
    voters = dict.fromkeys((*config.voters, *config.outgoing))
    at_hand = [
        store_id
        for store_id in voters
        if (number := numbers.get(store_id)) is not None
        and (number not in by_number or _counts(by_number[number].standing, config, store_id))
    ]
    logs = [
        replica
        for store_id in at_hand
        if (replica := by_number.get(numbers[store_id])) is not None
        and replica.standing.last_term
        and not replica.standing.is_gone
    ]
    lacking = _lacking(config, at_hand, numbers, by_number)
    if not logs:
        is_troubled = any(replica.standing.trouble for replica in replicas)
        return Choice(region_id, config, None, (), lacking, _no_log(replicas), is_troubled)
    best = max(logs, key=lambda each: (each.log, each.standing.has_data, -each.number))
    decided = tuple(each.number for each in logs if each.log[0] == best.log[0])
    unfit, is_troubled = _unfit(best.standing), bool(best.standing.trouble)
    return Choice(region_id, config, best, decided, lacking, unfit, is_troubled)


def _counts(standing: Standing, config: Standing, store_id: int) -> bool:
    """Whether the log of a voter's peer is at hand, be it one that never had any."""
    if standing.trouble:
        return False
    if not standing.is_gone:
        return True
    # Either that very peer was removed, or one before it, and this one is not made yet.
    removed = standing.peer_on(store_id)
    if removed:
        return removed != config.peer_on(store_id)
    return standing.conf_ver < config.conf_ver


def _without_voters(choice: Choice, replicas: Sequence[Replica]) -> Choice:
    """The same with the best there is, of which nothing is decided by its log."""
    there = [each for each in replicas if each.standing.has_data and not each.standing.trouble]
    if not there:
        return choice
    best = max(there, key=lambda each: (each.log, -each.number))
    return replace(choice, best=best, unfit="", is_troubled=False)


def _lacking(
    config: Standing,
    at_hand: Sequence[int],
    numbers: Mapping[int, int],
    by_number: Mapping[int, Replica],
) -> str:
    """Say which voters are missing for a majority; empty if there is one."""
    for voters in (config.voters, config.outgoing):
        there = sum(store_id in at_hand for store_id in voters)
        if voters and there * 2 <= len(voters):
            missing = [store_id for store_id in voters if store_id not in at_hand]
            names = ", ".join(
                f"{store_id} (its replica was removed)"
                if (replica := by_number.get(numbers.get(store_id, -1)))
                and replica.standing.is_gone
                else str(store_id)
                for store_id in missing
            )
            text = f"of its {len(voters)} voters {there} are at hand, fewer than a majority"
            return f"{text}; missing: store {names}"
    return "" if config.voters else "its record names no voters"


def _no_log(replicas: Sequence[Replica]) -> str:
    troubled = next((each for each in replicas if each.standing.trouble), None)
    if troubled is not None:
        return troubled.standing.trouble
    return "no store at hand has a replica of it that votes"


def _unfit(standing: Standing) -> str:
    """Why a replica with the newest log cannot be read; empty if it can."""
    if standing.trouble:
        return standing.trouble
    if standing.has_data:
        return ""
    if standing.role == "witness":
        return "the newest log is a witness's, which holds no data"
    if standing.state in ("applying", "unavailable"):
        return "the replica with the newest log waits for its data (a snapshot is under way)"
    return f"the replica with the newest log is {standing.state} there"
