"""How commands end: the exit code that belongs to each way."""

from __future__ import annotations

import signal

import typer

from bkctl.errors import BkctlError, CancelledError


class Terminated(KeyboardInterrupt):
    """SIGTERM, made to unwind the stack as SIGINT does, so that temporary files are removed."""


class HungUp(KeyboardInterrupt):
    """The same of SIGHUP: the terminal is gone."""


UNWINDING: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: HungUp,
}


def exit_code_of(error: BaseException | None) -> int:
    """The exit code of a command that raised this; None is for one that ran to its end."""
    if error is None:
        return 0
    if isinstance(error, CancelledError):
        return 128 + error.signum
    if isinstance(error, BkctlError | typer.Exit):
        return error.exit_code
    for signum, raised in UNWINDING.items():
        if type(error) is raised:
            return 128 + signum
    return 1
