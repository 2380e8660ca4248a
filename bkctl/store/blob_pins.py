"""Pins Titan's blob files, as a view pins SST files: open from one moment on, linked from then.

    titandb/            of the store           titandb/         of the view
      CURRENT             names the MANIFEST     000002.blob      link to the open file
      MANIFEST-000001     names blob files
      000002.blob

Titan adds a file to its MANIFEST before RocksDB has an index that leads there, and takes it out
once nothing does. So the files are right for a state of RocksDB if Titan's MANIFEST was the same
from before RocksDB's was read until all of that state was opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bkctl.codec.log import TornTailError, file_blocks
from bkctl.errors import CorruptionError
from bkctl.store.descriptors import allow_descriptors
from bkctl.store.pinning import (
    current,
    link_open,
    manifest_name,
    open_sized,
    opened_manifest,
    size_of,
)
from bkctl.titan.manifest import FOLDER, BlobFileMeta, read_titan_manifest

_EMPTY = b""


class BlobPins:
    """The blob files of the store in `db_dir`; none where it has no Titan."""

    def __init__(self, db_dir: Path, *, point_in_time: bool = False) -> None:
        """Nothing is read yet; `point_in_time` is as for `PinnedView`."""
        self._db_dir, self._folder = db_dir, db_dir / FOLDER
        self._point_in_time = point_in_time
        self._descriptors: dict[str, int] = {}
        self._current, self._manifest, self._size = _EMPTY, self._folder, -1
        self.files: tuple[BlobFileMeta, ...] = ()
        """The files that are pinned."""

    def close(self) -> None:
        """Let the files go; may be called twice."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def pin(self) -> bool:
        """Open what Titan's MANIFEST names now; False where Titan moved on meanwhile.

        Raises CorruptionError for what is damaged, missing or of another size, SourceError.
        """
        self._current = self._read_current()
        if not self._current:
            self.close()
            self.files = ()
            return True
        named = manifest_name(self._plain_current(self._current), self._folder)
        self._manifest, self._size = self._folder / named, -1
        try:
            with opened_manifest(self._manifest) as (descriptor, self._size):
                self.files = read_titan_manifest(
                    self._blocks(self._manifest, descriptor, self._size),
                    self._manifest,
                    torn_tail_ok=self._point_in_time,
                )
            self._open_files()
        except (CorruptionError, TornTailError):
            if self.moved_on():
                return False
            raise
        return not self.moved_on()

    def moved_on(self) -> bool:
        """Whether Titan changed its set of files since `pin`."""
        if self._read_current() != self._current:
            return True
        return bool(self._current) and size_of(self._manifest) != self._size

    def link_into(self, view_dir: Path) -> None:
        """Make the links, in a folder of its own, which is there only if the store has a titandb.

        Raises OSError, SourceError.
        """
        if self._current:
            (view_dir / FOLDER).mkdir()
        for file in self.files:
            link = view_dir / FOLDER / file.name
            link_open(link, self._descriptors[file.name], self._folder / file.name)

    def _read_current(self) -> bytes:
        """What CURRENT says; empty where there is neither it nor a blob file."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(self._folder)
            if "CURRENT" in names or any(name.endswith(".blob") for name in names):
                return current(self._folder)
        return _EMPTY

    def _plain_current(self, said: bytes) -> bytes:
        """What a CURRENT of this content says."""
        return said

    def _blocks(self, manifest: Path, descriptor: int, size: int) -> Iterator[bytes]:
        """What the open MANIFEST holds as blocks."""
        return file_blocks(descriptor, size)

    def _open_files(self) -> None:
        wanted = {file.name: file for file in self.files}
        for name in [name for name in self._descriptors if name not in wanted]:
            os.close(self._descriptors.pop(name))
        allow_descriptors(len(wanted), self._folder, "blob files")
        for name, file in wanted.items():
            if name not in self._descriptors:
                named = f"titandb's MANIFEST names it ({file.size} bytes)"
                self._descriptors[name] = open_sized(self._folder / name, file.size, named)
