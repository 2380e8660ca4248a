"""What TiKV was last started with, as far as reading its store depends on it: `last_tikv.toml`.

TiKV writes the file into its data directory at each start. Under API V1, the store's own record
does not tell whether values end in an expiry; `storage.enable-ttl` does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bkctl.errors import SourceError
from bkctl.files.small import read_small
from bkctl.shortage import reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

NAME = "last_tikv.toml"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TikvConfig:
    """The settings that matter here."""

    enable_ttl: bool = False


def read_tikv_config(db_dir: Path) -> TikvConfig | None:
    """Read the file beside, or in, a database directory; None where there is none.

    Raises SourceError for one that cannot be read.
    """
    for folder in (db_dir.parent, db_dir):
        path = folder / NAME
        if path.exists():
            return _parse(path)
    return None


def _parse(path: Path) -> TikvConfig:
    try:
        text = read_small(path, _MAX_BYTES).decode()
        storage = tomllib.loads(text).get("storage", {})
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({reason_of(e)})") from None
    except (ValueError, RecursionError):
        raise SourceError(
            f"{path}: no readable TOML; move it away, and say --api-version if the store is raw"
        ) from None
    enable_ttl = storage.get("enable-ttl") if isinstance(storage, dict) else None
    return TikvConfig(enable_ttl is True)
