"""A temporary store of finished SST files in layers, each newer than the one below it.

    level 0   the newest layer       RocksDB's merging iterator reads all layers
    ...                              as one, in key order
    level n   the oldest layer

The store lives as long as its reader needs it, and is never synced. Its files may be hard links:
none is written into. However many layers there are, each has a level, so that a scan has one file
of each open at a time, and its buffers do not grow with the number of files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bkctl.errors import BkctlError, CorruptionError
from bkctl.store.database import READAHEAD, Database
from bkctl.store.new_store import LEVELS, NewStore, ingest_named

_BUFFERS = 32 << 20
_LEAST_READAHEAD = 64 << 10
_FILE = re.compile(r"(?:\S*/)?(\d{6,}\.sst)")


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A finished SST file for column family `family`, all of whose keys lie in `[lower, upper)`.

    `path` is moved into the store; `shown_name` replaces the name it gets there in messages.
    """

    shown_name: str
    path: Path
    family: str
    lower: bytes
    upper: bytes


@dataclass(frozen=True, slots=True)
class LayeredStore:
    """A store made by `build_layers`: what is needed to open it, in this process or another."""

    db_dir: Path
    layers: int
    shown_names: tuple[tuple[str, str], ...]

    def open(self) -> Database:
        """Open it for reading; errors name the files as they were called before."""
        return _LayeredDatabase(self)


def build_layers(db_dir: Path, layers: Sequence[Sequence[LayerFile]]) -> LayeredStore:
    """Make the store `db_dir` of layers, oldest first; files of a layer and family are disjoint.

    Raises CorruptionError, naming the file, where one is no SST file or holds keys outside its
    bounds, StorageError where the directory fails.
    """
    by_inode = {file.path.stat().st_ino: file for layer in layers for file in layer}
    with NewStore(db_dir, levels=_levels(len(layers))) as store:
        for layer in layers:
            ordered = sorted(layer, key=lambda file: file.family)
            for family, files in groupby(ordered, key=lambda file: file.family):
                named = [(file.shown_name, file.path) for file in files]
                if (refused := ingest_named(store, family, named)) is not None:
                    raise CorruptionError(f"{refused.shown_name}: {refused.what}")
        shown_names = []
        for taken in store.files():
            file = by_inode[(db_dir / taken.name).stat().st_ino]
            if not file.lower <= taken.first_key <= taken.last_key < file.upper:
                raise CorruptionError(f"{file.shown_name}: holds keys outside the range it is for")
            shown_names.append((taken.name, file.shown_name))
    return LayeredStore(db_dir, len(layers), tuple(shown_names))


class _LayeredDatabase(Database):
    """The store, read with buffers that all its layers share."""

    def __init__(self, store: LayeredStore) -> None:
        self._shown_names = dict(store.shown_names)
        self._readahead = max(_LEAST_READAHEAD, min(READAHEAD, _BUFFERS // max(1, store.layers)))
        super().__init__(store.db_dir, store.db_dir, _levels(store.layers))

    def error(self, error: Exception) -> BkctlError:
        """See Database."""
        told = super().error(error)
        if not isinstance(told, CorruptionError):
            return told
        text = str(told)
        names = [self._shown_names[n] for n in _FILE.findall(text) if n in self._shown_names]
        if not names:
            return told
        what = text.rpartition("Corruption: ")[2]
        return CorruptionError(f"{names[0]}: {_FILE.sub('the file', what)}")


def _levels(layers: int) -> int:
    # One more, as RocksDB keeps level 0 for files that overlap.
    return max(LEVELS, layers + 1)
