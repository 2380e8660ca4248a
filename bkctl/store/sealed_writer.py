"""Adds files of a view's own to a view of an encrypted store, encrypted with the view's own key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from bkctl.codec.cipher import Cipher, new_iv
from bkctl.codec.log import blocks_of
from bkctl.folders import making_files
from bkctl.sst.source import FileReader
from bkctl.store.atrest.decrypted import FileKey, crypted_chunks
from bkctl.store.log_pieces import LogPiece
from bkctl.store.manifest import LiveFile, ManifestState, read_manifest
from bkctl.store.manifest_edit import with_files
from bkctl.store.memory import memory_folder

# What RocksDB sets aside for its own files.
_REPLAY_SPARE = 16 << 20


class SealedWriter:
    """Writes into the folder of a view.

    `keys` are those of its files, and are kept up to date; `cipher` encrypts new files. `manifest`
    is the store's MANIFEST, for messages; `state` tells what is in the view.
    """

    def __init__(
        self,
        db_dir: Path,
        keys: dict[str, FileKey],
        cipher: Cipher,
        state: ManifestState,
        manifest: Path,
    ) -> None:
        self._db_dir, self._keys, self._cipher = db_dir, keys, cipher
        self._manifest, self.state = manifest, state
        logs = (int(path.stem) for path in db_dir.glob("*.log"))
        self._numbers = count(max([*state.known_numbers, *logs]) + 1)

    def replay(
        self, piece: LogPiece, flush: Callable[[Path], None]
    ) -> tuple[tuple[LiveFile, ...], int]:
        """Replay a piece of the logs into new files; give those, and its last sequence number.

        `flush` has RocksDB replay what is in a folder. They count once they are added (`add`).
        Raises CorruptionError where RocksDB cannot, StorageError where there is no memory or room.
        """
        # Once as a log, and once, with what frames the records, as files.
        needed = 5 * piece.size // 2 + _REPLAY_SPARE
        # Beside the view, if that is in memory.
        with memory_folder(self._db_dir.parents[1], needed) as folder:
            with making_files(folder):
                piece.write(folder, self.state)
            flush(folder)
            manifest = folder / (folder / "CURRENT").read_text().strip()
            made = read_manifest(manifest.read_bytes(), manifest)
            files = tuple(self._take_over(folder, file) for file in made.live_files)
            return files, made.last_sequence

    def add(self, files: Sequence[LiveFile], last_sequence: int) -> None:
        """Have the view's MANIFEST tell of these files, too, and need no log any more."""
        state = dataclasses.replace(self.state, last_sequence=last_sequence)
        manifest = self._db_dir / (self._db_dir / "CURRENT").read_text().strip()
        with FileReader(manifest) as before, making_files(self._db_dir):
            blocks = self._blocks(manifest.name, before)
            content = with_files(blocks, self._manifest, files, state, next(self._numbers))
            manifest.unlink()
            self._keys[manifest.name] = write_sealed(manifest, content, self._cipher)
        with FileReader(manifest) as after:
            self.state = read_manifest(self._blocks(manifest.name, after), self._manifest)

    def _take_over(self, folder: Path, file: LiveFile) -> LiveFile:
        """Encrypt a file on its way out of memory."""
        own = dataclasses.replace(file, number=next(self._numbers))
        target = self._db_dir / own.name
        with making_files(target), FileReader(folder / file.name) as plain:
            chunks = crypted_chunks(plain.fileno(), file.size, None)
            self._keys[own.name] = write_sealed(target, chunks, self._cipher)
        return own

    def _blocks(self, name: str, file: FileReader) -> Iterator[bytes]:
        for chunk in crypted_chunks(file.fileno(), file.size, self._keys.get(name)):
            yield from blocks_of(chunk)


def write_sealed(path: Path, content: Iterable[bytes], cipher: Cipher) -> FileKey:
    """Write a new file, encrypted with an IV of its own; OSError."""
    key = FileKey(cipher, new_iv())
    context = cipher.at(key.iv, 0)
    with path.open("xb") as out:
        out.writelines(map(context.update, content))
    return key
