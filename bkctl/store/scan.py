"""A forward scan of a column family by RocksDB's iterator, which cannot end early without an error.

RocksDB's fast iterators stop at a damaged block as if the data had ended. A `Scan` therefore looks
again at its end: a second iterator is put on the last key, stepped once, and must be at the end
with a clean status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol, cast

from rocksdict import Rdict, ReadOptions

from bkctl.errors import BkctlError, CorruptionError

# Values can be 8 MiB each: so few at a time that a run of them stays small in memory.
_STEP = 16
_VALUE = itemgetter(1)

ErrorOf = Callable[[Exception], BkctlError]


class RecordScan(Protocol):
    """A forward scan of a key range, record by record."""

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next records, `count` of them or all that are left; empty only at the true end.

        Raises CorruptionError when the data could not be read to its end.
        """
        ...

    def take_bounded(self, count: int, plain_bytes: int) -> list[tuple[bytes, bytes]]:
        """Like `take`, but stops soon after values of `plain_bytes` bytes: for values of any size.

        Raises CorruptionError when the data could not be read to its end.
        """
        ...

    def seek(self, key: bytes) -> None:
        """Go on at `key` (or behind it), which must lie behind all that was taken."""
        ...


class Takes(Protocol):
    """What gives records in key order, until there are none."""

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """See RecordScan."""
        ...


class Records(Protocol):
    """A store's records, wherever it is; see `bkctl.store.database.Database`."""

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of one key, or None."""
        ...

    def scan(
        self, family: str, lower: bytes, upper: bytes, *, readahead: int | None = None
    ) -> Takes:
        """Read `[lower, upper)` of a family, in key order."""
        ...


class Scan:
    """A forward scan of one column family; take records from it until it gives none."""

    def __init__(
        self, family: Rdict, lower: bytes, upper: bytes, readahead: int, error: ErrorOf
    ) -> None:
        """Read `[lower, upper)` of `family`; `error` says in bkctl's words what RocksDB raises."""
        self._family, self._error = family, error
        self._lower, self._upper, self._readahead = lower, upper, readahead
        self._last: bytes | None = None
        self._items: Iterator[tuple[bytes, bytes]] = self._open(lower)
        self._ended = False

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next records, `count` of them or all that are left; empty only at the true end.

        Raises CorruptionError when the data could not be read to its end.
        """
        if self._ended:
            return []
        records = list(islice(self._items, count))
        if records:
            self._last = records[-1][0]
        if len(records) < count:
            self._ended = True
            self._check_end()
        return records

    def take_bounded(self, count: int, plain_bytes: int) -> list[tuple[bytes, bytes]]:
        """Like `take`, but stops soon after values of `plain_bytes` bytes: for values of any size.

        Raises CorruptionError when the data could not be read to its end.
        """
        records: list[tuple[bytes, bytes]] = []
        size = 0
        while len(records) < count and size < plain_bytes:
            step = self.take(min(_STEP, count - len(records)))
            if not step:
                break
            records += step
            size += sum(map(len, map(_VALUE, step)))
        return records

    def seek(self, key: bytes) -> None:
        """Go on at `key` (or behind it), which must lie behind all that was taken."""
        self._items = self._open(key)
        self._lower, self._last = key, None
        self._ended = False

    def _open(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            items: Any = self._family.items(from_key=key, read_opt=self._read_options())
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
        return cast("Iterator[tuple[bytes, bytes]]", items)

    def _read_options(self) -> ReadOptions:
        options = ReadOptions()
        options.set_readahead_size(self._readahead)
        options.set_total_order_seek(True)
        options.set_iterate_upper_bound(self._upper)
        return options

    def _check_end(self) -> None:
        again = self._family.iter(self._read_options())
        try:
            again.seek(self._lower if self._last is None else self._last)
            at_last = again.valid() and again.key() == self._last
            if at_last:
                again.next()
            again.status()
            if again.valid() or (self._last is not None and not at_last):
                raise CorruptionError("the scan ended before the data did")
        except Exception as e:  # rocksdict raises nothing narrower
            raise self._error(e) from None
