"""Opens a pinned view by whoever can read it: RocksDB, or bkctl alone if it is encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.store.view_files import is_sealed

if TYPE_CHECKING:
    from bkctl.store.database import Database


def open_database(db_dir: Path, source: Path) -> Database:
    """Open a view; `source` is the store's own directory, for messages.

    Raises CorruptionError where it is damaged.
    """
    if is_sealed(db_dir):
        from bkctl.store.sealed_database import SealedDatabase

        return SealedDatabase(db_dir, source)
    from bkctl.store.database import Database

    return Database(db_dir, source)
