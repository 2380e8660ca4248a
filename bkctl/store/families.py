"""Which column families a store has to have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bkctl.errors import SourceError

BLOB_FAMILY = "default"
"""The family whose values Titan keeps in blob files; TiKV turns it on for no other."""


def require_families(source: Path, found: Sequence[str], families: Sequence[str]) -> None:
    """Raise SourceError, by name, for a column family that is not among those `found`."""
    missing = [name for name in families if name not in found]
    if missing:
        raise SourceError(
            f"{source}: no column family {', '.join(missing)}; it has {', '.join(sorted(found))}"
            + (" (a raw store is backed up with --raw)" if "write" in missing else "")
        )
