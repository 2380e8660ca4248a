"""What TiKV was last started with, as far as reading its store depends on it: `last_tikv.toml`.

TiKV writes the file into its data directory at each start. Under API V1, the store's own record
does not tell whether values end in an expiry; `storage.enable-ttl` does. Of an encrypted store,
`security.encryption` tells where its master key is, and where the one before it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """The settings of the file `path` that matter here.

    `data_dir` is where TiKV saw its data directory. `master_keys` are the files of master keys, the
    current before the previous; `kms_vendor` and `kms_key` name one that a KMS keeps.
    """

    path: Path
    enable_ttl: bool = False
    data_dir: str = ""
    master_keys: tuple[Path, ...] = ()
    kms_vendor: str = ""
    kms_key: str = ""


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
        document = tomllib.loads(text)
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({reason_of(e)})") from None
    except (ValueError, RecursionError):
        raise SourceError(
            f"{path}: no readable TOML; move it away, and say --api-version if the store is raw, "
            "--master-key if it is encrypted"
        ) from None
    storage = _table(document, "storage")
    encryption = _table(_table(document, "security"), "encryption")
    keys = [_table(encryption, name) for name in ("master-key", "previous-master-key")]
    files = [_text(key, "path") for key in keys if key.get("type") == "file"]
    kms = next((key for key in keys if key.get("type") == "kms"), {})
    return TikvConfig(
        path,
        storage.get("enable-ttl") is True,
        _text(storage, "data-dir"),
        tuple(Path(name) for name in files if os.path.isabs(name)),
        _text(kms, "vendor"),
        _text(kms, "key-id"),
    )


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _text(table: dict[str, Any], name: str) -> str:
    found = table.get(name)
    return found if isinstance(found, str) else ""
