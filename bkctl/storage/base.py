"""The one interface to a place that holds backups: named objects at a URL.

A storage is a flat set of immutable-looking objects. Names are relative and '/'-separated; a
"folder" is nothing but a common beginning of names, and is gone with its last object. The rules
below hold for every implementation and for every wrapper (retry, rate limit, metrics) of one:

  atomic     an object is seen whole or not at all, whatever is killed when
  durable    when write, create or save_file has returned, the object survives a power failure
  threads    all methods may be called from several threads; a storage is not pickled, its spec is
  errors     every failure is a StorageError that names the URL, the object and what to check;
             another try is worth its time after a TransientError only
  repeating  stat, list, list_folders, read, open, write, delete and discard_staging may be repeated
             after any failure; create, exchange and save_file may be, but see there
  secrets    none is in `url`, in a repr or in an error
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from bkctl.errors import StorageError
from bkctl.pool.threads import Threads
from bkctl.shortage import NoThreadError

if TYPE_CHECKING:
    from typing_extensions import Self

TEMPORARY_PREFIX = ".bkctl-tmp-"
STAGING_FOLDER = ".bkctl-staging"
MAX_NAME_BYTES = 1024

_CALLS_AT_A_TIME = 8
_CALLS_WAITING = 64

_A = TypeVar("_A")
_B = TypeVar("_B")


class AlreadyExistsError(StorageError):
    """`create` found an object of that name. Final: another try gives the same answer."""


class ChangedError(StorageError):
    """`exchange` found other content than it was to replace, or no object. Final."""


class NotFoundError(StorageError):
    """There is no object of that name. Final."""


class TransientError(StorageError):
    """A failure that may pass: a busy or failing service, a cut connection, a damaged transfer.

    `progressed` tells that the call got further than the one before it (a part of a file was
    stored), so that who counts time or tries may start counting anew.
    """

    def __init__(self, message: str, *, progressed: bool = False) -> None:
        super().__init__(message)
        self.progressed = progressed

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments alone.
        return partial(TransientError, progressed=self.progressed), self.args


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells about an object: `size` in bytes, `modified` in unix seconds."""

    name: str
    size: int
    modified: float


def failure(url: str, name: str, what: str, check: str) -> StorageError:
    """Build the one line of a StorageError: where (`url`, `name`), what, and what to check."""
    return StorageError(_line(url, name, what, check))


def already_exists(url: str, name: str) -> AlreadyExistsError:
    """Build the error of a `create` that came second."""
    return AlreadyExistsError(_line(url, name, "exists already", "another run may have written it"))


def changed(url: str, name: str) -> ChangedError:
    """Build the error of an `exchange` that came too late."""
    return ChangedError(_line(url, name, "is not as it was", "another run changed or removed it"))


def not_found(url: str, name: str) -> NotFoundError:
    """Build the error of a read of what is not there."""
    return NotFoundError(_line(url, name, "no such object", "check the storage URL and the name"))


def _line(url: str, name: str, what: str, check: str) -> str:
    return f"{url}: {name}: {what}; {check}" if name else f"{url}: {what}; {check}"


def check_name(name: str) -> None:
    """Refuse, with StorageError, what is not a plain relative object name.

    Names come out of files that anyone may have written, so nothing passes that could leave the
    storage's root, mean two things on two systems, hide among temporary files, or spoil a terminal.
    """
    problem = _name_problem(name)
    if problem:
        shown = ascii(name if len(name) <= 80 else name[:77] + "...")
        raise StorageError(f"object name {shown} is refused: {problem}")


def _name_problem(name: str) -> str:
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it holds control or unprintable characters"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    if "\\" in name:
        return "it holds a backslash"
    if name.startswith("/"):
        return "it is absolute, and must be relative"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"it has a part {part!r}"
        if is_temporary(part):
            return f"{part!r} is reserved for temporary files"
    return ""


def is_temporary(part: str) -> bool:
    """Whether one part of a path names a temporary file or folder, which is never an object."""
    return part == STAGING_FOLDER or part.startswith(TEMPORARY_PREFIX)


def folder_parts(prefix: str) -> tuple[str, ...]:
    """Split the folder that `list` and `list_folders` are given; "" is the root, "a" is "a/"."""
    folder = prefix[:-1] if prefix.endswith("/") else prefix
    if not folder:
        return ()
    check_name(folder)
    return tuple(folder.split("/"))


def side_by_side(call: Callable[[_A], _B], arguments: Iterable[_A]) -> list[_B]:
    """Make many calls to a storage, eight at a time, and give what they return, in order.

    Raises what the first failing one raises; calls that still wait then are not made.
    """
    results: list[_B] = []
    # Not all at once: what is to be done may be a hundred thousand calls.
    pending: deque[Future[_B]] = deque()
    with Threads(_CALLS_AT_A_TIME, thread_name_prefix="storage") as threads:
        try:
            for argument in arguments:
                if len(pending) == _CALLS_WAITING:
                    results.append(pending.popleft().result())
                try:
                    pending.append(threads.submit(call, argument))
                except NoThreadError:
                    results.append(call(argument))  # nothing is pending without a thread
            while pending:
                results.append(pending.popleft().result())
        finally:
            for left in pending:
                left.cancel()
    return results


class RandomReader(ABC):
    """Reads any part of one object; several threads may read from it at once."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The object's length in bytes when it was opened."""

    @property
    def crc32c(self) -> int | None:
        """The CRC-32C of the whole object as the service keeps it; None where it keeps none."""
        return None

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on; fewer only where the object ends.

        Never takes more memory than the object has bytes, however large `length` is. Raises
        ValueError for a negative number, StorageError if the read fails.
        """

    def close(self) -> None:  # noqa: B027 - closing is optional for a reader that holds nothing
        """Release what the reader holds; may be called twice, no read may follow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class Storage(ABC):
    """A place for objects; the module's text is the contract that holds for all methods."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where this is, safe to print and to store."""

    @property
    def discards(self) -> bool:
        """Whether what is written is thrown away by design, so that nothing can be read back."""
        return False

    @abstractmethod
    def stat(self, name: str) -> ObjectInfo | None:
        """Tell an object's size and age, or None where there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Give all objects of the folder `prefix` and those below it, sorted by name.

        Names up to and including `after` are left out, to go on with a listing that was cut.
        Temporary files are not objects. A folder that is not there has none; but if the place
        itself is missing (bucket, root directory), listing the root raises StorageError, as an
        empty answer would hide a mistyped URL: NotFoundError where writing would make the place.
        """

    @abstractmethod
    def list_folders(self, prefix: str = "") -> tuple[str, ...]:
        """Give the sorted names (last part only) of the folders directly in `prefix`.

        The place itself missing is an error as with `list`.
        """

    @abstractmethod
    def read(self, name: str, limit: int | None = None) -> bytes:
        """Read a whole object.

        An object of more than `limit` bytes is refused (StorageError) rather than cut, for objects
        that are small unless someone means harm. Raises NotFoundError.
        """

    @abstractmethod
    def open(self, name: str) -> RandomReader:
        """Open an object for reading at any offset. Raises NotFoundError."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put an object, replacing in one step what had that name."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Put an object only if none has that name, else raise AlreadyExistsError.

        Of any number of callers, in any processes on any machines, exactly one succeeds. After any
        other failure the object may exist or not: the caller that tries again must take
        AlreadyExistsError as "perhaps by me" and compare the content.
        """

    @abstractmethod
    def exchange(self, name: str, old: bytes, new: bytes | None) -> None:
        """Replace an object, or remove it if `new` is None, only if its content is `old`.

        Of any number of callers that expect the same content, in any processes on any machines,
        exactly one succeeds; the others, and who expects what is not there, get ChangedError. All
        writers of the object must use `create` and this, never the same content twice. After any
        other failure the exchange may have been made or not, as with `create`. A service that
        deletes without a condition has the content compared right before.
        """

    @abstractmethod
    def save_file(self, name: str, path: Path) -> None:
        """Publish the finished local file at `path` as an object, replacing in one step.

        The file is consumed: moved or deleted. After a failure it is still there, and the call may
        be repeated, unless the object itself was already complete; the same storage then goes on
        from what is already stored where it can.
        """

    def staging_dir(self, backup_name: str) -> Path | None:
        """Give a private local directory from which save_file is a rename, made anew and empty.

        None: the storage has none and the caller uses a temporary directory of its own. Only the
        run that owns the folder `backup_name` may use it.
        """
        return None

    def discard_staging(self, backup_name: str) -> None:  # noqa: B027 - nothing staged, nothing to do
        """Remove the staging directory and temporary files that runs left in a backup's folder.

        "" is the root: temporary files directly in it, if they are more than a day old.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""

    def close(self) -> None:  # noqa: B027 - closing is optional for a storage that holds nothing
        """Release connections; may be called twice, nothing else may follow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
