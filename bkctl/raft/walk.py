"""Walks the log batches of one file, and tells the end that a crash leaves from damage.

Every checksum is verified, that of the entries too; entries are not decompressed. Where no batch
can be read, that is

    damage    if it is not its queue's newest file: what was written later follows;
    the end   if there are only zeros from here on, or nothing;
    damage    if a sound batch follows (`search`), or it fits its checksums but makes no sense;
    the end   else: a batch half written when the machine stopped, or what an earlier use left.

TiKV takes whatever it cannot read in the newest file for its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bkctl.errors import CorruptionError
from bkctl.raft.batch import (
    CHECKSUM_SIZE,
    HEADER,
    Header,
    Item,
    check_sums,
    read_header,
    read_items,
)
from bkctl.raft.log_file import (
    MAX_HEADER_SIZE,
    FileFormat,
    LogFile,
    is_unfinished_header,
    read_format,
)
from bkctl.raft.search import checksum, find_batch

_WINDOW = 4 << 20
_ZEROS = bytes(_WINDOW)


class _NonsenseError(CorruptionError):
    """A batch that fits its checksums and yet makes no sense."""


class FoundBatch(NamedTuple):
    """A batch of a file: where it is, in bytes, and its items."""

    offset: int
    items: list[Item]


class Walk:
    """Iterates over a file's batches.

    `signature` is the file's, once it is begun; once it came to an end that is not a clean one,
    `torn_at` is where that begins.
    """

    def __init__(
        self,
        file: LogFile,
        *,
        is_newest: bool,
        until: int | None = None,
        point_in_time: bool = False,
    ) -> None:
        """Walk `file`, which is its queue's newest or not.

        It ends at `until` if there is a sound batch there. `point_in_time` takes what lies before a
        damage in the newest file. Raises CorruptionError for other damage while it goes.
        """
        self._file, self._is_newest, self._until = file, is_newest, until
        self._point_in_time = point_in_time
        self._window = b""
        self._window_at = 0
        self.signature = 0
        self._alignment = 0
        self.torn_at: int | None = None

    def __iter__(self) -> Iterator[FoundBatch]:
        format_ = self._read_format()
        if format_ is None:
            return
        self.signature = format_.signature(self._file.id.number)
        self._alignment = format_.alignment
        pos = format_.start
        while pos < self._file.size:
            try:
                size, items = self._batch(pos)
            except CorruptionError as e:
                pos_behind = self._behind_padding(pos)
                if pos_behind is None:
                    if self._is_end(pos, e):
                        return
                    continue
                pos = pos_behind
            else:
                if self._until is not None and pos >= self._until:
                    return
                yield FoundBatch(pos, items)
                pos += size

    def written_until(self) -> int:
        """Where headers that follow one another end: what is written by now is not behind it."""
        format_ = self._read_format()
        if format_ is None:
            return self._file.size
        self._alignment = format_.alignment
        pos = format_.start
        while pos < self._file.size:
            try:
                pos += read_header(self._file.read_at(pos, HEADER.size)).size
            except CorruptionError:
                behind = self._behind_padding(pos)
                if behind is None:
                    break
                pos = behind
        return pos

    def _read_format(self) -> FileFormat | None:
        """The file's format; None if a crash left it without a header."""
        data = self._file.read_at(0, MAX_HEADER_SIZE)
        try:
            return read_format(data)
        except CorruptionError as e:
            if self._is_newest and (
                self._point_in_time
                or (is_unfinished_header(data) and self._is_zero(len(data), self._file.size))
            ):
                self.torn_at = 0
                return None
            raise self._damage(0, e) from None

    def _batch(self, pos: int) -> tuple[int, list[Item]]:
        header = read_header(self._bytes(pos, HEADER.size))
        size = header.size
        if pos + size > self._file.size:
            raise CorruptionError("it is cut short")
        if size > _WINDOW:
            return size, self._large_batch(pos, header)
        stored = self._bytes(pos, size)
        check_sums(stored, header, self.signature)
        return size, _items(bytes(stored[header.items_at : size - CHECKSUM_SIZE]))

    def _large_batch(self, pos: int, header: Header) -> list[Item]:
        """The items of a batch too large for the window, whose checksums are run over in parts."""
        file = self._file
        items_at, end = pos + header.items_at, pos + header.size
        if checksum(file, items_at, end) != self.signature:
            raise CorruptionError("its items do not fit their checksum")
        if header.items_at > HEADER.size and checksum(file, pos + HEADER.size, items_at) != 0:
            raise CorruptionError("its entries do not fit their checksum")
        return _items(file.read_at(items_at, header.size - header.items_at - CHECKSUM_SIZE))

    def _bytes(self, pos: int, size: int) -> memoryview:
        """The bytes at `pos`, read ahead; fewer only at the file's end."""
        start = pos - self._window_at
        if not 0 <= start <= start + size <= len(self._window):
            self._window = self._file.read_at(pos, max(size, _WINDOW))
            self._window_at, start = pos, 0
        return memoryview(self._window)[start : start + size]

    def _behind_padding(self, pos: int) -> int | None:
        """Where the next batch may begin, if only an alignment's zeros are between; else None."""
        if self._alignment == 0 or pos % self._alignment == 0:
            return None
        behind = pos + self._alignment - pos % self._alignment
        return behind if behind <= self._file.size and self._is_zero(pos, behind) else None

    def _is_end(self, pos: int, error: CorruptionError) -> bool:
        """Whether the file ends where no batch could be read; False if one can be read by now."""
        if not self._is_newest or (isinstance(error, _NonsenseError) and not self._point_in_time):
            raise self._damage(pos, error)
        if self._is_zero(pos, self._file.size):
            return True
        follower = find_batch(self._file, pos + 1)
        if follower is not None:
            # A running store may have written both since: then the first is sound now.
            self._window = b""
            try:
                self._batch(pos)
            except CorruptionError:
                if not self._point_in_time:
                    raise self._damage(pos, error, follower) from None
            else:
                return False
        self.torn_at = pos
        return True

    def _is_zero(self, start: int, end: int) -> bool:
        while start < end:
            part = self._file.read_at(start, min(_WINDOW, end - start))
            if part != _ZEROS[: len(part)]:
                return False
            if not part:
                break
            start += len(part)
        return True

    def _damage(
        self, pos: int, error: CorruptionError, follower: int | None = None
    ) -> CorruptionError:
        what = f"{self._file.path}: damaged at offset {pos}: {error}"
        if follower is None:
            return CorruptionError(what)
        return CorruptionError(
            f"{what}, and sound log batches follow (at {follower}); --recovery point-in-time takes "
            "what lies before it, as TiKV would"
        )


def _items(block: bytes) -> list[Item]:
    try:
        return read_items(block)
    except CorruptionError as e:
        raise _NonsenseError(f"a batch that fits its checksums makes no sense: {e}") from None
