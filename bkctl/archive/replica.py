"""What a report says of a region's replica.

    {"region_id", "replica": "complete|unknown|behind", "role", "applied", "commit", "last_index",
     "above", "store_id", "why"}

`replica` tells whether it is known to have all that the cluster acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Count = Callable[[str, int], int]
Text = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class ReplicaNote:
    """What is known of a region's replica on this store: `complete`, `unknown` or `behind`.

    `role` is its peer's (voter, learner…). Of the raft log, entries up to `applied` are in the
    backup, those up to `commit` are known to be committed, and `above` lie above `applied`. If it
    was chosen among several, `store_id` is its store, and `why` tells what for.
    """

    region_id: int
    replica: str
    role: str = ""
    applied: int = 0
    commit: int = 0
    last_index: int = 0
    above: int = 0
    store_id: int = 0
    why: str = ""

    @classmethod
    def read(cls, count: Count, text: Text) -> ReplicaNote:
        """Read it of an object whose fields `count` and `text` give by name, or a default."""
        return cls(
            region_id=count("region_id", 0),
            replica=text("replica", ""),
            role=text("role", ""),
            applied=count("applied", 0),
            commit=count("commit", 0),
            last_index=count("last_index", 0),
            above=count("above", 0),
            store_id=count("store_id", 0),
            why=text("why", ""),
        )
