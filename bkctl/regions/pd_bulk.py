"""Reads many of PD's regions at once: field by field over all of them, not region by region.

That takes a third of the time, and there may be a million. What is not all as PD prints it today
(`Unusual`) is for `bkctl.regions.pd` to read one by one: it knows older forms, and says what is
wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from bkctl.regions.region import ROLES, Peer, Peers, Region, RegionEpoch

MAX_U64 = (1 << 64) - 1
_ROLE_NUMBERS: dict[str | int, int] = {
    **{role: number for number, role in enumerate(ROLES)},
    **{number: number for number in range(len(ROLES))},
}
_id_of, _store_id_of = itemgetter("id"), itemgetter("store_id")


class Unusual(Exception):
    """Something in some of the regions is not as PD prints it, or not all right."""


class BulkReader:
    """Makes regions of JSON objects.

    What many regions have in common is made once: epochs, and keys at which one ends and the next
    begins.
    """

    def __init__(self) -> None:
        self._epochs: dict[tuple[int, int], RegionEpoch] = {}
        self._keys: dict[bytes, bytes] = {}

    def read(self, entries: Sequence[Any]) -> list[Region]:
        """The regions in their order; Unusual if any of them has to be looked at."""
        try:
            return self._read(entries)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unusual from None

    def _read(self, entries: Sequence[Any]) -> list[Region]:
        ids = [entry["id"] for entry in entries]
        starts = self._shared([_key(entry["start_key"]) for entry in entries])
        ends = self._shared([_key(entry["end_key"]) for entry in entries])
        epochs = self._read_epochs([entry["epoch"] for entry in entries])
        # `or` would take a zero or an empty text for no list.
        peers = [() if (found := e.get("peers")) is None else found for e in entries]
        sizes = [entry.get("approximate_size") for entry in entries]
        keys = [entry.get("approximate_keys") for entry in entries]
        _check_numbers(ids, 1)
        _check_numbers([size for size in sizes if size is not None])
        _check_numbers([count for count in keys if count is not None])
        if not set(map(type, peers)) <= {list, tuple}:
            raise Unusual
        if any(end and start >= end for start, end in zip(starts, ends, strict=True)):
            raise Unusual
        packed, led_by = _read_peers(peers, [entry.get("leader") for entry in entries])
        return list(map(Region, ids, starts, ends, epochs, packed, led_by, sizes, keys))

    def _shared(self, keys: list[bytes]) -> list[bytes]:
        """The same keys, those that were there before being one value with them."""
        known = self._keys
        shared = []
        for key in keys:
            # Most come twice, and never again.
            before = known.pop(key, None)
            if before is None:
                known[key] = before = key
            shared.append(before)
        return shared

    def _read_epochs(self, entries: Sequence[Any]) -> list[RegionEpoch]:
        conf_vers = [entry["conf_ver"] for entry in entries]
        versions = [entry["version"] for entry in entries]
        _check_numbers(conf_vers)
        _check_numbers(versions)
        known = self._epochs
        epochs = []
        for pair in zip(conf_vers, versions, strict=True):
            epoch = known.get(pair)
            if epoch is None:
                epoch = known[pair] = RegionEpoch(*pair)
            epochs.append(epoch)
        return epochs


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if 2 * len(key) != len(text):
        raise Unusual
    return key


def _check_numbers(values: Sequence[Any], least: int = 0) -> None:
    """Raise Unusual unless all are integers from `least` to 2^64-1."""
    if values and (set(map(type, values)) != {int} or min(values) < least or max(values) > MAX_U64):
        raise Unusual


def _read_peers(
    peers: Sequence[Sequence[Any]], leaders: Sequence[Any]
) -> tuple[list[Peers], list[Peer | None]]:
    """The peers of each region, and its leader."""
    every = list(chain.from_iterable(peers))
    ids, store_ids, flags = _peer_fields(every)
    fields = array("Q", bytes(Peers.ENTRY.size * len(every)))
    for place, values in enumerate((ids, store_ids, flags)):
        fields[place::3] = array("Q", values)
    entries = fields.tobytes()
    packed, first = [], 0
    for each in peers:
        behind = first + Peers.ENTRY.size * len(each)
        packed.append(Peers(entries[first:behind]))
        first = behind
    known = [leader for leader in leaders if leader is not None]
    led_by = map(Peers.peer_of, *_peer_fields(known))
    return packed, [None if leader is None else next(led_by) for leader in leaders]


def _peer_fields(peers: Sequence[Any]) -> tuple[list[int], list[int], list[int]]:
    ids, store_ids = list(map(_id_of, peers)), list(map(_store_id_of, peers))
    _check_numbers(ids, 1)
    _check_numbers(store_ids, 1)
    return ids, store_ids, _flags(peers)


def _flags(peers: Sequence[Any]) -> list[int]:
    """The flags of `Peers.ENTRY` for each peer."""
    roles = [peer["role_name"] if "role_name" in peer else peer.get("role", 0) for peer in peers]
    kinds = set(map(type, roles))
    if not kinds <= {str, int} or (int in kinds and any("is_learner" in peer for peer in peers)):
        raise Unusual
    numbers = [_ROLE_NUMBERS[role] for role in roles]
    witnesses = [peer.get("is_witness", False) for peer in peers]
    if not set(map(type, witnesses)) <= {bool}:
        raise Unusual
    if True not in witnesses:
        return numbers
    return [
        number | Peers.WITNESS * witness for number, witness in zip(numbers, witnesses, strict=True)
    ]
