"""Adds log batches up to what the log holds now, as raft-engine does when it is opened.

The rewrite queue comes first, file by file, then the append queue over it:

    entries of the append queue follow those before them, or replace them from their first index on;
    a hole is damage. Those of the rewrite queue may leave holes, and what is before a hole goes
    (entries were compacted meanwhile, and only the append queue had been told)
    commands and deleted values of the append queue count for what was rewritten, too; a region that
    is not cleaned has what was rewritten and over it what the append queue holds
    a rewrite of several batches counts only as a whole, once its last batch is there: each of them
    sets the key "__" 01 of its group to one byte, 0 the first, 1 one between, 2 the last

Source: raft-engine's src/memtable.rs and src/purge.rs. It reads files in parallel and merges, which
comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from bkctl.errors import CorruptionError
from bkctl.raft.batch import CLEAN, COMPACT, DELETE, ENTRIES, PUT, Item
from bkctl.raft.table import HoleError, RegionTable

_GROUP_KEY = b"__\x01"
_BEGIN, _MIDDLE, _END = 0, 1, 2

_Tables = dict[int, RegionTable]


class Replay:
    """Takes the batches of the rewrite queue, then those of the append queue."""

    def __init__(self, keep_from: Mapping[int, int], *, keeps_compacted: bool = True) -> None:
        """Begin with nothing; for the regions in `keep_from` see RegionTable's `keep`."""
        self._keep_from, self._keeps_compacted = keep_from, keeps_compacted
        self._rewritten: _Tables = {}
        self._appended: _Tables = {}
        # The batches (items, place) of groups that are begun and not ended.
        self._groups: dict[int, list[tuple[list[Item], int]]] = {}

    def rewrite(self, items: list[Item], place: int) -> None:
        """Take a batch of the rewrite queue; CorruptionError for a group's mark that is none."""
        mark = next(filter(_is_mark, items), None)
        if mark is None:
            self._apply(self._rewritten, items, place)
            return
        step = mark.value[0]
        if step == _BEGIN:
            self._groups[mark.region_id] = [(items, place)]
        elif step in (_MIDDLE, _END):
            # A group whose first batch is gone with its file was rewritten again since.
            begun = self._groups.get(mark.region_id)
            if begun is not None:
                begun.append((items, place))
                if step == _END:
                    del self._groups[mark.region_id]
                    for part, its_place in begun:
                        self._apply(self._rewritten, part, its_place)
        else:
            raise CorruptionError(f"an atomic group's mark says {step}")

    def append(self, items: list[Item], place: int) -> None:
        """Take a batch of the append queue; CorruptionError for entries behind a hole."""
        try:
            self._apply(self._appended, items, place, older=self._rewritten)
        except HoleError as e:
            raise CorruptionError(str(e)) from None

    def finish(self) -> _Tables:
        """What the log holds, by region; those that have nothing are left out."""
        tables = self._rewritten
        for region_id, newer in self._appended.items():
            older = tables.get(region_id)
            if older is None:
                tables[region_id] = newer
            else:
                older.overlay(newer)
        self._appended = {}
        for table in tables.values():
            table.trim()
        return {region_id: table for region_id, table in tables.items() if not table.is_empty()}

    def _apply(
        self, tables: _Tables, items: list[Item], place: int, *, older: _Tables | None = None
    ) -> None:
        """Apply a batch to `tables`; those of the append queue lie over `older` ones."""
        for item in items:
            kind, region_id, log_index, entry_count, key, value = item
            if kind in (ENTRIES, PUT):
                table = tables.get(region_id)
                if table is None:
                    table = self._new_table(tables, region_id)
                if kind == PUT:
                    if key != _GROUP_KEY:
                        table.put(key, value)
                elif entry_count:
                    table.append(log_index, entry_count, place, hole_ok=older is None)
            elif key != _GROUP_KEY:
                _remove(tables, item, rewritten=older is None)
                if older is not None:
                    _remove(older, item, rewritten=True)

    def _new_table(self, tables: _Tables, region_id: int) -> RegionTable:
        table = tables[region_id] = RegionTable(
            region_id, self._keep_from.get(region_id), keeps_compacted=self._keeps_compacted
        )
        return table


def _remove(tables: _Tables, item: Item, *, rewritten: bool) -> None:
    """Do what a command, or a deleted value, says."""
    table = tables.get(item.region_id)
    if table is None:
        return
    if item.kind == CLEAN:
        del tables[item.region_id]
    elif item.kind == COMPACT:
        # What was rewritten may have been replaced since, in files that are purged by now.
        table.compact(item.log_index, all_of_them=rewritten)
    elif item.kind == DELETE:
        table.delete(item.key)


def _is_mark(item: Item) -> bool:
    return item.kind == PUT and item.key == _GROUP_KEY and len(item.value) == 1
