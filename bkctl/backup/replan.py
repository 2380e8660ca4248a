"""Plans a backup again where regions changed since their map was made, from what is newest.

A running cluster splits, merges and moves regions while a map of them is on its way. What the
stores' own records contradict is planned again: running stores are pinned anew, and then the map is
read once more, so that it is newer than before. That is done three times at most. What then is
still contradicted is read by the store's own records, where those prove how (`regions.renew`), and
reported with its kind where they do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bkctl.backup.opening import Opened
from bkctl.backup.planning import Regions, Settled, find_refused, plan_regions
from bkctl.backup.request import BackupRequest, RegionMapLoader
from bkctl.cluster.stores import Stores
from bkctl.regions.check import EPOCH_NOT_MATCH, NOT_LEADER, REGION_NOT_FOUND
from bkctl.regions.renew import Renewed, renew

MAX_AGAIN = 3
"""How often a plan is made again."""

_CHANGED = (EPOCH_NOT_MATCH, NOT_LEADER, REGION_NOT_FOUND)
_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.1
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be planned: a window of raw user keys, of the regions that `load` gives.

    `store_id` None is not known. With `asks_pd` the loader asks PD each time, which may have heard
    more by then; `pause` waits so many seconds for that.
    """

    load: RegionMapLoader
    window: tuple[bytes, bytes]
    store_id: int | None
    is_raw: bool
    asks_pd: bool = False
    is_cancelled: Callable[[], bool] = lambda: False
    pause: Callable[[float], None] = time.sleep


def wanted_by(
    request: BackupRequest, store_id: int, is_cancelled: Callable[[], bool] = lambda: False
) -> Wanted:
    """What a request whose mode is settled wants planned; `store_id` 0 is not known."""
    return Wanted(
        request.load_regions,
        (request.start_key, request.end_key),
        store_id or None,
        request.has_plain_keys,
        request.asks_pd,
        is_cancelled,
    )


def settle(opened: Opened, wanted: Wanted) -> Settled:
    """Plan, and again while that may help; raises what the loader, and opening stores, do."""
    found = _plan(_regions_of(opened.stores, wanted), opened.stores, wanted)
    if found.regions.region_map.origin != "pd":
        return found
    count = 0
    while count < MAX_AGAIN and _is_outdated(found) and not wanted.is_cancelled():
        if count:
            _wait(wanted)
        # Gaps are the map's alone.
        is_new = _is_contradicted(found) and opened.renew()
        regions = _regions_of(opened.stores, wanted)
        if not (is_new or wanted.asks_pd) and regions == found.regions:
            break  # nothing more is to be learnt
        count += 1
        found = _plan(regions, opened.stores, wanted)
    notes = []
    if count:
        times = "once" if count == 1 else f"{count} times"
        notes.append(f"planned again {times}, as regions had changed since the region map was made")
    if _is_contradicted(found):
        found, told = _by_own_records(found, opened.stores, wanted)
        notes += told
    return replace(found, notes=tuple(notes))


def _is_outdated(found: Settled) -> bool:
    return bool(found.plan.gaps) or _is_contradicted(found)


def _is_contradicted(found: Settled) -> bool:
    return any(each.kind in _CHANGED for each in found.refused)


def _regions_of(stores: Stores, wanted: Wanted) -> Regions:
    chosen = stores.regions
    if chosen is not None:
        return Regions(chosen.region_map, chosen.skipped, chosen)
    region_map, passed_over = wanted.load(stores.first)
    return Regions(region_map, tuple(passed_over))


def _plan(regions: Regions, stores: Stores, wanted: Wanted) -> Settled:
    plan = plan_regions(regions, wanted.window, wanted.store_id, is_raw=wanted.is_raw)
    return Settled(regions, plan, tuple(find_refused(plan, regions, stores, wanted.store_id)))


def _wait(wanted: Wanted) -> None:
    for _ in range(round(_PAUSE_SECONDS / _POLL_SECONDS)):
        if not wanted.is_cancelled():
            wanted.pause(_POLL_SECONDS)


def _by_own_records(
    found: Settled, stores: Stores, wanted: Wanted
) -> tuple[Settled, tuple[str, ...]]:
    """The plan by the store's own records where those prove it, and notes that say so."""
    source = stores.first
    if wanted.store_id is None or wanted.store_id != source.ident.store_id:
        return found, ()
    if not source.standings:
        return found, ()  # no raft log was applied: the records may be behind the data, or ahead
    renewed = renew(found.regions.region_map, source.region_records(), wanted.store_id)
    if not renewed.taken:
        return found, ()
    regions = replace(found.regions, region_map=renewed.region_map)
    return _plan(regions, stores, wanted), (_note(renewed),)


def _note(renewed: Renewed) -> str:
    old = _listed([region.id for region in renewed.replaced])
    new = _listed([region.id for region in renewed.taken])
    return (
        f"regions {old} of the region map had split or merged since; they are read as the store's "
        f"own records have them (regions {new}), which it led if it led those"
    )


def _listed(region_ids: list[int]) -> str:
    text = ", ".join(map(str, sorted(region_ids)[:_SHOWN]))
    more = len(region_ids) - _SHOWN
    return f"{text} and {more:,} more" if more > 0 else text
