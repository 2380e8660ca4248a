"""Who does the work of a backup: processes of this machine, or Dask workers of many."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bkctl.commands import options
from bkctl.errors import UsageError

if TYPE_CHECKING:
    from bkctl.backup.executor import Executor
    from bkctl.backup.request import BackupRequest
    from bkctl.executor.cluster_file import ClusterStore

ExecutorOption = Annotated[
    str,
    options.option(
        "--executor",
        metavar="local|dask://HOST:PORT",
        help="Who does the work: this machine, or Dask workers where the stores are (dask+tls:// "
        "for Dask's TLS). Needs --cluster.",
    ),
]
Cluster = Annotated[
    Path | None,
    options.option(
        "--cluster",
        metavar="FILE",
        help="TOML: which store is where on the Dask workers that have its resource store-ID.",
    ),
]

_DASK = re.compile(r"dask(?P<tls>\+tls)?://(?P<place>[^/?#@\s]+:\d{1,5})/?")
_SECRET_OPTIONS = frozenset({"access-key", "secret-access-key", "session-token"})


@dataclass(frozen=True, slots=True)
class DaskChoice:
    """A Dask scheduler's address, as Dask has it, and the stores that its workers can read."""

    address: str
    stores: tuple[ClusterStore, ...]

    @property
    def paths(self) -> list[Path]:
        """Where the stores usually are, in their order."""
        return [store.path for store in self.stores]

    @property
    def is_encrypted(self) -> bool:
        """Whether what is sent there can be read on its way."""
        return self.address.startswith("tls://")


def parse_executor(text: str, cluster: Path | None, **others: object) -> DaskChoice | None:
    """What --executor says; None for this machine. UsageError for `others` that do not go with it.

    Those are options by their names, with what was given for them.
    """
    if text == "local":
        if cluster is not None:
            raise UsageError("--cluster is for --executor dask://; leave it out, or give --db")
        return None
    match = _DASK.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--executor {text[:80]!a} is neither local nor dask://HOST:PORT (dask+tls://HOST:PORT "
            "for Dask's TLS)"
        )
    for name, given in others.items():
        if given:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} cannot go with --executor dask://; {_INSTEAD[name]}")
    from bkctl.executor.cluster_file import read_cluster

    stores = read_cluster(options.required("--cluster", cluster))
    scheme = "tls" if match["tls"] else "tcp"
    return DaskChoice(f"{scheme}://{match['place']}", stores)


_INSTEAD = {
    "db": "name the stores in the file of --cluster",
    "wal_dir": "write wal-dir in the file of --cluster",
    "raft_dir": "write raft-dir in the file of --cluster",
    "jobs": "start Dask workers with that many: --resources store-4=2",
    "store_id": "the stores' own ids are those of the file of --cluster",
}


def executor_for(
    choice: DaskChoice | None, request: BackupRequest, jobs: int
) -> AbstractContextManager[Executor]:
    """The executor; UsageError where it cannot be had, or must not be told a secret."""
    if choice is None:
        from bkctl.backup.workers import backup_workers

        return backup_workers(jobs)
    if not choice.is_encrypted:
        _refuse_secrets(request)
    from bkctl.executor.dask import dask_executor

    return dask_executor(choice.address, choice.stores)


def _refuse_secrets(request: BackupRequest) -> None:
    """Raise UsageError for secrets that anyone on the network could read."""
    found = [name for name, _ in request.storage.options if name in _SECRET_OPTIONS]
    if request.cipher is not None:
        found.append("the key of --crypter.method")
    if found:
        raise UsageError(
            f"{found[0]} would go to the Dask workers in clear; use dask+tls:// with Dask's TLS, "
            "or have it in the workers' environment"
        )
