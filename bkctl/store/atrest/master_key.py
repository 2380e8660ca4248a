"""The master key of a store: given by its user, or where the store's own configuration has it.

A key file holds 32 bytes as 64 hexadecimal digits and a newline, as TiKV takes it in
`[security.encryption.master-key]` of type "file". TiKV's previous-master-key counts too: after a
change of keys, a store stays sealed by that one until TiKV has been started.

A key is shown nowhere: not in an error, not in a representation.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bkctl.errors import SourceError
from bkctl.files.small import read_small
from bkctl.store.tikv_config import TikvConfig

KEY_SIZE = 32
_MAX_FILE = 4096

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key and the file it is from; no representation shows it."""

    path: Path
    key: bytes = field(repr=False)


def read_master_key(path: Path, warn: Warn) -> MasterKey:
    """Read a key file; `warn` is told of one that is not safe.

    Raises SourceError, naming the file and nothing of what is in it.
    """
    try:
        content = read_small(path, _MAX_FILE)
        mode = path.stat().st_mode
    except OSError as e:
        raise SourceError(f"{path}: the master key cannot be read ({e.strerror})") from None
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise SourceError(
            f"{path}: holds no master key: {2 * KEY_SIZE} hexadecimal digits, as TiKV takes it"
        )
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        warn(f"{path}: others may read or change this master key; chmod o= takes that away")
    return MasterKey(path, key)


class MasterKeys:
    """The master keys that may open a store's dictionary of keys."""

    def __init__(self, given: Path | None, config: TikvConfig | None, warn: Warn) -> None:
        """`given` alone counts if there is one, else the files that `config` names."""
        self._given, self._config, self._warn = given, config, warn

    def load(self, sealed: Path) -> list[MasterKey]:
        """The keys to try on the file `sealed`, one at least; raises SourceError."""
        if self._given is not None:
            return [read_master_key(self._given, self._warn)]
        named = () if self._config is None else self._config.master_keys
        found = [path for path in named if path.exists()]
        if found:
            return [read_master_key(path, self._warn) for path in found]
        where = ""
        if named and self._config is not None:
            names = " and ".join(map(str, named))
            where = f" ({self._config.path} names {names}, which is not here)"
        raise SourceError(
            f"{sealed}: the store is encrypted at rest; give its master key with "
            f"--master-key FILE{where}"
        )

    def kms_name(self, vendor: str) -> str:
        """Which key of which KMS it is, as far as is known."""
        config = self._config
        if config is not None and config.kms_key:
            return f"{config.kms_vendor or vendor or 'vendor unknown'}, key {config.kms_key}"
        return vendor or "vendor unknown"
