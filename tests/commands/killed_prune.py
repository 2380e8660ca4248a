"""A `bkctl prune` that is killed by SIGKILL before its call number N that changes the repository.

killed_prune.py N <arguments of bkctl>      0 for never; prints the number of calls at the end
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from bkctl.storage.local import LocalStorage

CALLS = ("write", "exchange", "delete", "discard_staging")


def counted(method: Callable[..., Any], numbers: itertools.count[int], last: int) -> Any:
    def call(self: LocalStorage, *args: Any) -> Any:
        if next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args)

    return call


def main() -> None:
    from bkctl.cli import app

    numbers = itertools.count(1)
    for name in CALLS:
        setattr(LocalStorage, name, counted(getattr(LocalStorage, name), numbers, int(sys.argv[1])))
    try:
        app(sys.argv[2:])
    finally:
        print(f"\n{next(numbers) - 1}", file=sys.stderr)


if __name__ == "__main__":
    main()
