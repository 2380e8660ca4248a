"""What the files that name others are encrypted with, in a store that is encrypted at rest.

    CURRENT           plain, or encrypted by TiKV up to 5.0   names the MANIFEST
    MANIFEST-000005   most often encrypted                    names SST files, or blob files

That goes for RocksDB's own, and for those of its titandb, whose files are pinned here, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bkctl.codec.log import BLOCK_SIZE, blocks_of
from bkctl.errors import CorruptionError
from bkctl.store.atrest.decrypted import FileKey, crypted_chunks
from bkctl.store.atrest.dictionary import AtRest
from bkctl.store.blob_pins import BlobPins
from bkctl.store.log_format import Beginning, beginning
from bkctl.titan.manifest import FOLDER

_MAGIC_SIZE = 4


def plain_current(at_rest: AtRest, folder: Path, said: bytes) -> bytes:
    """What a CURRENT of this content in `folder` says; raises as AtRest does."""
    at_rest.refresh()
    key = at_rest.key_of(folder / "CURRENT")
    # TiKV up to 5.0 encrypted it; a later one writes it plain, whatever is noted of it.
    plain = said if key is None else key.crypt(said, 0)
    return plain if plain.startswith(b"MANIFEST-") else said


def manifest_key(at_rest: AtRest, manifest: Path, descriptor: int, size: int) -> FileKey | None:
    """What an open MANIFEST is encrypted with; None where it is plain.

    Raises CorruptionError where it is neither encrypted nor plain, and as AtRest does.
    """
    at_rest.refresh()
    key = at_rest.key_of(manifest)
    if key is None:
        head = os.pread(descriptor, min(size, BLOCK_SIZE), 0)
        if beginning(head) is not Beginning.WHOLE:
            raise no_entry(at_rest, manifest, "MANIFEST")
    return key


def crypted_blocks(descriptor: int, size: int, key: FileKey | None) -> Iterator[bytes]:
    """What an open log holds as blocks."""
    for chunk in crypted_chunks(descriptor, size, key):
        yield from blocks_of(chunk)


def no_entry(at_rest: AtRest, path: Path, what: str) -> CorruptionError:
    """The error of a file that is not plain, and that file.dict does not know."""
    return CorruptionError(
        f"{path}: is no plain {what}, and {at_rest.path} has no entry for it: one of the "
        "two is damaged, or from another moment"
    )


class SealedBlobPins(BlobPins):
    """See BlobPins; the links lead to files that are as they are in the store."""

    def __init__(self, at_rest: AtRest, db_dir: Path, *, point_in_time: bool = False) -> None:
        """Nothing is read yet."""
        super().__init__(db_dir, point_in_time=point_in_time)
        self._at_rest = at_rest

    def keys(self) -> dict[str, FileKey]:
        """What the pinned files are encrypted with, by their names in the view's folder.

        Right if Titan has not moved on by the time this has been done. Raises CorruptionError for
        a file that is neither encrypted nor plain, and as AtRest does.
        """
        from bkctl.titan.blob_file import MAGIC

        self._at_rest.refresh()
        keys = {}
        for file in self.files:
            path = self._folder / file.name
            key = self._at_rest.key_of(path)
            if key is not None:
                keys[f"{FOLDER}/{file.name}"] = key
                continue
            head = os.pread(self._descriptors[file.name], _MAGIC_SIZE, 0)
            if int.from_bytes(head, "little") != MAGIC:
                raise no_entry(self._at_rest, path, "blob file")
        return keys

    def _plain_current(self, said: bytes) -> bytes:
        return plain_current(self._at_rest, self._folder, said)

    def _blocks(self, manifest: Path, descriptor: int, size: int) -> Iterator[bytes]:
        key = manifest_key(self._at_rest, manifest, descriptor, size)
        return crypted_blocks(descriptor, size, key)
