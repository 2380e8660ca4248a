"""Where the stores of a cluster are, by their ids: the file of `--cluster`, in TOML.

    [stores]
    4 = "/data/tikv-4"
    5 = {path = "/data/tikv-5", raft-dir = "/log/tikv-5", wal-dir = "…", master-key = "…"}

    [[store]]                   the same store where Dask workers of that name or host look
    id = 4
    worker = "spare-*"
    path = "/mnt/copy-of-4"

Paths are those of the machines that the Dask workers run on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bkctl.errors import UsageError
from bkctl.files.small import read_small
from bkctl.shortage import reason_of
from bkctl.store.source import SourceOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_MAX_BYTES = 1 << 20
_MAX_ID = 1 << 64
_MAX_DOTS = 64
_PATHS = {
    "path": "path",
    "raft-dir": "raft_dir",
    "wal-dir": "wal_dir",
    "master-key": "master_key",
    "work-dir": "work_dir",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where Dask workers whose name or host `worker` (a pattern) matches have a store."""

    worker: str
    paths: Mapping[str, Path]

    def fits(self, *names: str) -> bool:
        """Whether it is for a worker of these names."""
        return any(fnmatchcase(name, self.worker) for name in names)


@dataclass(frozen=True, slots=True)
class ClusterStore:
    """A store by its id, and its places: the last that fits a worker counts."""

    id: int
    places: tuple[Place, ...]

    @property
    def path(self) -> Path:
        """Its usual path, for messages."""
        return self.places[0].paths["path"]

    def options_on(self, options: SourceOptions, *names: str) -> SourceOptions | None:
        """How to open it on a worker of these names; None if it is not said to be there."""
        fitting = [place for place in self.places if place.fits(*names)]
        if not fitting:
            return None
        paths: dict[str, Any] = dict(fitting[-1].paths)
        return replace(options, **paths)


def read_cluster(path: Path) -> tuple[ClusterStore, ...]:
    """The stores that a file names, by their ids; UsageError naming the file and the key."""
    document = _load(path)
    places: dict[int, list[Place]] = {}
    for key, value in document.items():
        if key == "stores" and isinstance(value, dict):
            for name, told in value.items():
                fields = {"path": told} if isinstance(told, str) else told
                where = f"{path}: stores.{name[:40]}"
                places.setdefault(_id(name, where), []).append(_place(fields, where))
        elif key == "store" and isinstance(value, list):
            for number, told in enumerate(value, 1):
                where = f"{path}: store {number}"
                if not isinstance(told, dict):
                    raise UsageError(f"{where} is no table; write [[store]]")
                fields = {name: each for name, each in told.items() if name != "id"}
                places.setdefault(_id(told.get("id"), where), []).append(_place(fields, where))
        else:
            raise UsageError(f"{path}: {key!a} is not known; write [stores] or [[store]]")
    if not places:
        raise UsageError(f'{path}: names no store; write [stores] and lines like 4 = "/data/tikv"')
    return tuple(ClusterStore(store, tuple(places[store])) for store in sorted(places))


def _load(path: Path) -> dict[str, Any]:
    try:
        text = read_small(path, _MAX_BYTES).decode()
        if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
            # Names of names without end take memory as the square of their depth.
            raise UsageError(f"{path}: a line has more than {_MAX_DOTS} dots")
        document: dict[str, Any] = tomllib.loads(text)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {reason_of(e)}; check --cluster") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8, as TOML must be") from None
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path}: no TOML: {str(e)[:200]}") from None
    return document


def _id(value: object, where: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not 0 < int(text[:21]) < _MAX_ID:
        raise UsageError(f"{where}: {text[:40]!a} is no store's id; ids are numbers from 1 on")
    return int(text)


def _place(fields: object, where: str) -> Place:
    if not isinstance(fields, dict):
        raise UsageError(f"{where} is neither a path nor a table with one")
    paths: dict[str, Path] = {}
    worker = "*"
    for name, value in fields.items():
        if name not in (*_PATHS, "worker"):
            known = ", ".join((*_PATHS, "worker"))
            raise UsageError(f"{where}: {name!a} is not known; known are {known}")
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise UsageError(f"{where}: {name} is no text")
        if name == "worker":
            worker = value
        elif not value.startswith("/"):
            raise UsageError(f"{where}: {name} {value!a} does not begin with /; give all of it")
        else:
            paths[_PATHS[name]] = Path(value)
    if "path" not in paths:
        raise UsageError(f"{where}: lacks path, the store's data directory")
    return Place(worker, paths)
