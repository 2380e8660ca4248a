"""Random histories of a store's regions: commands run on a model as soon as they are logged."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any
from uuid import UUID

from tests.raft.apply_model import (
    DEMOTING,
    FAMILIES,
    INCOMING,
    LEARNER,
    OWN,
    VOTER,
    Command,
    Peer,
    Region,
    Store,
    encode,
)

Logged = tuple[int, Command | None]


def key_of(rng: random.Random, region: Region) -> bytes:
    """A key that is the region's, mostly."""
    keys = [bytes([first, second]) for first in range(97, 123) for second in b"05"]
    inside = [key for key in keys if region.holds(key)]
    return rng.choice(inside if inside and rng.random() < 0.95 else keys)


class Cluster:
    """The truth: `store` has applied all that is in `logs`.

    `pending` are merges that have begun: (first entry to carry, commit), by the source. `needs` are
    the last entries that a source has to have, `known` those that have to be known as committed.
    """

    def __init__(self, rng: random.Random, is_stale: bool) -> None:
        self.rng, self.is_stale = rng, is_stale
        self.store = Store()
        self.term = 6
        self.next_id = 100
        self.logs: dict[int, list[Logged]] = {}
        self.pending: dict[int, tuple[int, int]] = {}
        self.needs: dict[int, int] = {}
        self.known: dict[int, int] = {}
        self.made_by: dict[int, tuple[int, int]] = {}
        edges = [b"", *sorted(rng.sample([b"d", b"h", b"m", b"r", b"w"], rng.randint(1, 3))), b""]
        for number, (start, end) in enumerate(itertools.pairwise(edges), 1):
            stores = (1, 2, 3) if is_stale else rng.choice([(1,), (1, 2), (1, 2, 3)])
            peers = [Peer(10 * number + s, s) for s in stores]
            self.store.regions[number] = Region(number, start, end, 1, 1, peers)
            self.logs[number] = []
        for _ in range(20):
            region = rng.choice([*self.store.regions.values()])
            self.store.kv[rng.choice(FAMILIES)][key_of(rng, region)] = b"first"
        gone = Region(50, b"x", b"y", 3, 3, [Peer(500, 2)], state="Tombstone")
        self.store.regions[50] = gone
        self.initial = copy.deepcopy(self.store)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            running = [r for r in self.store.regions.values() if r.is_running]
            if not running:
                return
            self.step(self.rng.choice(running))

    def add(self, region: Region, command: Command | None) -> None:
        if self.rng.random() < 0.05:
            self.term += 2
        self.logs[region.id].append((self.term, command))
        index = 5 + len(self.logs[region.id])
        assert self.store.apply(region.id, index, command)
        for new_id in self.store.regions:
            if new_id not in self.logs:
                self.logs[new_id] = []
                self.made_by[new_id] = (region.id, index)

    def epoch(self, region: Region) -> tuple[int, int] | None:
        chance = self.rng.random()
        if chance < 0.02:
            return None
        if chance < 0.12:
            return region.conf + self.rng.choice((-1, 1)), region.version + self.rng.choice((-1, 1))
        if chance < 0.2:  # as good for writes
            return region.conf + 1, region.version
        return region.conf, region.version

    def step(self, region: Region) -> None:
        chance = self.rng.random()
        if region.state == "Merging":
            self.while_merging(region, chance)
        elif chance < 0.6:
            self.write(region)
        elif chance < 0.68:
            self.book_keeping(region)
        elif chance < 0.78:
            self.split(region)
        elif chance < 0.87:
            self.change(region)
        elif chance < 0.96:
            self.begin_merge(region)
        else:
            self.flashback(region)

    def write(self, region: Region, epoch: Any = "") -> None:
        epoch = self.epoch(region) if epoch == "" else epoch
        writes: list[tuple[Any, ...]] = []
        chance = self.rng.random()
        if chance < 0.07:
            start, end = sorted((key_of(self.rng, region), key_of(self.rng, region)))
            end = region.end if self.rng.random() < 0.3 else end
            writes.append(("range", self.rng.choice(FAMILIES), start, end, self.rng.random() < 0.2))
        elif chance < 0.15:
            writes += [self.ingest(region) for _ in range(self.rng.randint(1, 2))]
        else:
            for _ in range(self.rng.randint(1, 4)):
                key, family = key_of(self.rng, region), self.rng.choice(FAMILIES)
                value = b"%d" % self.rng.randrange(1 << 30)
                put = ("put", family, key, value)
                writes.append(put if self.rng.random() < 0.7 else ("delete", family, key))
            if self.rng.random() < 0.02:
                writes.append(("odd", "default"))
        flagged = self.rng.random() < (0.7 if region.flashback else 0.02)
        self.add(region, {"epoch": epoch, "writes": writes, "flashback": flagged})

    def ingest(self, region: Region) -> tuple[Any, ...]:
        family = self.rng.choice(("default", "write"))
        epoch = (region.conf, region.version + (self.rng.random() < 0.1))
        pairs = {}
        for _ in range(self.rng.randint(1, 5)):
            key = key_of(self.rng, region)
            if region.holds(key):
                pairs[key] = b"ingested %d" % self.rng.randrange(1 << 30)
        pairs = pairs or {max(region.start, b"a"): b"only"}
        uuid = UUID(int=self.rng.getrandbits(128))
        name = f"{uuid}_{region.id}_{epoch[0]}_{epoch[1]}_{family}"
        name += self.rng.choice(("_2.sst", ".sst"))
        self.store.files[name] = (family, pairs)
        self.initial.files[name] = (family, pairs)
        return "ingest", family, name, epoch, (min(pairs), max(pairs))

    def book_keeping(self, region: Region) -> None:
        if self.rng.random() < 0.3:
            self.add(region, None)
            return
        kind = self.rng.choice(("compact", "compact", "transfer", "hash", "verify", "gc", "odd"))
        what = (self.rng.randint(1, region.applied + 3), self.rng.choice((0, self.term, self.term)))
        self.add(region, {"epoch": self.epoch(region), "admin": (kind, what)})

    def split(self, region: Region) -> None:
        count = self.rng.choice((1, 1, 2, 4))
        keys = [key_of(self.rng, region) for _ in range(count)]
        if self.rng.random() < 0.9:
            keys = sorted({key for key in keys if key > region.start and region.holds(key)})
        parts = []
        for key in keys:
            self.next_id += 1
            new_id = 50 if self.rng.random() < 0.1 else self.next_id
            count = len(region.peers) + (self.rng.random() < 0.05)
            parts.append((key, new_id, [new_id * 10 + i for i in range(count)]))
        if len({part[1] for part in parts}) < len(parts):
            return
        kind = "old split" if len(parts) == 1 and self.rng.random() < 0.3 else "split"
        what = (parts, self.rng.random() < 0.5)
        self.add(region, {"epoch": self.epoch(region), "admin": (kind, what)})

    def change(self, region: Region) -> None:
        stores = (4, 5, 6) if self.is_stale else (1, 2, 3, 4)
        joint = any(p.role in (INCOMING, DEMOTING) for p in region.peers)
        epoch = self.epoch(region)
        chance = self.rng.random()
        if chance < 0.06 and not self.is_stale:
            switches = [(self.rng.choice(region.peers).id, self.rng.random() < 0.7)]
            self.add(region, {"epoch": epoch, "admin": ("witness", switches)})
            return
        if joint:
            self.add(region, {"epoch": epoch, "admin": ("changes", [])})
            return
        old = chance < 0.3
        count = 1 if old else self.rng.choice((1, 2, 3))
        changes = [self.one_change(region, store) for store in self.rng.sample(stores, count)]
        admin: tuple[str, Any] = ("change", changes[0]) if old else ("changes", changes)
        self.add(region, {"epoch": epoch, "admin": admin})

    def one_change(self, region: Region, store: int) -> tuple[str, Peer]:
        old = next((p for p in region.peers if p.store == store), None)
        self.next_id += 1
        kind = self.rng.choice(("add", "learn", "remove"))
        if store == OWN and kind == "remove" and self.rng.random() < 0.7:
            kind = "learn"
        if old is None or self.rng.random() < 0.1:
            return kind, Peer(self.next_id, store, LEARNER if kind == "learn" else VOTER)
        return kind, copy.copy(old)

    def flashback(self, region: Region) -> None:
        kind = "end flashback" if region.flashback else "flashback"
        self.add(region, {"epoch": self.epoch(region), "admin": (kind, self.rng.randint(1, 99))})

    def begin_merge(self, source: Region) -> None:
        first = self.rng.randint(source.truncated[0] + 1, source.applied + 1)
        joint = any(p.role in (INCOMING, DEMOTING) for p in source.peers)
        if source.flashback or joint or self.neighbour(source) is None:
            return
        epoch = self.epoch(source)
        self.add(source, {"epoch": epoch, "admin": ("prepare", first)})
        if source.state == "Merging":
            self.pending[source.id] = (first, source.applied)

    def neighbour(self, source: Region) -> Region | None:
        fit = [
            r
            for r in self.store.regions.values()
            if r.state == "Normal" and r.is_running and not r.flashback and r.id != source.id
            if (source.end and r.start == source.end) or (source.start and r.end == source.start)
        ]
        return self.rng.choice(fit) if fit else None

    def while_merging(self, source: Region, chance: float) -> None:
        first, commit = self.pending[source.id]
        target = self.neighbour(source)
        if chance < 0.2:
            self.write(source, (source.conf, source.version - 1))
        elif chance < 0.4:
            self.add(source, None)
        elif chance < 0.5 or target is None:
            self.add(source, {"epoch": self.epoch(source), "admin": ("rollback", commit)})
        else:
            log = self.logs[source.id]
            carried = [encode(i, log[i - 6][0], log[i - 6][1]) for i in range(first, commit + 1)]
            if self.rng.random() < 0.15:
                carried, first = [], commit + 1
            told = {"source": copy.deepcopy(source), "commit": commit, "entries": carried}
            told |= {"first": first, "logged": log[first - 6 : commit - 5]}
            self.needs[source.id] = max(self.needs.get(source.id, 0), first - 1)
            self.add(target, {"epoch": self.epoch(target), "admin": ("merge", told)})
            # The source has answered to its leader: it is there.
            region_id = source.id
            while region_id in self.made_by:
                region_id, index = self.made_by[region_id]
                self.known[region_id] = max(self.known.get(region_id, 0), index)
