"""How far a raft log is to be applied."""

from __future__ import annotations

from enum import Enum


class RaftLogMode(str, Enum):
    """What is known to be committed, all there is, or nothing at all."""

    COMMITTED = "committed"
    ALL = "all"
    IGNORE = "ignore"
