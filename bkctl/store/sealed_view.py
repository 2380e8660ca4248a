"""A pinned view of a store that is encrypted at rest: nothing of it is plain on any disk.

    bkctl-view-…/db/     on disk, as `view` shows it; in it
      000014.sst         link to an open file of the store, encrypted as it is there
      titandb/           links to blob files, which are so, too
      MANIFEST-000005    copy, encrypted as in the store, or with a key of the view's own
      000021.log         copy, encrypted as in the store; gone once it is replayed
      000031.sst         what logs were replayed into, encrypted with a key of the view's own
      KEYS               link to a file in memory: what each file is encrypted with (`view_files`)
    bkctl-memory-…/      in memory: where RocksDB replays a piece of the logs, gone after that

RocksDB cannot read such a view; bkctl's own readers decrypt what they read (`sealed_database`).
RocksDB replays the logs all the same, a piece of them at a time (`log_pieces`), in memory: of a
store with large logs, no more than a piece and what it is replayed into is there at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bkctl.codec.cipher import IV_SIZE, random_cipher
from bkctl.codec.log import BLOCK_SIZE
from bkctl.errors import CorruptionError, SourceError
from bkctl.folders import making_files
from bkctl.sst.format import is_magic
from bkctl.sst.source import FileReader
from bkctl.store.atrest.decrypted import FileKey, crypted_chunks, open_file
from bkctl.store.atrest.dictionary import AtRest
from bkctl.store.atrest.view_keys import encode_keys
from bkctl.store.blob_pins import BlobPins
from bkctl.store.flush import FLUSH_BUFFER, LogFlusher
from bkctl.store.layout import StoreLayout
from bkctl.store.log_format import Beginning, beginning
from bkctl.store.log_pieces import log_pieces
from bkctl.store.logs import OpenLog
from bkctl.store.manifest import LiveFile, ManifestState
from bkctl.store.memory import MemoryFile, remove_memory_leftovers
from bkctl.store.sealed_files import (
    SealedBlobPins,
    crypted_blocks,
    manifest_key,
    no_entry,
    plain_current,
)
from bkctl.store.sealed_writer import SealedWriter, write_sealed
from bkctl.store.view import PinnedView
from bkctl.store.view_files import KEYS, OWN, take_added
from bkctl.store.wal import read_batches
from bkctl.titan.log_entries import with_marked_indexes
from bkctl.titan.manifest import FOLDER

_MAGIC_SIZE = 8
# So that what a family has in a piece is one file, most often.
_PIECE = 3 * FLUSH_BUFFER // 4


class SealedView(PinnedView):
    """See PinnedView; the files of its folder are to be opened with `ViewFiles`."""

    def __init__(
        self,
        layout: StoreLayout,
        at_rest: AtRest,
        work_dir: Path | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        point_in_time: bool = False,
    ) -> None:
        """See PinnedView; raises SourceError, too, where the store's keys cannot be had."""
        self._at_rest = at_rest
        self._work_dir, self._is_cancelled = work_dir, is_cancelled
        # Of the files in `db_dir`.
        self._keys: dict[str, FileKey] = {}
        self._in_memory: dict[Path, MemoryFile] = {}
        self._own_cipher = random_cipher()
        remove_memory_leftovers(work_dir)
        super().__init__(layout, work_dir, point_in_time=point_in_time)

    def close(self) -> None:
        """See PinnedView."""
        super().close()
        for file in self._in_memory.values():
            file.close()
        self._in_memory.clear()

    def add_file(self, name: str, content: Iterable[bytes]) -> Path:
        """See PinnedView; the file is in memory."""
        path = self.folder / name
        self._put(path, content)
        return path

    @contextmanager
    def replaying(self) -> Iterator[Path]:
        """See PinnedView; the store's own logs are replayed here."""
        if self.has_wal:
            self._flush()
        yield self.db_dir
        self._take_in()
        self._read_state()

    def _flush(self) -> None:
        logs = {int(path.stem): path for path in sorted(self.db_dir.glob("*.log"))}
        batches = ((number, self._batches(path, number)) for number, path in logs.items())
        keys, cipher = self._keys, self._own_cipher
        writer = SealedWriter(self.db_dir, keys, cipher, self.state, self._manifest)
        last_sequence, added = self.state.last_sequence, list[LiveFile]()
        with LogFlusher(self.source, self._is_cancelled) as flusher:
            for piece in log_pieces(batches, _PIECE):
                files, last = writer.replay(piece, flusher.flush)
                added += files
                last_sequence = max(last_sequence, last)
        writer.add(added, last_sequence)
        with making_files(self.db_dir):
            for path in logs.values():
                path.unlink()
                keys.pop(path.name, None)
        self._put_keys(self.db_dir, keys)

    def _batches(self, path: Path, number: int) -> Iterator[bytes]:
        has_blobs = (self.db_dir / FOLDER).is_dir()
        try:
            for batch in read_batches(path, number, self._open_copy):
                yield (with_marked_indexes(batch) if has_blobs else None) or batch
        except CorruptionError as e:
            raise CorruptionError(f"{self.source / path.name}: {e}") from None

    def _take_in(self) -> None:
        """Know of files that another process has added."""
        added = take_added(self.db_dir)
        for name, iv in added.items():
            self._keys[name] = FileKey(self._own_cipher, iv)
        if added:
            self._put_keys(self.db_dir, self._keys)

    def _blob_pins(self) -> BlobPins:
        # Kept as what it is: it has the keys of what it pins.
        self._sealed_blobs = SealedBlobPins(
            self._at_rest, self._layout.db_dir, point_in_time=self._point_in_time
        )
        return self._sealed_blobs

    def _plain_current(self, said: bytes) -> bytes:
        return plain_current(self._at_rest, self._layout.db_dir, said)

    def _settle_manifest(self, manifest: Path, descriptor: int, size: int) -> None:
        key = manifest_key(self._at_rest, manifest, descriptor, size)
        self._keys = {} if key is None else {manifest.name: key}

    def _blocks(self, manifest: Path, descriptor: int, size: int) -> Iterator[bytes]:
        return crypted_blocks(descriptor, size, self._keys.get(manifest.name))

    def _settle(self, state: ManifestState, logs: Sequence[OpenLog]) -> None:
        # Files' entries in the dictionary go after the files, so none of those that the MANIFEST
        # names is missing if it has not changed by the time this has been done.
        self._at_rest.refresh()
        for file in state.live_files:
            key = self._at_rest.key_of(self._layout.db_dir / file.name)
            if key is not None:
                self._keys[file.name] = key
            elif not self._is_sst(file.name, file.size):
                raise no_entry(self._at_rest, self._layout.db_dir / file.name, "SST file")
        for log in logs:
            key = self._at_rest.key_of(log.path)
            if key is not None:
                self._keys[log.path.name] = key
            self._check_log(log, key)
        self._keys |= self._sealed_blobs.keys()

    def _is_sst(self, name: str, size: int) -> bool:
        start = max(0, size - _MAGIC_SIZE)
        return is_magic(os.pread(self._descriptors[name], _MAGIC_SIZE, start))

    def _check_log(self, log: OpenLog, key: FileKey | None) -> None:
        """Refuse a log that is not what its entry says: it would be taken for a torn, empty one."""
        head = crypted_chunks(log.descriptor, min(log.size, BLOCK_SIZE), key)
        begins = beginning(b"".join(head))
        if key is None and begins in (Beginning.CUT, Beginning.DAMAGED):
            raise no_entry(self._at_rest, log.path, "log")
        if begins is Beginning.DAMAGED and not self._point_in_time:
            raise CorruptionError(
                f"{log.path}: does not begin with a log's record when decrypted: it is damaged; "
                "--recovery point-in-time takes what lies before the damage, as TiKV would"
            )

    def _open_copy(self, path: Path) -> FileReader:
        return open_file(path, self._keys.get(path.name))

    def _write_manifest(self, folder: Path, manifest: str, content: Iterable[bytes]) -> None:
        key = write_sealed(folder / manifest, content, self._own_cipher)
        super()._name_manifest(folder, manifest)
        self._put_keys(folder, {**self._keys, manifest: key})

    def _name_manifest(self, folder: Path, manifest: str) -> None:
        super()._name_manifest(folder, manifest)
        self._put_keys(folder, self._keys)

    def _put_keys(self, folder: Path, keys: Mapping[str, FileKey]) -> None:
        own = FileKey(self._own_cipher, bytes(IV_SIZE))
        self._put(folder / KEYS, [encode_keys({**keys, OWN: own})])

    def _put(self, link: Path, chunks: Iterable[bytes]) -> None:
        """Have a link to a file in memory; one that was there before gives way."""
        file = MemoryFile(chunks)
        link.unlink(missing_ok=True)
        if (before := self._in_memory.pop(link, None)) is not None:
            before.close()
        self._in_memory[link] = file
        if not file.path.exists():
            raise SourceError("an encrypted store cannot be read without /proc; mount it")
        link.symlink_to(file.path)
