"""One pinned view of a store that may be live: every worker opens the same files.

Nothing is created, changed, locked or renamed in the store. The view is a private folder:

    bkctl-view-…/       private, and gone with the view (`bkctl.folders`)
      db/               what RocksDB opens
        000014.sst      link to an open file of this process (/proc/PID/fd/N), or a hard link
        MANIFEST-000005 copies: the MANIFEST as it was at one moment, CURRENT, the logs
        CURRENT  000021.log
        titandb/        links to blob files (`blob_pins`), where the store has any
      narrow/           the same with some files left out, where a run asks for that

An open file outlives its deletion by the store, so compaction cannot thin a running backup. The
moment is right when the MANIFEST did not change while the files were opened: until it changes, no
file that it needs may go. Records in the write-ahead logs are flushed into SST files of the
view's own once (`flush`), so that no worker replays them or holds them in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from bkctl.codec.log import TornTailError, file_blocks
from bkctl.errors import CorruptionError, SourceError
from bkctl.files.small import open_regular
from bkctl.folders import PrivateFolder, making_files
from bkctl.sst.source import FileReader
from bkctl.store.blob_pins import BlobPins
from bkctl.store.descriptors import allow_descriptors
from bkctl.store.layout import StoreLayout
from bkctl.store.logs import OpenLog, check_logs, choose_wal_dir, close_logs, open_logs
from bkctl.store.manifest import LiveFile, ManifestState, read_manifest
from bkctl.store.manifest_edit import without_files
from bkctl.store.pinning import (
    current,
    link_open,
    manifest_name,
    open_sized,
    opened_manifest,
    size_of,
)
from bkctl.titan.manifest import FOLDER, BlobFileMeta

_PREFIX = "bkctl-view-"
_ATTEMPTS = 200
_COPY_CHUNK = 1 << 20


class PinnedView:
    """A context manager around the private folder; `db_dir` is what to open, read-only.

    `state` tells the live files; `has_wal` whether logs with records were copied too, which
    someone has to flush, within `replaying`, before workers start. `unknown_files` are
    SST files in the store that its MANIFEST never mentions; `is_live` is whether another process
    had the store open.
    """

    def __init__(
        self, layout: StoreLayout, work_dir: Path | None = None, *, point_in_time: bool = False
    ) -> None:
        """Pin `layout` now; the folder is made in `work_dir` (default: the system's).

        `point_in_time` takes a MANIFEST that is cut off in a record as RocksDB would. Raises
        SourceError where the store cannot be read, CorruptionError where files are missing, cut
        or damaged, StorageError where the private folder cannot be written.
        """
        self._layout = layout
        self._point_in_time = point_in_time
        self._descriptors: dict[str, int] = {}
        self._blobs = self._blob_pins()
        self.unknown_files: tuple[Path, ...] = ()
        self.is_live = _is_open(layout.db_dir)
        self._folder = PrivateFolder(_PREFIX, work_dir)
        self.db_dir = self._folder.path / "db"
        try:
            with making_files(self.db_dir):
                self.db_dir.mkdir()
            self.state = self._pin()
            self.has_wal = any(self.db_dir.glob("*.log"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PinnedView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go and remove the folder; may be called twice."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._blobs.close()
        self._folder.close()

    @property
    def folder(self) -> Path:
        """The private folder, to which others may add."""
        return self._folder.path

    def add_file(self, name: str, content: Iterable[bytes]) -> Path:
        """Add a file of its own to the private folder; StorageError where there is no room."""
        path = self.folder / name
        with making_files(path), path.open("wb") as out:
            out.writelines(content)
        return path

    @property
    def source(self) -> Path:
        """The store's own database directory, for messages."""
        return self._layout.db_dir

    @property
    def blob_files(self) -> tuple[BlobFileMeta, ...]:
        """The pinned files of values that Titan keeps beside the SST files."""
        return self._blobs.files

    @property
    def manifest(self) -> Path:
        """The store's MANIFEST, for messages."""
        return self._manifest

    @contextlib.contextmanager
    def replaying(self) -> Iterator[Path]:
        """Within the block, logs are replayed, into SST files of the folder given: a RocksDB's.

        `state` then tells of those, too.
        """
        yield self.db_dir
        self._read_state()

    def _read_state(self) -> None:
        manifest = self.db_dir / manifest_name(current(self.db_dir), self.source)
        with opened_manifest(manifest) as (descriptor, size):
            self.state = self._read_manifest(descriptor, size, manifest)

    def narrow(self, hidden: Iterable[LiveFile]) -> Path:
        """Make a second folder to open, which shows the view without these files; give its path.

        Logs must have been flushed. Raises StorageError where it cannot be written.
        """
        manifest = manifest_name(current(self.db_dir), self.source)
        hidden = tuple(hidden)
        hidden_names = {file.name for file in hidden}
        narrow = self.folder / "narrow"
        with making_files(narrow):
            shutil.rmtree(narrow, ignore_errors=True)
            narrow.mkdir()
            for file in self.state.live_files:
                if file.name not in hidden_names:
                    (narrow / file.name).symlink_to(self.db_dir / file.name)
            path = self.db_dir / manifest
            with opened_manifest(path) as (descriptor, size):
                content = without_files(self._blocks(path, descriptor, size), path, hidden)
                self._write_manifest(narrow, manifest, content)
            if (self.db_dir / FOLDER).is_dir():
                (narrow / FOLDER).symlink_to(self.db_dir / FOLDER)
        return narrow

    def _pin(self) -> ManifestState:
        for _ in range(_ATTEMPTS):
            state = self._try_pin()
            if state is not None:
                return state
        raise SourceError(
            f"{self.source}: the store changed its files {_ATTEMPTS} times while bkctl opened "
            "them; try again when it is less busy, or take a checkpoint and back that up"
        )

    def _try_pin(self) -> ManifestState | None:
        """Pin what the MANIFEST names now; None if the store moved on meanwhile."""
        db_dir = self._layout.db_dir
        # Before RocksDB's, and unchanged when that is pinned: see BlobPins.
        if not self._blobs.pin():
            return None
        said = current(db_dir)
        named = self._plain_current(said)
        manifest = self._manifest = db_dir / manifest_name(named, db_dir)
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(opened_manifest(manifest))
                self._settle_manifest(manifest, *opened)
            except CorruptionError:
                if current(db_dir) != said:
                    return None
                raise
            return self._try_pin_as(said, opened, stack)

    def _try_pin_as(
        self, said: bytes, opened: tuple[int, int], stack: contextlib.ExitStack
    ) -> ManifestState | None:
        """Pin what the open MANIFEST names, of its descriptor and size; CURRENT said so."""
        db_dir, manifest = self._layout.db_dir, self._manifest

        def moved_on() -> bool:
            if current(db_dir) != said or size_of(manifest) != opened[1]:
                return True
            return self._blobs.moved_on()

        try:
            state = self._read_manifest(*opened, manifest)
        except TornTailError:
            # A live store may have been in the middle of appending.
            if moved_on():
                return None
            raise
        try:
            self._open_files(state)
            # Before the logs' sizes are taken: the logs then cover what an unfinished flush holds.
            self.unknown_files = _unknown_files(db_dir, state)
            logs = self._open_logs(state)
        except CorruptionError:
            if moved_on():
                return None
            raise
        stack.callback(close_logs, logs)
        try:
            self._settle(state, logs)
        except CorruptionError:
            if moved_on():
                return None
            raise
        if moved_on():
            return None
        self._fill(state, manifest.name, opened, logs)
        # A recycled log is written over in place once it is obsolete.
        if self._layout.recycles_wal and logs and moved_on():
            return None
        self._check_logs(state, logs)
        return state

    def _read_manifest(self, descriptor: int, size: int, path: Path) -> ManifestState:
        blocks = self._blocks(path, descriptor, size)
        return read_manifest(blocks, path, torn_tail_ok=self._point_in_time)

    def _open_files(self, state: ManifestState) -> None:
        wanted = {file.name: file for file in state.live_files}
        for name in [name for name in self._descriptors if name not in wanted]:
            os.close(self._descriptors.pop(name))
        count = len(wanted) + len(self.blob_files)
        allow_descriptors(count, self.source, "SST and blob files")
        for name, file in wanted.items():
            if name not in self._descriptors:
                self._descriptors[name] = self._open_checked(file)

    def _open_checked(self, file: LiveFile) -> int:
        named = f"the MANIFEST names it ({file.size} bytes, family {file.family})"
        return open_sized(self._layout.db_dir / file.name, file.size, named)

    def _open_logs(self, state: ManifestState) -> list[OpenLog]:
        wal_dir, told = self._layout.wal_dir, self._layout.told_wal_dir
        if told is not None:
            wal_dir = choose_wal_dir(wal_dir, told, state.min_log_number)
        logs = open_logs(wal_dir, state.min_log_number)
        if not logs and not state.tracked_logs and not self._layout.is_wal_dir_given:
            raise CorruptionError(
                f"{wal_dir}: no write-ahead log is there, and a RocksDB always keeps one: what was "
                "in it is missing; say where it is with --wal-dir (for a copy that was flushed and "
                "left it out: an empty directory)"
            )
        return logs

    def _check_logs(self, state: ManifestState, logs: list[OpenLog]) -> None:
        """Cut the copies of the logs where they end; raises CorruptionError for damage in them."""
        with making_files(self.db_dir):
            kept = check_logs(
                logs,
                self.db_dir,
                state,
                point_in_time=self._point_in_time,
                opened=self._open_copy,
            )
            # RocksDB looks for empty ones, too, if the MANIFEST counts them.
            if not state.tracked_logs and not any(log.has_writes for log in kept):
                kept = []
            for log in kept:
                os.truncate(log.copy, log.size)
            for path in set(self.db_dir.glob("*.log")) - {log.copy for log in kept}:
                path.unlink()

    def _fill(
        self,
        state: ManifestState,
        manifest: str,
        opened: tuple[int, int],
        logs: list[OpenLog],
    ) -> None:
        """Write the private folder: links for SST files, copies for what is small and mutable."""
        with making_files(self.db_dir):
            shutil.rmtree(self.db_dir)
            self.db_dir.mkdir()
            # Only live files: RocksDB may give other numbers to new files of the view's own.
            for file in state.live_files:
                original = self._layout.db_dir / file.name
                link_open(self.db_dir / file.name, self._descriptors[file.name], original)
            self._blobs.link_into(self.db_dir)
            _copy_prefix(opened[0], self.db_dir / manifest, opened[1])
            self._name_manifest(self.db_dir, manifest)
            for log in logs:
                _copy_prefix(log.descriptor, self.db_dir / log.path.name, log.size)

    def _blob_pins(self) -> BlobPins:
        """What pins the blob files."""
        return BlobPins(self._layout.db_dir, point_in_time=self._point_in_time)

    def _plain_current(self, said: bytes) -> bytes:
        """What a CURRENT of this content says."""
        return said

    def _settle_manifest(self, manifest: Path, descriptor: int, size: int) -> None:
        """Find out what is to be known of the store's MANIFEST, which is open."""

    def _settle(self, state: ManifestState, logs: list[OpenLog]) -> None:
        """Find out what else is to be known of the files, as long as they are pinned."""

    def _blocks(self, manifest: Path, descriptor: int, size: int) -> Iterator[bytes]:
        """What an open MANIFEST holds, of the store's or of the view's, as blocks."""
        return file_blocks(descriptor, size)

    def _open_copy(self, path: Path) -> FileReader:
        """Open a file of the view to read its plain bytes."""
        return FileReader(path)

    def _write_manifest(self, folder: Path, manifest: str, content: Iterable[bytes]) -> None:
        with (folder / manifest).open("xb") as out:
            out.writelines(content)
        self._name_manifest(folder, manifest)

    def _name_manifest(self, folder: Path, manifest: str) -> None:
        (folder / "CURRENT").write_text(f"{manifest}\n")


def _unknown_files(db_dir: Path, state: ManifestState) -> tuple[Path, ...]:
    return tuple(
        db_dir / name
        for name in sorted(os.listdir(db_dir))
        if (match := re.fullmatch(r"(\d+)\.sst", name))
        and int(match.group(1)) not in state.known_numbers
    )


def _is_open(db_dir: Path) -> bool:
    """Whether a process holds RocksDB's lock on the directory; only asks, takes no lock."""
    try:
        with os.fdopen(open_regular(db_dir / "LOCK"), "rb") as lock:
            query = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(lock, fcntl.F_GETLK, query)
    except OSError:
        return False
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def _copy_prefix(descriptor: int, target: Path, size: int) -> None:
    with target.open("xb") as out:
        for chunk in _chunks(descriptor, size):
            out.write(chunk)


def _chunks(descriptor: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        chunk = os.pread(descriptor, min(_COPY_CHUNK, size - offset), offset)
        if not chunk:
            return
        offset += len(chunk)
        yield chunk
