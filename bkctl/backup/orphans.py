"""Finds files that a store forgot: SST files in its directory that its MANIFEST never mentions.

A MANIFEST cut off exactly between two records is sound in itself, and shows an older, thinner
store. What gives it away are files that it does not know and that hold what the store shows
nowhere. Files that a killed flush or compaction left behind are harmless: what they hold is still
in the log, or in the files they were made from.
"""

from __future__ import annotations

from pathlib import Path

from bkctl.errors import CorruptionError, StorageError
from bkctl.sst.reader import SstReader
from bkctl.store.source import Source


def refuse_forgotten_files(source: Source) -> None:
    """Raise CorruptionError for a file with records that the source's view does not show.

    Newer sequence numbers give a file away; if no process has the store open, so do a first or
    last key that the view does not have.
    """
    for path in source.unknown_files:
        what = _lost_records(path, source)
        if what:
            raise CorruptionError(
                f"{path}: holds {what}, but {source.manifest.name} does not name it: the "
                "MANIFEST was cut short or is an old copy; --recovery point-in-time backs up "
                "what it shows"
            )


def _lost_records(path: Path, source: Source) -> str:
    """What the file holds that the view lacks; empty for nothing, or for a file half written."""
    trailers: list[int] = []
    try:
        with source.open_file(path) as file:
            reader = SstReader(file, str(path), ingested=True)
            family = reader.properties.column_family_name
            blocks = list(reader.blocks())
            first, _ = reader.read_entries(blocks[0], trailers)
            last, _ = reader.read_entries(blocks[-1], trailers)
    except (CorruptionError, StorageError, IndexError):
        return ""
    if max(trailer >> 8 for trailer in trailers) > source.last_sequence:
        return "newer records than the store shows"
    if source.is_live or family not in source.families:
        return ""
    missing = source.missing(family, (first[0], last[-1]))
    return f"key {missing[0].hex().upper()}, which the store does not show" if missing else ""
