"""Where the program starts, for `bkctl` as for `python -m bkctl`.

Worker processes import this module again, so it imports nothing but what is built in.
"""

import signal
import sys


def main() -> None:
    """Run the command line; never returns, the exit code says how it went."""
    # Until the command line handles signals itself, they end the program without a traceback.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        from bkctl.cli import app

        app(prog_name="bkctl")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        if processes := sys.modules.get("bkctl.processes"):
            processes.end_helper()


if __name__ == "__main__":
    main()
