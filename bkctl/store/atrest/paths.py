"""Finds a store's files in its dictionary, which has them by their paths as TiKV saw them.

    in the dictionary      /var/lib/tikv/db/000012.sst      or db/000012.sst
    on this machine        /mnt/copy/tikv/db/000012.sst     the directory was moved, or mounted

A file counts as that of the very same path if there is one. Otherwise its path in the data
directory is what tells: `db/000012.sst` belongs to the one `…/db` of which the dictionary has
files. A file elsewhere (logs in a directory of their own) is told by its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bkctl.errors import SourceError

_DB_FOLDER = "db"


class PathFinder:
    """Finds paths among those of a dictionary."""

    def __init__(self, data_dir: Path, db_dir: Path, told_data_dir: str) -> None:
        """`db_dir` is the RocksDB in `data_dir`; `told_data_dir` where TiKV says that this was.

        They are the same where somebody put the dictionary beside the RocksDB's own files.
        """
        self._data_dir = os.path.realpath(data_dir)
        self._db_dir = os.path.realpath(db_dir)
        self._told = told_data_dir
        self._roots: dict[str, str] = {}
        self._real_folders: dict[Path, str] = {}

    def find(self, path: Path, names: Iterable[str]) -> list[str]:
        """The paths under which a dictionary of `names` may have the file, the likeliest first.

        Raises SourceError where that is ambiguous.
        """
        folder = path.parent
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        real = f"{self._real_folders[folder]}/{path.name}"
        inside = self._inside(real)
        if inside is not None:
            root = self._find_root(inside.partition("/")[0], names)
            seen = real if root is None else root + inside
            return list(dict.fromkeys((real, seen)))
        named = f"/{path.name}"
        alike = [name for name in names if name.endswith(named)]
        if real in alike:
            return [real]
        if len(alike) > 1:
            raise SourceError(
                f"{path}: file.dict knows {len(alike)} files of that name, like {alike[0]} and "
                f"{alike[1]}; put it where TiKV had it"
            )
        return [real, *alike]

    def _inside(self, real: str) -> str | None:
        """The path within the data directory as TiKV saw it; None for a file elsewhere."""
        # First: the folder may be a link, or be the data directory itself.
        if real.startswith(f"{self._db_dir}/"):
            at = os.path.relpath(self._db_dir, self._data_dir)
            folder = _DB_FOLDER if at == "." or at.startswith("..") else at
            return folder + real[len(self._db_dir) :]
        if real.startswith(f"{self._data_dir}/"):
            return real[len(self._data_dir) + 1 :]
        return None

    def _find_root(self, folder: str, names: Iterable[str]) -> str | None:
        """What comes before the data directory's `folder` in names; None where no name has it."""
        if folder not in self._roots:
            inside = re.compile(f"(|.*/){re.escape(folder)}/[^/]+", re.DOTALL)
            roots = {match.group(1) for name in names if (match := inside.fullmatch(name))}
            for likely in (self._data_dir, self._told):
                if f"{likely}/" in roots:
                    roots = {f"{likely}/"}
            if not roots:
                return None
            if len(roots) > 1:
                first, second = (root.removesuffix("/") or root for root in sorted(roots)[:2])
                raise SourceError(
                    f"{self._data_dir}: file.dict knows a {folder} of several data directories "
                    f"({first}, {second}); put the directory where TiKV had it"
                )
            self._roots[folder] = roots.pop()
        return self._roots[folder]
