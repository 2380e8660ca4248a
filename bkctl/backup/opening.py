"""Opens the stores of a request, if they are ones that can be backed up so."""

from __future__ import annotations

from collections.abc import Callable

from bkctl.backup.orphans import refuse_forgotten_files
from bkctl.backup.request import BackupRequest
from bkctl.cluster.stores import Stores, open_stores


def open_request(
    request: BackupRequest,
    is_cancelled: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
) -> Stores:
    """The stores, pinned; `notify` is told what had to be assumed.

    Raises SourceError for what cannot be backed up, and what Stores raises.
    """
    stores = open_stores(
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
        if not request.source.point_in_time:
            refuse_forgotten_files(source)
