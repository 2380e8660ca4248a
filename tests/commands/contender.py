"""A `bkctl backup` for a race: it starts when told to, and stays in the middle until told to end.

contender.py <arguments of bkctl>       prints "ready", reads a line, runs; reads another line
                                        before it publishes
"""

from __future__ import annotations

import sys

from bkctl.pool.events import Listener
from tests.backup.helpers import Quiet


def stay(event: str) -> None:
    if event == "finished":
        sys.stdin.readline()


def staying(mode: str) -> Listener:
    del mode
    return Quiet(stay)


def main() -> None:
    from bkctl.cli import app
    from bkctl.ui import progress

    progress.make_listener = staying  # type: ignore[assignment]
    print("ready", flush=True)
    sys.stdin.readline()
    app(sys.argv[1:])


if __name__ == "__main__":
    main()
