"""Storage URLs: what a user writes, what may be shown of it, and how it is opened.

    /path, path                    a local directory, taken literally
    local:///path  file:///path    the same; %XX escapes are decoded
    gcs://bucket/prefix?option=…   Google Cloud Storage (also gs://)
    s3://bucket/prefix?option=…    S3 and what speaks its protocol
    noop://                        throws everything away

Options ride in the query under br's names; `_` and `-` mean the same there.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from bkctl.errors import StorageError, UsageError
from bkctl.storage.base import Storage, check_name
from bkctl.storage.limit import RateLimit, TokenBucket
from bkctl.storage.local import LocalStorage
from bkctl.storage.metrics import Metrics, MetricsStorage
from bkctl.storage.noop import NoopStorage
from bkctl.storage.retry import RetryStorage

MASK = "***"

_ALIASES = {"file": "local", "gs": "gcs"}
_OPTIONS: dict[str, frozenset[str]] = {
    "local": frozenset(),
    "noop": frozenset(),
    "gcs": frozenset(
        {
            "chunk-size",
            "credentials-file",
            "endpoint",
            "predefined-acl",
            "storage-class",
            "timeout",
        }
    ),
    "s3": frozenset(
        {
            "access-key",
            "acl",
            "chunk-size",
            "endpoint",
            "force-path-style",
            "profile",
            "region",
            "secret-access-key",
            "session-token",
            "sse",
            "sse-kms-key-id",
            "storage-class",
            "timeout",
        }
    ),
}
_KNOWN = "a path, local://, gcs:// (gs://), s3:// and noop://"
_SECRET = re.compile(r"credential|key|secret|token|password|passphrase|auth", re.I)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")

# Cloud backends bring heavy clients, so each module is imported when it is first asked for. It
# offers `open_storage(spec: StorageSpec) -> Storage`.
_BACKENDS = {"gcs": "bkctl.storage.gcs", "s3": "bkctl.storage.s3"}


@dataclass(frozen=True, slots=True, repr=False)
class StorageSpec:
    """A parsed storage URL; can be pickled and sent to workers, unlike a Storage.

    `path` is the absolute directory of `local`; `bucket` and `prefix` (without slashes at its
    ends) are those of a cloud. `options` are sorted pairs, names as br writes them; their values
    may be secret, and neither str() nor repr() shows those. `rate_limit` is no part of the URL: the
    caller sets it with dataclasses.replace.
    """

    scheme: str
    path: str = ""
    bucket: str = ""
    prefix: str = ""
    options: tuple[tuple[str, str], ...] = ()
    rate_limit: RateLimit | None = None

    @property
    def display(self) -> str:
        """The URL with every secret masked, for people, logs and reports."""
        if self.scheme == "noop":
            return "noop://"
        if self.scheme == "local":
            return f"local://{self.path}"
        place = f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        shown = "&".join(f"{name}={_shown(name, value)}" for name, value in self.options)
        return f"{place}?{shown}" if shown else place

    def option(self, name: str) -> str | None:
        """Give an option's value, None if the URL has none of that name."""
        return dict(self.options).get(name)

    def __str__(self) -> str:
        return self.display

    def __repr__(self) -> str:
        return f"StorageSpec({self.display!r})"


def parse_storage(url: str) -> StorageSpec:
    """Read a storage URL or path; touches nothing. Raises UsageError, in which no secret shows."""
    if not url:
        raise UsageError("the storage URL is empty; give a path or a URL such as local:///backups")
    if not url.isprintable():
        raise _refusal(url, "holds unprintable characters")
    if "://" not in url:
        if re.match(r"(local|file|gcs|gs|s3|noop):", url, re.I):
            raise _refusal(url, "lacks the two slashes of a URL; for a path of that name write ./")
        return StorageSpec("local", path=os.path.abspath(url))
    try:
        parts = urlsplit(url)
        location = unquote(parts.path, errors="strict")
        pairs = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except ValueError:
        # The exception's own text may quote any part of the URL.
        raise _refusal(url, "is no valid URL; write special characters as %XX") from None
    scheme = _ALIASES.get(parts.scheme, parts.scheme)
    if scheme not in _OPTIONS:
        raise _refusal(url, f"has an unknown scheme; known are {_KNOWN}")
    if "@" in parts.netloc:
        raise _refusal(url, "carries a user or password, which would be ignored; use options")
    if parts.fragment or url.endswith("#"):
        raise _refusal(url, "holds a '#'; write it as %23")
    if not location.isprintable():
        raise _refusal(url, "holds unprintable characters")
    options = _options(url, scheme, pairs)
    if scheme == "local":
        return StorageSpec("local", path=_local_path(url, parts, location))
    if scheme == "noop":
        return StorageSpec("noop")
    return _cloud(url, scheme, parts.netloc, location, options)


def open_storage(spec: StorageSpec, metrics: Metrics | None = None) -> Storage:
    """Open the storage of a parsed URL; a local root need not exist yet.

    Storages behind a network try again what may pass, and send no faster than `rate_limit`. With
    `metrics`, all calls are counted there. Raises UsageError for a kind that this installation
    cannot open, StorageError where opening a cloud's client fails.
    """
    storage = _open(spec)
    if metrics is None:
        return storage
    if isinstance(storage, RetryStorage):
        storage.on_retry = metrics.count_retry
    return MetricsStorage(storage, metrics)


class OpenedStorage:
    """The storage that was asked for last, kept open for who asks for the same again."""

    def __init__(self) -> None:
        self._spec: StorageSpec | None = None
        self._storage: Storage | None = None

    def get(self, spec: StorageSpec) -> Storage:
        """The storage of `spec`; another one is closed. Raises what `open_storage` raises."""
        if self._storage is None or self._spec != spec:
            if self._storage is not None:
                self._storage.close()
            self._storage = open_storage(spec)
            self._spec = spec
        return self._storage


def load_backend(spec: StorageSpec) -> None:
    """Load what `open_storage` needs for `spec`, so that processes forked later find it loaded.

    Says nothing where that fails: `open_storage` does.
    """
    if spec.scheme in _BACKENDS:
        _is_available(spec.scheme)


def writer_bucket(spec: StorageSpec) -> TokenBucket | None:
    """Give what the maker of files must take from as they grow, or None.

    Where saving a file is a move, its bytes are on their way when they are written; where it is
    sent, the storage holds to the limit itself.
    """
    if spec.rate_limit is None or spec.scheme in _BACKENDS:
        return None
    return TokenBucket(spec.rate_limit)


def _open(spec: StorageSpec) -> Storage:
    if spec.scheme == "local":
        return LocalStorage(Path(spec.path))
    if spec.scheme == "noop":
        return NoopStorage()
    try:
        module = importlib.import_module(_BACKENDS[spec.scheme])
        opener = cast(Callable[[StorageSpec], Storage], module.open_storage)
    except (KeyError, ImportError, AttributeError):
        available = ", ".join(["local", "noop", *filter(_is_available, _BACKENDS)])
        raise UsageError(
            f"{spec.display}: storage of the kind {spec.scheme}:// is not available in this "
            f"installation (pip install 'bkctl[{spec.scheme}]'); available are {available}"
        ) from None
    return opener(spec)


def _options(url: str, scheme: str, pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    for written, value in pairs:
        name = written.lower().replace("_", "-")
        if name not in _OPTIONS[scheme]:
            known = ", ".join(sorted(_OPTIONS[scheme])) or "none"
            # What does not look like a name may be the rest of a secret.
            shown = f" {written!r}" if re.fullmatch(r"[\w-]{1,40}", written, re.ASCII) else ""
            raise _refusal(url, f"has an unknown option{shown}; known are: {known}")
        if name in options:
            raise _refusal(url, f"gives the option {name} twice")
        if not value.isprintable():
            raise _refusal(url, f"has unprintable characters in the option {name}")
        options[name] = value
    return tuple(sorted(options.items()))


def _local_path(url: str, parts: SplitResult, location: str) -> str:
    if parts.netloc not in ("", "localhost"):
        raise _refusal(url, "names a host; a local path has three slashes, local:///path")
    if not location.startswith("/"):
        raise _refusal(url, "names no directory; write local:///path")
    return os.path.abspath(location)


def _cloud(
    url: str, scheme: str, bucket: str, location: str, options: tuple[tuple[str, str], ...]
) -> StorageSpec:
    if not _BUCKET.fullmatch(bucket):
        raise _refusal(url, f"names no valid bucket; write {scheme}://bucket/prefix")
    prefix = location.strip("/")
    if prefix:
        try:
            check_name(prefix)
        except StorageError as e:
            raise _refusal(url, f"has a prefix that cannot be used ({e})") from None
    return StorageSpec(scheme, bucket=bucket, prefix=prefix, options=options)


def _refusal(url: str, why: str) -> UsageError:
    # What is wrong may be a secret in the wrong place: no query, and nothing that may be userinfo.
    shown = re.split(r"[?#]", _mask_userinfo(url), maxsplit=1)[0]
    return UsageError(f"storage URL {shown!a} {why}")


def _mask_userinfo(url: str) -> str:
    # Greedy, as a password may hold any of the characters that end one in a well-formed URL.
    return re.sub(r"(:/*).*@", rf"\1{MASK}@", url, count=1, flags=re.DOTALL)


def _shown(name: str, value: str) -> str:
    return MASK if _SECRET.search(name) else quote(_mask_userinfo(value), safe="/:,.@*")


def _is_available(scheme: str) -> bool:
    try:
        return hasattr(importlib.import_module(_BACKENDS[scheme]), "open_storage")
    except ImportError:
        return False
