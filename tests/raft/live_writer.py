"""Writes a raft log as raft-engine does, as fast as it can, until its standard input ends.

    python -m tests.raft.live_writer FOLDER

Three regions get entries in each batch, which is synced. Files are begun at 64 KiB, with space set
aside; once all in them is compacted they are kept for a while, and then written over, the
oldest first. `FOLDER/acked` holds the newest index written.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from pathlib import Path

from tests.raft.logs import add
from tests.raft.writer import Batch, FileWriter

REGIONS = (1, 2, 3)
_FILE_SIZE = 64 << 10
_KEPT_ENTRIES = 600
_SPARE_FILES = 30


class LiveWriter:
    """The append queue of a log; `written` are its files, with the last index in each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = 0
        self.compacted = 1
        self.recyclable: deque[int] = deque()
        self.written: deque[tuple[int, int]] = deque()
        self.acked = os.open(folder / "acked", os.O_CREAT | os.O_RDWR)
        FileWriter(folder, 1, "rewrite").write()
        self.begin(1)

    def begin(self, number: int) -> None:
        """Begin a file: a recycled one, or a new one with space set aside."""
        self.number = number
        path = self.folder / f"{number:016}.raftlog"
        if len(self.recyclable) >= _SPARE_FILES:
            (self.folder / f"{self.recyclable.popleft():016}.raftlog").rename(path)
        self.file = os.open(path, os.O_CREAT | os.O_RDWR)
        self.offset = 0
        if os.fstat(self.file).st_size == 0:
            os.posix_fallocate(self.file, 0, _FILE_SIZE)
        self.put(bytes(FileWriter(self.folder, number).content))

    def put(self, data: bytes) -> None:
        os.pwrite(self.file, data, self.offset)
        self.offset += len(data)

    def write(self, batch: Batch) -> None:
        if self.offset >= _FILE_SIZE:
            os.ftruncate(self.file, self.offset)
            os.close(self.file)
            self.written.append((self.number, self.index))
            self.begin(self.number + 1)
        self.put(batch.encode(self.number, compress=self.index % 2 == 0))

    def step(self) -> None:
        """Write one more batch, and at times compact and give up old files."""
        batch = Batch()
        for region_id in REGIONS:
            add(batch, region_id, self.index + 1, 3)
            batch.put(region_id, b"other", b"x" * 1000)
        self.write(batch)
        os.fdatasync(self.file)
        self.index += 3
        os.pwrite(self.acked, self.index.to_bytes(8, "big"), 0)
        if self.index % 90 == 0 and self.index > _KEPT_ENTRIES:
            self.compacted = self.index - _KEPT_ENTRIES
            batch = Batch()
            for region_id in REGIONS:
                batch.compact(region_id, self.compacted)
            self.write(batch)
            self.give_up()

    def give_up(self) -> None:
        while self.written and self.written[0][1] < self.compacted:
            self.recyclable.append(self.written.popleft()[0])


def main() -> None:
    writer = LiveWriter(Path(sys.argv[1]))
    while len(writer.recyclable) < _SPARE_FILES:
        writer.step()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        writer.step()


if __name__ == "__main__":
    main()
