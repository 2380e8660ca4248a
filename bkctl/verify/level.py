"""How thoroughly a backup is verified; alone here, so that naming a level loads nothing else."""

from __future__ import annotations

from enum import Enum


class Level(str, Enum):
    """Each level includes those before it."""

    SIZE = "size"
    SHA256 = "sha256"
    DEEP = "deep"
