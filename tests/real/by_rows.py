"""`python -m tests.real.by_rows …` is bkctl, but that it reads nothing as columns.

So `default` is read by `store.rows` where the store has values in blob files, all else by RocksDB's
iterator. Workers are forked and do as their parent. How a family was begun to be read is told by a
line in the file that TOLD names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# No threads of a library, behind which workers would not be forked.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from bkctl.__main__ import main
from bkctl.store import column_scan
from bkctl.store.column_scan import ColumnScan
from bkctl.store.tables import UnreadableError


class NotAsColumns:
    """What columns are read with, where they are not to be."""

    def __init__(self, *_: object) -> None:
        raise UnreadableError("not as columns")


def noted(way: str, whole: Callable[..., None]) -> Callable[..., None]:
    """`whole`, a method of ColumnScan, telling that the family is read in this way."""

    def open_and_tell(scan: Any, *given: object) -> None:
        whole(scan, *given)
        with Path(os.environ["TOLD"]).open("a") as told:
            told.write(f"{scan._family}: {way}\n")

    return open_and_tell


if __name__ == "__main__":
    for name in ("MergedScan", "Lookup"):
        setattr(column_scan, name, NotAsColumns)
    for name, way in (("_open_rows", "rows"), ("_open_plain", "rocksdb")):
        setattr(ColumnScan, name, noted(way, getattr(ColumnScan, name)))
    main()
