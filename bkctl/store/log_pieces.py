"""Cuts write-ahead logs into pieces that RocksDB can replay in little memory, one after the other.

    logs of the store       000021.log   | 000022.log              | 000023.log
    folder of one piece     MANIFEST-000001 CURRENT  000021.log  000022.log (its beginning)
    and of the next         MANIFEST-000001 CURRENT  000022.log (the rest)  000023.log

The MANIFEST has the store's column families and no file, so that nothing else of the store is
needed. Logs keep their numbers: by these RocksDB knows what of a log some family has in files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bkctl.codec.log import write_records
from bkctl.store.manifest import ManifestState
from bkctl.store.manifest_edit import of_families

_MANIFEST = "MANIFEST-000001"


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Write batches by the numbers of their logs, in order; `size` bytes of them."""

    batches: dict[int, list[bytes]]
    size: int

    def write(self, folder: Path, state: ManifestState) -> None:
        """Make it a RocksDB, with the families of `state`, in an empty folder; OSError."""
        (folder / _MANIFEST).write_bytes(b"".join(of_families(state, max(self.batches) + 1)))
        (folder / "CURRENT").write_text(f"{_MANIFEST}\n")
        for number, batches in self.batches.items():
            with (folder / f"{number:06}.log").open("xb") as out:
                out.writelines(write_records(batches))


def log_pieces(logs: Iterable[tuple[int, Iterable[bytes]]], size: int) -> Iterator[LogPiece]:
    """Cut logs, each with its number and its batches, into pieces of `size` bytes or a little more.

    A piece ends with the batch that fills it; no batch is split.
    """
    batches: dict[int, list[bytes]] = {}
    so_far = 0
    for number, of_log in logs:
        for batch in of_log:
            batches.setdefault(number, []).append(batch)
            so_far += len(batch)
            if so_far >= size:
                yield LogPiece(batches, so_far)
                batches, so_far = {}, 0
    if batches:
        yield LogPiece(batches, so_far)
