"""Finds a store's raft log: which of the two kinds it is, and where it lies.

    data directory/
      raft-engine/      raft-engine's files, TiKV's own choice
      raft/             a RocksDB (or raft-engine/ below it, if raftstore.raftdb-path is set alone)
      last_tikv.toml    the settings that TiKV last ran with; paths in it may be of another machine
      MIGRATING-RAFT    path of one kind, and "//": the log is being copied from there to the other

Directories that last_tikv.toml has in its data directory are looked for in the one at hand, others
only where there is no log in that.
Source: TiKV's src/config/mod.rs, components/tikv_util/src/config.rs (RaftDataStateMachine).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import SourceError
from bkctl.raft.log_file import Queue, parse_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_SETTINGS = "last_tikv.toml"
_MARKER = "MIGRATING-RAFT"
_MARKER_END = "//"


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """A raft log in raft-engine's files: its folder, and the one it spills to if it has one."""

    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class RocksPlace:
    """A raft log in a RocksDB: its directory, and that of its write-ahead logs if it is told."""

    path: Path
    wal_dir: Path | None


def find_raft_log(data_dir: Path) -> EnginePlace | RocksPlace | None:
    """Where the raft log of the store in `data_dir` is; None if there is none.

    Raises SourceError where there are two, or the settings cannot be read.
    """
    settings = _Settings(data_dir)
    engine = next(filter(_has_engine, settings.engines()), None)
    rocks = next(filter(_has_rocksdb, settings.rocksdbs()), None)
    if engine is not None and rocks is not None:
        source = settings.migration_source()
        if source not in (engine, rocks):
            raise SourceError(
                f"{data_dir}: it has two raft logs, {engine} and {rocks}, and no {_MARKER} that "
                "says which one counts; move away the one that TiKV does not use"
            )
        engine, rocks = (engine, None) if source == engine else (None, rocks)
    if engine is not None:
        spill = settings.path("raft-engine", "spill-dir")
        return EnginePlace((engine,) if spill is None else (engine, spill))
    if rocks is not None:
        return RocksPlace(rocks, settings.path("raftdb", "wal-dir"))
    return None


def raft_log_at(folder: Path) -> EnginePlace | RocksPlace:
    """The raft log in `folder`; SourceError where there is none."""
    if _has_engine(folder):
        return EnginePlace((folder,))
    if _has_rocksdb(folder):
        return RocksPlace(folder, None)
    raise SourceError(
        f"{folder}: no raft log is in it (*.raftlog, or a RocksDB); check --raft-dir, which is the "
        "store's raft-engine/ or raft/"
    )


class _Settings:
    """What last_tikv.toml says of paths, if there is one."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        path = data_dir / _SETTINGS
        self._settings: dict[str, object] = {}
        try:
            self._settings = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            pass
        except OSError as e:
            raise SourceError(f"{path}: cannot be read ({e.strerror})") from None
        except ValueError as e:
            raise SourceError(
                f"{path}: damaged, it is no TOML: {' '.join(str(e).split())}"
            ) from None

    def path(self, section: str, name: str) -> Path | None:
        """A path that is set, moved to where the data directory is now."""
        told = self._text(section, name)
        return None if told is None else self._moved(Path(told))

    def engines(self) -> list[Path]:
        """Where raft-engine's files may be, the likeliest first."""
        usual = [self._data_dir / "raft-engine", self._data_dir / "raft" / "raft-engine"]
        return self._with(self.path("raft-engine", "dir"), usual)

    def rocksdbs(self) -> list[Path]:
        """Where the RocksDB may be, the likeliest first."""
        return self._with(self.path("raftstore", "raftdb-path"), [self._data_dir / "raft"])

    def migration_source(self) -> Path | None:
        """The log that counts while TiKV copies it to the other kind."""
        try:
            told = (self._data_dir / _MARKER).read_text("utf-8")
        except (OSError, ValueError):
            return None
        return (
            self._moved(Path(told.removesuffix(_MARKER_END)))
            if told.endswith(_MARKER_END)
            else None
        )

    def _with(self, told: Path | None, usual: list[Path]) -> list[Path]:
        if told is None:
            return usual
        return [told, *usual] if told.is_relative_to(self._data_dir) else [*usual, told]

    def _moved(self, path: Path) -> Path:
        old = self._text("storage", "data-dir")
        if old is not None and path.is_relative_to(old):
            return self._data_dir / path.relative_to(old)
        return path

    def _text(self, section: str, name: str) -> str | None:
        values = self._settings.get(section)
        value = values.get(name) if isinstance(values, dict) else None
        return value if isinstance(value, str) and value else None


def _has_engine(folder: Path) -> bool:
    return any(
        file_id is not None and file_id.queue is Queue.APPEND
        for file_id in map(parse_name, _names(folder))
    )


def _has_rocksdb(folder: Path) -> bool:
    return "CURRENT" in _names(folder)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        raise SourceError(f"{folder}: cannot be read ({e.strerror})") from None
