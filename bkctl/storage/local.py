"""Objects as files below a directory.

    root/
      <folder>/<object>              the object's bytes, nothing else
      <folder>/.bkctl-tmp-<random>   being written; left behind only by a kill
      <backup>/.bkctl-staging/       private: files that save_file will rename into place

Every path is walked part by part through directory handles that refuse symbolic links, so no name
and no link below the root leads out of it, not even one put there while a call is under way.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bkctl.errors import StorageError
from bkctl.files.trees import remove_tree
from bkctl.storage.base import (
    STAGING_FOLDER,
    NotFoundError,
    ObjectInfo,
    RandomReader,
    Storage,
    already_exists,
    changed,
    check_name,
    failure,
    folder_parts,
    is_temporary,
    not_found,
)
from bkctl.storage.durable import (
    OPEN_DIRECTORY,
    OPEN_FILE,
    FolderMaker,
    copy_into,
    create_empty,
    fsync_directory,
    locked_file,
    make_directories,
    open_child,
    removed_on_failure,
    rename,
    write_temporary,
)

_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)

_DAY = 86400.0

_CHECKS = {
    errno.ENOSPC: "free space there or use another place",
    errno.EDQUOT: "raise the quota, free space or use another place",
    errno.EACCES: "check the owner and permissions of the directory",
    errno.EPERM: "check the owner, permissions and attributes of the directory",
    errno.EROFS: "mount the file system writable or use another place",
    errno.ENOTDIR: "a part of the path is a file or a symbolic link, not a directory; move it away",
    errno.ELOOP: "symbolic links are not followed there; replace it by what it points to",
    errno.EISDIR: "a directory stands where the object belongs; move it away",
    errno.ENAMETOOLONG: "the file system wants a shorter name or path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk failed; see the kernel log",
    errno.ESTALE: "the network file system went away; mount it again",
}


class LocalReader(RandomReader):
    """Reads parts of one file of a LocalStorage."""

    def __init__(self, url: str, name: str, fd: int, size: int) -> None:
        self._url, self._name, self._fd, self._size = url, name, fd, size

    @property
    def size(self) -> int:
        """The file's length in bytes when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """See RandomReader."""
        if offset < 0 or length < 0:
            raise ValueError(f"read of {length} bytes at {offset}")
        length = min(length, max(self._size - offset, 0))
        pieces = []
        try:
            while length and (piece := os.pread(self._fd, length, offset)):
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        except OSError as e:
            raise _os_failure(self._url, self._name, "cannot be read", e) from e
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalStorage(Storage):
    """The files below `root`, which the first write makes if it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self._maker = FolderMaker()

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    @property
    def url(self) -> str:
        """`local://` and the absolute path of the root."""
        return f"local://{self._root}"

    def stat(self, name: str) -> ObjectInfo | None:
        """See Storage."""
        check_name(name)
        *folder, leaf = name.split("/")
        with self._reporting("cannot be looked up", name):
            try:
                with self._folder(folder) as fd:
                    status = os.stat(leaf, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return _info(name, status) if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """See Storage. The listing is taken at the first step, not piece by piece."""
        folder = folder_parts(prefix)
        with self._reporting("cannot be listed", prefix):
            # Sorted by whole names: "a-b/x" stands before "a/x", which no walk by folder gives.
            found = sorted(self._walk(folder), key=lambda info: info.name)
        yield from (info for info in found if info.name > after)

    def _walk(self, folder: tuple[str, ...]) -> Iterator[ObjectInfo]:
        try:
            with self._folder(folder) as top:
                for path, folders, files, fd in os.fwalk(".", dir_fd=top, onerror=_unless_gone):
                    parts = (*folder, *path.split("/")[1:])
                    folders[:] = [part for part in folders if _is_listed((*parts, part))]
                    for leaf in files:
                        if _is_listed((*parts, leaf)):
                            with suppress(FileNotFoundError):
                                status = os.stat(leaf, dir_fd=fd, follow_symlinks=False)
                                if stat.S_ISREG(status.st_mode):
                                    yield _info("/".join((*parts, leaf)), status)
        except FileNotFoundError:
            if not folder:
                raise

    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """See Storage."""
        folder = folder_parts(prefix)
        with self._reporting("cannot be listed", prefix):
            try:
                with self._folder(folder) as fd, os.scandir(fd) as entries:
                    names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                if not folder:
                    raise
                return ()
        return tuple(sorted(name for name in names if _is_listed((*folder, name))))

    def read(self, name: str, limit: int | None = None) -> bytes:
        """See Storage."""
        with self.open(name) as reader:
            if limit is not None and reader.size > limit:
                raise failure(
                    self.url,
                    name,
                    f"has {reader.size} bytes where at most {limit} are expected",
                    "it is not what its name says",
                )
            return reader.read_at(0, reader.size)

    def open(self, name: str) -> LocalReader:
        """See Storage."""
        check_name(name)
        *folder, leaf = name.split("/")
        with self._reporting("cannot be opened", name):
            try:
                with self._folder(folder) as parent:
                    fd = os.open(leaf, OPEN_FILE, dir_fd=parent)
            except FileNotFoundError:
                raise not_found(self.url, name) from None
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                os.close(fd)
                raise failure(self.url, name, "is not a regular file", "move it away")
        return LocalReader(self.url, name, fd, status.st_size)

    def write(self, name: str, data: bytes) -> None:
        """See Storage."""
        with self._publishing(name, "cannot be written") as (fd, leaf):
            temporary = write_temporary(fd, data)
            with removed_on_failure(fd, temporary):
                rename(fd, temporary, leaf)

    def create(self, name: str, data: bytes) -> None:
        """See Storage. Without hard links, the object is empty for a moment before it is whole."""
        with self._publishing(name, "cannot be created") as (fd, leaf):
            temporary = write_temporary(fd, data)
            with removed_on_failure(fd, temporary):
                try:
                    os.link(temporary, leaf, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
                    os.unlink(temporary, dir_fd=fd)
                except FileExistsError:
                    raise already_exists(self.url, name) from None
                except OSError as e:
                    if e.errno not in _NO_HARD_LINKS:
                        raise
                    self._create_without_link(fd, temporary, leaf, name)

    def _create_without_link(self, fd: int, temporary: str, leaf: str, name: str) -> None:
        try:
            create_empty(fd, leaf)
        except FileExistsError:
            raise already_exists(self.url, name) from None
        rename(fd, temporary, leaf)

    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """See Storage. A lock on the file, which no rename passes on, keeps callers apart."""
        check_name(name)
        *folder, leaf = name.split("/")
        with self._reporting("cannot be exchanged", name):
            try:
                with self._folder(folder) as fd, locked_file(fd, leaf) as file:
                    if os.pread(file, len(old) + 1, 0) != old:
                        raise changed(self.url, name)
                    if new is None:
                        os.unlink(leaf, dir_fd=fd)
                    else:
                        temporary = write_temporary(fd, new)
                        with removed_on_failure(fd, temporary):
                            rename(fd, temporary, leaf)
                    fsync_directory(fd)
            except FileNotFoundError:
                raise changed(self.url, name) from None

    def save_file(self, name: str, path: Path) -> None:
        """See Storage. From another file system the file is copied first, then deleted."""
        with self._publishing(name, f"cannot be saved from {path}") as (fd, leaf):
            source = os.open(path, OPEN_FILE)
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise failure(self.url, name, f"{path} is not a regular file", "save a file")
                os.fsync(source)
                try:
                    os.rename(path, leaf, dst_dir_fd=fd)
                except OSError as e:
                    if e.errno != errno.EXDEV:
                        raise
                    copy_into(fd, leaf, source)
                    os.unlink(path)
            finally:
                os.close(source)

    def staging_dir(self, backup_name: str) -> Path:
        """See Storage: `<root>/<backup_name>/.bkctl-staging`, for the owner's eyes only.

        What has the name is removed first, as it need not be what a run of ours left there.
        """
        check_name(backup_name)
        with (
            self._reporting("cannot be made", f"{backup_name}/{STAGING_FOLDER}"),
            self._folder(backup_name.split("/"), create=True) as fd,
        ):
            remove_tree(fd, STAGING_FOLDER)
            os.close(self._maker.open_child(fd, STAGING_FOLDER, mode=0o700))
        return self._root / backup_name / STAGING_FOLDER

    def discard_staging(self, backup_name: str) -> None:
        """See Storage."""
        parts = folder_parts(backup_name)
        with self._reporting("its temporary files cannot be removed", backup_name):
            try:
                with self._folder(parts) as fd:
                    for leaf in os.listdir(fd):
                        if not is_temporary(leaf):
                            if parts and _is_directory(fd, leaf):
                                self.discard_staging("/".join((*parts, leaf)))
                        elif not parts and not _is_old(fd, leaf):
                            continue
                        elif leaf == STAGING_FOLDER:
                            remove_tree(fd, leaf)
                        else:
                            os.unlink(leaf, dir_fd=fd)
            except FileNotFoundError:
                return
            self._remove_empty(parts)

    def delete(self, name: str) -> None:
        """See Storage. Folders that this leaves empty go too."""
        check_name(name)
        *folder, leaf = name.split("/")
        with self._reporting("cannot be deleted", name):
            try:
                with self._folder(folder) as fd:
                    os.unlink(leaf, dir_fd=fd)
                    fsync_directory(fd)
            except FileNotFoundError:
                return
            self._remove_empty(folder)

    def _remove_empty(self, folder: Sequence[str]) -> None:
        while folder:
            *folder, leaf = folder
            try:
                with self._folder(folder) as fd:
                    self._maker.remove_child(fd, leaf)
            except OSError:
                # Not empty, or someone else's business: an empty folder more does no harm.
                return

    @contextmanager
    def _reporting(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise _os_failure(self.url, name, what, e) from e

    @contextmanager
    def _publishing(self, name: str, what: str) -> Iterator[tuple[int, str]]:
        """Give the object's folder, made if need be, and its last part; make the change durable."""
        check_name(name)
        *folder, leaf = name.split("/")
        with self._reporting(what, name), self._folder(folder, create=True) as fd:
            yield fd, leaf
            fsync_directory(fd)

    @contextmanager
    def _folder(self, parts: Sequence[str], create: bool = False) -> Iterator[int]:
        """Open a directory below the root without following a link; FileNotFoundError if absent."""
        if create:
            make_directories(self._root)
        fd = os.open(self._root, OPEN_DIRECTORY)
        try:
            for part in parts:
                child = self._maker.open_child(fd, part) if create else open_child(fd, part)
                os.close(fd)
                fd = child
            yield fd
        finally:
            os.close(fd)


def _is_listed(parts: tuple[str, ...]) -> bool:
    # A file system's own lost+found is no backup, and only root may look into it.
    if parts == ("lost+found",):
        return False
    try:
        check_name("/".join(parts))
    except StorageError:
        return False
    return True


def _is_old(folder: int, leaf: str) -> bool:
    # Others may be at work in the root, but none of them for that long on one small file.
    return os.stat(leaf, dir_fd=folder, follow_symlinks=False).st_mtime < time.time() - _DAY


def _is_directory(folder: int, leaf: str) -> bool:
    return stat.S_ISDIR(os.stat(leaf, dir_fd=folder, follow_symlinks=False).st_mode)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _info(name: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, status.st_size, status.st_mtime)


def _os_failure(url: str, name: str, what: str, error: OSError) -> StorageError:
    code = error.errno or 0
    check = _CHECKS.get(code, "check the path and the file system")
    told = failure(url, name, f"{what} ({os.strerror(code) if code else error})", check)
    return NotFoundError(str(told)) if code == errno.ENOENT else told
