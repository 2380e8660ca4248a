"""The settings that all parts of a backup have, as the first of them wrote them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bkctl.archive.names import PART_SETTING
from bkctl.archive.report import MODES, KeyRange
from bkctl.codec.json_text import loads
from bkctl.errors import CorruptionError, UsageError
from bkctl.fleet.shelf import Shelf
from bkctl.fleet.state import settings_digest
from bkctl.repository.summary import parse_claim
from bkctl.store.ident import has_plain_keys

_MAX_KEY = 32 << 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parts were asked for; `all` is that as it was written down, `digest` stands for it.

    `window` is raw user keys, `family` the column family of raw ones and else empty.
    """

    all: Mapping[str, object]
    digest: str
    cluster_id: int
    start_ts: int
    end_ts: int
    window: KeyRange
    mode: str
    family: str
    codec: str
    base: str
    allow_minority: bool

    @property
    def kind(self) -> str:
        """See BackupRequest."""
        return "incr" if self.start_ts else "raw" if self.mode == "raw" else "full"

    def has_plain_keys(self, api_version: int) -> bool:
        """See BackupRequest."""
        return has_plain_keys(self.mode == "raw", api_version)


def read_settings(shelf: Shelf) -> Settings:
    """Read them; UsageError where no backup of that name is to be sealed, CorruptionError."""
    backup_dir = shelf.backup_dir
    if backup_dir.is_complete():
        raise UsageError(f"{backup_dir.where} is complete; there is nothing to seal")
    claim = backup_dir.read_claim()
    if claim is None:
        raise UsageError(
            f"{backup_dir.where} was never begun; see what there is with bkctl list, and take its "
            "parts with bkctl backup --part"
        )
    if (parsed := parse_claim(claim)) is not None and parsed.is_deleted:
        raise UsageError(f"{backup_dir.where} is half deleted; let bkctl prune finish that")
    try:
        document: Any = loads(claim)
        settings = document["settings"]
        is_part = settings.get(PART_SETTING) is True
    except (ValueError, KeyError, TypeError, AttributeError):
        settings, is_part = {}, False
    if not is_part:
        raise UsageError(
            f"{backup_dir.where} was not begun in parts; take it up again with bkctl backup "
            "--resume, or leave it to bkctl prune"
        )
    try:
        return _parse(settings)
    except (ValueError, KeyError, TypeError):
        raise CorruptionError(
            f"{backup_dir.where}: its settings (backup.lock) are damaged; take the parts again "
            "under another --name"
        ) from None


def _parse(settings: Mapping[str, object]) -> Settings:
    mode = _text(settings["mode"])
    if mode not in MODES:
        raise ValueError(mode)
    window = KeyRange(_key(settings["start_key"]), _key(settings["end_key"]))
    if window.end_key and window.end_key <= window.start_key:
        raise ValueError("window")
    start_ts, end_ts = _count(settings["start_ts"]), _count(settings["end_ts"])
    if start_ts > end_ts:
        raise ValueError("start_ts")
    return Settings(
        settings,
        settings_digest(settings),
        _count(settings["cluster_id"]),
        *(start_ts, end_ts, window, mode),
        _text(settings["cf"]),
        _text(settings["compression"]),
        _text(settings.get("base", "")),
        settings.get("allow-minority") is True,
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1024:
        raise ValueError("no text")
    return value


def _key(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * _MAX_KEY:
        raise ValueError("no key")
    return bytes.fromhex(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError("no count")
    return value
