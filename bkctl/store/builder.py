"""Makes a new store out of SST files in a process of its own.

RocksDB reads files when it takes them in, and can crash on one that is made to do harm. That then
ends the helper, and an error names the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bkctl.errors import CorruptionError, WorkerDiedError
from bkctl.pool.helper import Helper, HelperDiedError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from bkctl.store.new_store import NewStore, RefusedFile

_SHOWN_FILES = 4


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A finished SST file at `path`, by the name that messages have for it."""

    shown_name: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Make:
    path: Path
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ingest:
    family: str
    files: tuple[NamedFile, ...]


@dataclass(frozen=True, slots=True)
class _Finish:
    pass


class StoreBuilder:
    """See NewStore; a context manager, at whose end the helper is gone."""

    def __init__(self) -> None:
        """Start the helper; `make` says what store to make."""
        self._helper = Helper(_Builder, "builder")
        self._helper.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._helper.close()

    def make(self, path: Path, families: Iterable[str]) -> None:
        """Create the directory `path` with an empty store; StorageError where that fails."""
        self._ask(_Make(path, tuple(families)), str(path))

    def ingest(self, family: str, files: Sequence[NamedFile]) -> RefusedFile | None:
        """Move files into a column family; the one, if any, that is no sound SST file.

        Raises CorruptionError where RocksDB crashes on one of them, StorageError for all else.
        """
        return self._ask(_Ingest(family, tuple(files)), _names_of(files))

    def finish(self) -> None:
        """Complete the store; StorageError where that fails."""
        self._ask(_Finish(), "the new store")

    def _ask(self, request: _Make | _Ingest | _Finish, what: str) -> RefusedFile | None:
        try:
            answers = list(self._helper.ask(request))
        except HelperDiedError as e:
            if e.is_crash:
                raise CorruptionError(f"{what}: RocksDB crashed on taking it in ({e})") from None
            raise WorkerDiedError(f"{what}: the process that makes the store ended: {e}") from None
        return answers[0] if answers else None


class _Builder:
    """What the helper does; it makes one store."""

    def __init__(self) -> None:
        from bkctl.store import new_store

        self._module = new_store
        self._store: NewStore | None = None

    def __call__(self, request: _Make | _Ingest | _Finish) -> Iterator[RefusedFile]:
        if isinstance(request, _Make):
            self._store = self._module.NewStore(request.path, request.families)
            return
        assert self._store is not None
        if isinstance(request, _Finish):
            self._store.finish()
            return
        named = [(file.shown_name, file.path) for file in request.files]
        refused = self._module.ingest_named(self._store, request.family, named)
        if refused is not None:
            yield refused


def _names_of(files: Sequence[NamedFile]) -> str:
    names = ", ".join(file.shown_name for file in files[:_SHOWN_FILES])
    more = len(files) - _SHOWN_FILES
    return f"one of {names} and {more} more files" if more > 0 else names
