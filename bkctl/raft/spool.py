"""A private copy of the batches that a log still needs, for a store that goes on running.

It recycles its files: what they held is gone once they are written over. So the batches whose
entries are wanted are copied when the log is opened, which are few where applied entries are not
kept. They stay as they were, but that their items' checksums are not signed any more.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Collection
from pathlib import Path

import numpy as np

from bkctl.folders import making_files
from bkctl.raft.batch import CHECKSUM_SIZE
from bkctl.raft.blocks import Blocks
from bkctl.raft.log_file import FileId, LogFile, PlainFile, Queue
from bkctl.raft.table import RegionTable, place_of

_SLOT = 0
_ID = FileId(Queue.APPEND, 0)
UNSIGNED = 0


def copy_batches(tables: Collection[RegionTable], blocks: Blocks, folder: Path) -> LogFile:
    """Copy the batches that `tables` have entries in, and have them point into the copy.

    It is the only file of theirs then, UNSIGNED. It has no name in `folder`, and is gone with its
    reader. Raises StorageError where it cannot be written, CorruptionError for a batch that is not
    sound any more.
    """
    none = np.zeros(0, np.uint64)
    old = np.unique(np.concatenate([none, *(np.array(table.places) for table in tables)]))
    new = np.zeros(len(old), np.uint64)
    with making_files(folder):
        descriptor, name = tempfile.mkstemp(prefix="raft-", dir=folder)
        with open(descriptor, "wb") as copy:
            reader = PlainFile(Path(name))
            os.unlink(name)
            try:
                for number, place in enumerate(old.tolist()):
                    new[number] = place_of(_SLOT, copy.tell())
                    stored, signature = blocks.stored(place)[0], blocks.signature(place)
                    signed = int.from_bytes(stored[-CHECKSUM_SIZE:], "little")
                    copy.write(stored[:-CHECKSUM_SIZE])
                    copy.write((signed ^ signature).to_bytes(CHECKSUM_SIZE, "little"))
                size = copy.tell()
            except BaseException:
                reader.close()
                raise
    for table in tables:
        moved = new[np.searchsorted(old, np.array(table.places))]
        table.places = array("Q", moved.tobytes())
    return LogFile(_ID, folder / "copy of the raft log", reader, size)
