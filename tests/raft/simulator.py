"""A raft-engine of the tests' own: random histories, and the files that they leave.

It does what raft-engine does to its files: appends, begins new ones, rewrites what old ones hold,
purges, keeps files for recycling, and dies at any moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from bkctl.proto import raft_serverpb_pb2
from tests.raft.writer import BEGIN, END, GROUP_KEY, MIDDLE, Batch, FileWriter, entry

REGIONS = (1, 2, 7, 300, 1 << 40)
KEYS = (b"R", b"\x03" + bytes(8), b"k" * 200)


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry's or a value's bytes, and which file has it."""

    data: bytes
    suffix: str
    number: int


@dataclass(slots=True)
class Region:
    """What the engine has of a region, in memory."""

    entries: dict[int, Kept] = field(default_factory=dict)
    values: dict[bytes, Kept] = field(default_factory=dict)


class Simulator:
    """An engine in `folder`; `save` writes its files as a process that died there leaves them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.folder = folder
        self.regions: dict[int, Region] = {}
        self.version = rng.choice((1, 2, 2))
        self.mixed = rng.random() < 0.2
        self.alignment = rng.choice((0, 0, 0, 16, 64)) if self.version == 2 else 0
        self.target = rng.choice((200, 1000, 4000))
        self.compress = rng.choice((0.0, 0.5, 1.0))
        self.append = [self._file("raftlog", 1)]
        self.rewrite = [self._file("rewrite", 1)]
        self.stale: list[FileWriter] = []
        self.removed: list[int] = []
        # Entries that were compacted, and not replaced since.
        self.compacted: dict[int, dict[int, bytes]] = {}
        self.group = 0
        self.term = 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            chance = self.rng.random()
            if chance < 0.85:
                self.write()
            elif chance < 0.95:
                self.purge()
            else:
                self.squeeze()

    def write(self) -> None:
        """One log batch of a few changes."""
        batch = Batch()
        done: list[tuple[object, ...]] = []
        for _ in range(self.rng.randint(1, 6)):
            self._change(batch, self.rng.choice(REGIONS), done)
        number = self._add(self.append, batch)
        for region_id, what, *arguments in done:
            assert isinstance(region_id, int)
            self._apply(region_id, str(what), arguments, number)

    def purge(self) -> None:
        """Rewrite what the older append files hold, then give those up."""
        watermark = self.rng.choice(self.append).number
        if watermark == self.append[-1].number:
            return
        if self.removed:
            batch = Batch()
            for region_id in self.removed:
                batch.clean(region_id)
            self.removed.clear()
            self._add(self.rewrite, batch)
        for region_id in list(self.regions):
            self._rewrite(region_id, "raftlog", watermark, atomic=False)
        self._give_up(self.append, "raftlog")

    def squeeze(self) -> None:
        """Rewrite the whole rewrite queue; die in the middle of a group at times."""
        self.rewrite.append(self._file("rewrite", self.rewrite[-1].number + 1))
        for region_id in list(self.regions):
            self._rewrite(region_id, "rewrite", self.rewrite[-1].number, atomic=True)
            if self.rng.random() < 0.1:
                return
        self._give_up(self.rewrite, "rewrite")

    def save(self) -> None:
        """Write all files, the newest with something behind their last batches."""
        for file in self.stale:
            file.write()
        for queue in (self.append, self.rewrite):
            for file in queue[:-1]:
                file.write()
            queue[-1].write(self._left(queue[-1]))

    def _left(self, file: FileWriter) -> bytes:
        """What may lie behind the last batch of a file."""
        left = b""
        if self.rng.random() < 0.4:
            torn = Batch().entries(1, 999, [entry(999, 9, b"torn" * 50)]).put(1, b"R", b"torn")
            encoded = torn.encode(file.signature)
            left = encoded[: self.rng.randint(1, len(encoded) - 1)]
        if self.rng.random() < 0.5:
            return left + bytes(self.rng.randint(1, 300))
        if file.version == 2 and self.rng.random() < 0.7:
            old = self._file("raftlog", file.number + 5, version=2)
            for index in range(20):
                old.add(Batch().entries(2, 5000 + index, [entry(5000 + index, 1, b"old" * 30)]))
            left += bytes(old.content[len(file.content) + len(left) :])
        return left

    def _file(self, suffix: str, number: int, version: int = 0) -> FileWriter:
        version = version or (self.rng.choice((1, 2)) if self.mixed else self.version)
        alignment = self.alignment if version == 2 else 0
        return FileWriter(self.folder, number, suffix, version, alignment)

    def _add(self, queue: list[FileWriter], batch: Batch) -> int:
        if len(queue[-1].content) > self.target:
            queue.append(self._file(queue[-1].suffix, queue[-1].number + 1))
        queue[-1].add(batch, compress=self.rng.random() < self.compress)
        return queue[-1].number

    def _change(self, batch: Batch, region_id: int, done: list[tuple[object, ...]]) -> None:
        """Put one change into the batch; later ones of the same batch do not see it."""
        if any(change[0] == region_id for change in done):
            return
        region = self.regions.get(region_id, Region())
        chance = self.rng.random()
        if chance < 0.6:
            first = 1 + max(region.entries, default=self.rng.randint(5, 200))
            if region.entries and self.rng.random() < 0.2:
                first = self.rng.choice(list(region.entries))
                self.term += 1
            entries = [
                entry(first + i, self.term, self.rng.randbytes(self.rng.choice((0, 9, 400))))
                for i in range(self.rng.randint(1, 4))
            ]
            state = self._state(first + len(entries) - 1)
            batch.entries(region_id, first, entries).put(region_id, b"R", state)
            done += [(region_id, "add", first, entries), (region_id, "put", b"R", state)]
        elif chance < 0.75 and region.entries:
            index = self.rng.choice([*region.entries, max(region.entries) + 1])
            batch.compact(region_id, index)
            done.append((region_id, "compact", index))
        elif chance < 0.9:
            key, value = self.rng.choice(KEYS), self.rng.randbytes(8)
            if key == b"R":
                value = self._state(max(region.entries, default=0))
            batch.put(region_id, key, value)
            done.append((region_id, "put", key, value))
        elif chance < 0.95:
            batch.clean(region_id)
            done.append((region_id, "clean"))
        else:
            batch.put(region_id, GROUP_KEY, BEGIN)  # ignored in the append queue

    def _state(self, last_index: int) -> bytes:
        state = raft_serverpb_pb2.RaftLocalState(last_index=last_index)
        state.hard_state.term = self.term
        state.hard_state.commit = self.rng.randint(0, last_index)
        return state.SerializeToString()

    def _apply(self, region_id: int, what: str, arguments: list[object], number: int) -> None:
        if what == "clean":
            self.compacted.pop(region_id, None)
            if self.regions.pop(region_id, None) is not None:
                self.removed.append(region_id)
            return
        region = self.regions.setdefault(region_id, Region())
        if what == "add":
            first, entries = arguments
            assert isinstance(first, int)
            assert isinstance(entries, list)
            region.entries = {i: e for i, e in region.entries.items() if i < first}
            compacted = self.compacted.get(region_id, {})
            self.compacted[region_id] = {i: e for i, e in compacted.items() if i < first}
            for index, data in enumerate(entries, first):
                region.entries[index] = Kept(data, "raftlog", number)
        elif what == "compact":
            (before,) = arguments
            assert isinstance(before, int)
            compacted = self.compacted.setdefault(region_id, {})
            for index in [index for index in region.entries if index < before]:
                compacted[index] = region.entries.pop(index).data
        else:
            key, value = arguments
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            region.values[key] = Kept(value, "raftlog", number)

    def _rewrite(self, region_id: int, suffix: str, watermark: int, *, atomic: bool) -> None:
        """Rewrite what files of a queue up to the watermark hold of a region."""
        region = self.regions[region_id]

        def due(kept: Kept) -> bool:
            return kept.suffix == suffix and kept.number <= watermark

        indexes = [index for index, kept in sorted(region.entries.items()) if due(kept)]
        keys = [key for key, kept in region.values.items() if due(kept)]
        if not indexes and not keys:
            return
        size = self.rng.randint(1, 4)
        parts = [indexes[i : i + size] for i in range(0, len(indexes), size)] or [[]]
        self.group += 1
        written: list[tuple[list[int], int]] = []
        for place, part in enumerate(parts):
            batch = Batch()
            if atomic and len(parts) > 1:
                last = place == len(parts) - 1
                batch.put(self.group, GROUP_KEY, BEGIN if place == 0 else END if last else MIDDLE)
                if not last and self.rng.random() < 0.02:
                    return  # the process dies: nothing was given up yet
            if part:
                batch.entries(region_id, part[0], [region.entries[i].data for i in part])
            if place == len(parts) - 1:
                for key in keys:
                    batch.put(region_id, key, region.values[key].data)
            written.append((part, self._add(self.rewrite, batch)))
        # A group is needed as long as anything in it is.
        oldest = written[0][1] if atomic else 0
        for part, number in written:
            for index in part:
                kept = region.entries[index]
                region.entries[index] = Kept(kept.data, "rewrite", oldest or number)
        for key in keys:
            data = region.values[key].data
            region.values[key] = Kept(data, "rewrite", oldest or written[-1][1])

    def _give_up(self, queue: list[FileWriter], suffix: str) -> None:
        """Delete files that hold nothing any more, or keep them for recycling."""
        needed = [
            kept.number
            for region in self.regions.values()
            for kept in (*region.entries.values(), *region.values.values())
            if kept.suffix == suffix
        ]
        oldest = min([queue[-1].number, *needed])
        gone = [file for file in queue if file.number < oldest]
        del queue[: len(gone)]
        if suffix == "raftlog" and self.rng.random() < 0.5:
            # Kept for recycling are the first of them, up to a capacity.
            self.stale += gone[: self.rng.randint(1, 3)]
