"""The one error tree: every failure a user can meet, its exit code, and TiKV's word for its kind.

An error's text is one line that says what is wrong, where, and what to do about it. The exit code
belongs to the class; `kind` is the word that reports use for it (those of TiKV's backup responses:
key_is_locked, not_leader, region_not_found, epoch_not_match, server_is_busy, corruption, storage,
other).
"""

from __future__ import annotations

from typing import ClassVar


class BkctlError(Exception):
    """Base of all errors meant for a user: `str(error)` is the whole message, on one line."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "other"


class UsageError(BkctlError):
    """A bad option, or an input that cannot be read: nothing was started."""

    exit_code = 2


class RegionMapError(UsageError):
    """A region map that cannot be used; names the file, the region and the field."""


class SourceError(UsageError):
    """The directory given as a store is none, or is one that plain RocksDB cannot read."""


class CorruptionError(BkctlError):
    """Stored data that contradicts itself: a checksum, a length, an order, a missing part."""

    kind = "corruption"


class KeyIsLockedError(BkctlError):
    """A lock at or below the backup's timestamp stands in the range."""

    exit_code = 4
    kind = "key_is_locked"


class StorageError(BkctlError):
    """The destination (or a temporary directory) could not be written or read."""

    kind = "storage"


class RangesFailedError(BkctlError):
    """Some ranges failed: nothing is published, what is finished stays for a later try."""

    exit_code = 3


class RepositoryLockedError(BkctlError):
    """Another run holds the repository's lock; names it."""

    exit_code = 6


class WorkerDiedError(BkctlError):
    """A worker process ended without an answer (killed, out of memory, crashed)."""


class CancelledError(BkctlError):
    """The run was told to stop; `signum` is the signal (1, 2 or 15), the exit code 128 + signum."""

    def __init__(self, signum: int, outcome: str = "nothing was published") -> None:
        super().__init__(f"interrupted; {outcome}")
        self.signum = signum


KINDS: frozenset[str] = frozenset(
    {
        "key_is_locked",
        "not_leader",
        "region_not_found",
        "epoch_not_match",
        "server_is_busy",
        "corruption",
        "storage",
        "other",
    }
)
