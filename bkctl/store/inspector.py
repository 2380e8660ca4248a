"""Asks RocksDB about a view in a process of its own.

What is in a store's files can make RocksDB crash. That then ends the helper, and an error names the
store: the command itself goes on, or says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bkctl.errors import BkctlError, CorruptionError, WorkerDiedError
from bkctl.pool.helper import Helper, HelperDiedError
from bkctl.store.ident import IDENT_KEY

if TYPE_CHECKING:
    from bkctl.store.database import Database

REGION_STATE_PREFIX, REGION_STATE_END = b"\x01\x03", b"\x01\x04"
"""Where a store has the records of its regions, in the family `raft`."""

_BATCH_RECORDS = 1024
_BATCH_BYTES = 1 << 20
# Records of a store about itself are of a few hundred bytes, with keys of a few KiB in them.
_MAX_VALUE = 1 << 20


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a view says of itself; `ident` is the value of the identity record, if there is one.

    `has_regions` tells whether it has a record of any region.
    """

    families: tuple[str, ...]
    last_sequence: int
    ident: bytes | None
    has_regions: bool


@dataclass(frozen=True, slots=True)
class _View:
    """What all requests begin with: the folder to open, and the store's name for messages."""

    db_dir: Path
    source: Path


@dataclass(frozen=True, slots=True)
class _AskFacts(_View):
    """Asks for StoreFacts."""


@dataclass(frozen=True, slots=True)
class _AskRecords(_View):
    """Asks for the records of `[lower, upper)`, small ones."""

    family: str
    lower: bytes
    upper: bytes


@dataclass(frozen=True, slots=True)
class _AskMissing(_View):
    """Asks which of the keys the view does not have."""

    family: str
    keys: tuple[bytes, ...]


class Inspector:
    """Answers questions about one view, whose helper process lives until `close`."""

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the helper, which loads RocksDB meanwhile; `open` says what of."""
        self._helper = Helper(_Answers, "inspector", is_cancelled)
        self._helper.start()
        self._db_dir = self._source = Path()

    def open(self, db_dir: Path, source: Path) -> StoreFacts:
        """Open a view; `source` is the store's own directory, for messages.

        Raises CorruptionError where it is damaged.
        """
        self._db_dir, self._source = db_dir, source
        facts: StoreFacts
        (facts,) = self._ask(_AskFacts(db_dir, source))
        return facts

    def records(self, family: str, lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records of `[lower, upper)` of a family; CorruptionError, or for huge ones."""
        for batch in self._ask(_AskRecords(self._db_dir, self._source, family, lower, upper)):
            yield from batch

    def missing(self, family: str, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """Tell which of `keys` the family does not hold."""
        found: tuple[bytes, ...]
        (found,) = self._ask(_AskMissing(self._db_dir, self._source, family, tuple(keys)))
        return found

    def rest(self) -> None:
        """Let the helper go for now; a later question starts another."""
        self._helper.close(wait=False)

    def close(self) -> None:
        """End the helper; may be called twice."""
        self._helper.close()

    def _ask(self, request: Any) -> Iterator[Any]:
        try:
            yield from self._helper.ask(request)
        except HelperDiedError as e:
            raise store_died(self._source, e) from None


class StoreCrashError(CorruptionError):
    """RocksDB crashed on a store, and has not said on which of its files."""


def store_died(source: Path, death: HelperDiedError) -> BkctlError:
    """What to say where RocksDB ended its process while it read the store `source`."""
    if death.is_crash:
        return StoreCrashError(
            f"{source}: RocksDB crashed on the store ({death}): one of its files is damaged, or "
            "made to do harm; see which with sst_dump --command=verify"
        )
    return WorkerDiedError(f"{source}: the process that reads the store ended: {death}")


def _has_regions(database: Database) -> bool:
    if "raft" not in database.families:
        return False
    return bool(database.scan("raft", REGION_STATE_PREFIX, REGION_STATE_END).take(1))


class _Answers:
    """What the helper does; it keeps the view open that it was asked about last."""

    def __init__(self) -> None:
        from bkctl.store.open_view import open_database

        self._open = open_database
        self._view: _View | None = None
        self._database: Database | None = None

    def __call__(self, request: _AskFacts | _AskRecords | _AskMissing) -> Iterator[Any]:
        database = self._opened(_View(request.db_dir, request.source))
        if isinstance(request, _AskRecords):
            database.require(request.family)
            scan = database.scan(request.family, request.lower, request.upper)
            while records := scan.take_bounded(_BATCH_RECORDS, _BATCH_BYTES):
                for key, value in records:
                    self._check_size(request.family, key, value)
                yield records
        elif isinstance(request, _AskMissing):
            family = request.family
            yield tuple(key for key in request.keys if not database.has(family, key))
        else:
            ident = database.get("default", IDENT_KEY)
            if ident is not None:
                self._check_size("default", IDENT_KEY, ident)
            yield StoreFacts(
                database.families, database.last_sequence, ident, _has_regions(database)
            )

    def _opened(self, view: _View) -> Database:
        if self._database is None or self._view != view:
            if self._database is not None:
                self._database.close()
            self._database, self._view = self._open(view.db_dir, view.source), view
        return self._database

    def _check_size(self, family: str, key: bytes, value: bytes) -> None:
        if len(key) + len(value) > _MAX_VALUE:
            assert self._view is not None
            raise CorruptionError(
                f"{self._view.source}: a record of {len(value)} bytes under the key "
                f"{key[:32].hex().upper()} of {family}, where the store keeps what it knows of "
                "itself"
            )
