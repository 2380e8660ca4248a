"""Where the program starts, for `bkctl` as for `python -m bkctl`.

Worker processes import this module again, so it imports nothing but what is built in.
"""

import gc
import os
import sys

from bkctl import interrupts


def main() -> None:
    """Run the command line; never returns, the exit code says how it went."""
    interrupts.end_at_once()
    # Numpy's algebra is not used; its threads would cost each process a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Loading makes 80,000 objects and no garbage to look for among them.
    gc.set_threshold(200_000)
    try:
        from bkctl.cli import app

        app(prog_name="bkctl")
    finally:
        interrupts.settle()
        interrupts.deafen()
        # The system takes it all back at once; nothing is to be looked through for that.
        gc.freeze()
        if processes := sys.modules.get("bkctl.pool.processes"):
            processes.end_all()


if __name__ == "__main__":
    main()
