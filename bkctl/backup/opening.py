"""Opens the stores of a request, if they are ones that can be backed up so."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from bkctl.backup.executor import Executor
from bkctl.backup.request import BackupRequest
from bkctl.cluster.stores import Stores
from bkctl.errors import SourceError

if TYPE_CHECKING:
    from typing_extensions import Self


class Opened:
    """A context manager: stores that can be pinned anew, as `stores`."""

    def __init__(self, open_them: Callable[[], Stores]) -> None:
        """Open them; raises what `open_them` raises."""
        self._open_them = open_them
        self.stores = open_them()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stores.close()

    def renew(self) -> bool:
        """Pin the stores as they are now; False if none of them runs, and so can have changed.

        Raises what opening them raises, and SourceError if they are others now.
        """
        if not any(source.is_live for source in self.stores.sources):
            return False
        idents = [source.ident for source in self.stores.sources]
        self.stores.close()
        self.stores = self._open_them()
        if [source.ident for source in self.stores.sources] != idents:
            raise SourceError(f"{self.stores.path}: another store is there now; try again")
        return True


def open_request(
    request: BackupRequest,
    executor: Executor,
    is_cancelled: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
) -> Stores:
    """The stores, pinned; `notify` is told what had to be assumed.

    Raises SourceError for what cannot be backed up, and what the executor raises.
    """
    stores = executor.open_stores(
        (request.source, *request.others),
        is_cancelled,
        chooses=request.chooses,
        allow_minority=request.allow_minority,
    )
    try:
        _check(stores, request, notify)
    except BaseException:
        stores.close()
        raise
    return stores


def _check(stores: Stores, request: BackupRequest, notify: Callable[[str], None]) -> None:
    stores.require(*((request.family,) if request.is_raw else ("write", "lock", "default")))
    for source in stores.sources:
        if request.is_raw and not source.is_ttl_known:
            notify(
                f"{source.path}: there is no last_tikv.toml to tell whether values end in an "
                "expiry; taken as API V1, where they do not (--api-version says otherwise)"
            )
