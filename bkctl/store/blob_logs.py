"""Makes a view's write-ahead logs such that RocksDB takes the blob indexes in them as they are.

`bkctl.titan.log_entries` says what is changed, and why. Only the private copies are ever written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bkctl.codec.log import write_records
from bkctl.errors import CorruptionError
from bkctl.folders import making_files
from bkctl.store.wal import read_batches
from bkctl.titan.log_entries import with_marked_indexes
from bkctl.titan.manifest import FOLDER


def mark_blob_indexes(db_dir: Path, source: Path) -> None:
    """Write those logs anew that hold blob indexes, where the view `db_dir` has a titandb.

    The logs have been checked, and RocksDB does not have them open. `source` is the store's own
    folder. Raises CorruptionError, naming the log; StorageError where there is no room.
    """
    if not (db_dir / FOLDER).is_dir():
        return
    for log in sorted(db_dir.glob("*.log")):
        number = int(log.stem)
        with _naming(source / log.name):
            if all(with_marked_indexes(batch) is None for batch in read_batches(log, number)):
                continue
            anew = log.with_suffix(".marked")
            batches = read_batches(log, number)
            with making_files(db_dir):
                with anew.open("xb") as out:
                    out.writelines(write_records(with_marked_indexes(b) or b for b in batches))
                anew.replace(log)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give a CorruptionError the log's name."""
    try:
        yield
    except CorruptionError as e:
        raise CorruptionError(f"{path}: {e}") from None
