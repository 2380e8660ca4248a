"""Opens the files of a raft-engine as they were at one moment, though the store goes on.

A running store adds files, deletes old ones, and renames old ones to write them over (`log_file`).
The files are listed, opened, and listed again: if all names listed first still mean the files that
were opened, all of these were there at once. What is in files that came since is not missed: the
log is then read as of a moment before. An open file outlives its deletion. One that is renamed and
written over cannot be taken for what it was, as checksums tell in which file a batch was written
(`batch`): what is read and sound is right, and what is not is worth another look only if its file
has lost its name (`LogFiles.is_recycled`).

Numbers of a queue follow one another. Where one is missing, what comes before it is left from an
earlier use (kept for recycling, when files after it were deleted), and raft-engine ignores it.
Source: raft-engine's src/file_pipe_log/pipe_builder.rs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bkctl.errors import CorruptionError, SourceError
from bkctl.raft.log_file import FileId, FileReader, LogFile, OpenFile, Queue, parse_name
from bkctl.store.descriptors import allow_descriptors

_ATTEMPTS = 200


class LogFiles:
    """The open files of a log, each queue's in order, the rewrite queue first."""

    def __init__(self, folders: Sequence[Path], open_file: OpenFile) -> None:
        """Open the files in `folders`, the log's own and one it spills to if it has one.

        Raises SourceError where they cannot be read, CorruptionError where there are none.
        """
        self._folders, self._open_file = folders, open_file
        self.files: tuple[LogFile, ...] = ()
        self.ignored: tuple[Path, ...] = ()
        for _ in range(_ATTEMPTS):
            if self._try_open():
                return
        raise SourceError(
            f"{folders[0]}: the store changed the raft log's files {_ATTEMPTS} times while bkctl "
            "opened them; try again when it is less busy"
        )

    def __enter__(self) -> LogFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go; may be called twice."""
        for file in self.files:
            file.reader.close()
        self.files = ()

    def is_newest(self, file: LogFile) -> bool:
        """Whether a file is the newest of its queue."""
        return all(other.id.queue != file.id.queue or other.id <= file.id for other in self.files)

    def is_recycled(self, file: LogFile) -> bool:
        """Whether a file may have been written over since it was opened."""
        return file.id.queue is Queue.APPEND and not _is_still(file.path, file.reader)

    def _try_open(self) -> bool:
        listed = _list(self._folders)
        names, ignored = _without_leftovers(listed)
        if not any(file_id.queue is Queue.APPEND for file_id in names):
            raise CorruptionError(
                f"{self._folders[0]}: no *.raftlog file in it: the store's raft log is missing"
            )
        allow_descriptors(
            _open_now() + len(names), self._folders[0], "files, those of the raft log,"
        )
        opened: list[LogFile] = []
        try:
            for file_id in sorted(names):
                opened.append(self._open(file_id, names[file_id]))
            again = _list(self._folders)
            moved_on = (
                any(again.get(file.id) != file.path for file in opened)
                or not all(_is_still(file.path, file.reader) for file in opened)
                # One that came while they were listed may seem to be behind a hole.
                or (ignored and again != listed)
            )
        except FileNotFoundError:
            moved_on = True
        except BaseException:
            _close(opened)
            raise
        if moved_on:
            _close(opened)
            return False
        self.files, self.ignored = tuple(opened), tuple(ignored)
        return True

    def _open(self, file_id: FileId, path: Path) -> LogFile:
        try:
            reader = self._open_file(path)
        except FileNotFoundError:
            raise
        except OSError as e:
            raise SourceError(f"{path}: cannot be read ({e.strerror})") from None
        return LogFile(file_id, path, reader, os.fstat(reader.fileno()).st_size)


def _list(folders: Sequence[Path]) -> dict[FileId, Path]:
    found: dict[FileId, Path] = {}
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError as e:
            raise SourceError(f"{folder}: the raft log cannot be read ({e.strerror})") from None
        for name in names:
            file_id = parse_name(name)
            if file_id is not None:
                other = found.setdefault(file_id, folder / name)
                if other != folder / name:
                    raise CorruptionError(f"{folder / name}: {other} has the same number")
    return found


def _without_leftovers(listed: dict[FileId, Path]) -> tuple[dict[FileId, Path], list[Path]]:
    """(the files that follow one another up to each queue's newest, the others)."""
    kept: dict[FileId, Path] = {}
    ignored: list[Path] = []
    wanted: FileId | None = None
    for file_id in sorted(listed, reverse=True):
        follows = wanted is None or wanted.queue is not file_id.queue or wanted == file_id
        if follows:
            kept[file_id] = listed[file_id]
            wanted = FileId(file_id.queue, file_id.number - 1)
        else:
            ignored.append(listed[file_id])
    return kept, ignored


def _is_still(path: Path, reader: FileReader) -> bool:
    """Whether an open file is still found by the name it was opened by."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(reader.fileno()))
    except FileNotFoundError:
        return False


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _close(files: Sequence[LogFile]) -> None:
    for file in files:
        file.reader.close()
