"""The command line: which commands there are, what they have in common, and how errors end.

Results go to stdout, all else to stderr. The exit code of an error belongs to its class in
`bkctl.errors`. A user's mistake, a damaged input, an interrupt or a closed pipe never ends in a
traceback: only a fault of the program does.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bkctl import __version__, interrupts
from bkctl.commands.config import value_origin
from bkctl.commands.endings import UNWINDING, exit_code_of
from bkctl.errors import BkctlError
from bkctl.files.access import private_files
from bkctl.shortage import LACKING, what_failed
from bkctl.ui import log
from bkctl.ui.printable import printable

HELP = """Consistent, verifiable, restorable backups of TiKV stores, straight from their RocksDB
directories.

\b
Example:
  bkctl ranges --db /var/lib/tikv --region-map regions.json

Every option can stand in a file (--config, else ./bkctl.toml, else ~/.config/bkctl/config.toml) or
in a variable: BKCTL_REGION_MAP sets --region-map. The command line wins, then the variable.

\b
Exit codes: 0 done; 1 failed; 2 bad option or unreadable input, nothing was
started; 3 some ranges failed; 4 some ranges failed, all on locked keys;
5 verify found damage; 6 another run holds the repository's lock;
129/130/143 interrupted.
"""


COMMANDS = (
    "backup",
    "bench",
    "list",
    "merge",
    "prune",
    "ranges",
    "regions",
    "restore",
    "seal",
    "show",
    "tso",
    "verify",
)


class BkctlGroup(TyperGroup):
    """The program: whatever a command raises becomes one line on stderr and an exit code.

    A command is loaded when it is asked for: all of them take longer than many a run of one.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command."""
        if not args:
            return super().parse_args(ctx, args)  # which prints the help
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as e:
            _make_printable(e)
            raise

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None if there is none, all being there to be suggested."""
        for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        _open_missing_streams()
        log.use(log.LogFormat.TEXT)
        with private_files(), error_boundary():
            return super().invoke(ctx)


class BkctlCommand(TyperCommand):
    """A command; a complaint about an option's value says where the value came from."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command's own part of the command line."""
        if _asks_for_json(args):  # also of what is wrong with the options themselves
            log.use(log.LogFormat.JSON)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as e:
            name = e.param.name if e.param is not None else None
            if name and e.message and (origin := value_origin(ctx, name)):
                e.message = f"{e.message} ({origin})"
            raise


def _asks_for_json(args: list[str]) -> bool:
    """Whether options, bad ones perhaps, ask for JSON lines; a file's are not known yet."""
    wanted = os.environ.get("BKCTL_LOG_FORMAT", "")
    for position, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name == "--log-format":
            wanted = value or "".join(args[position + 1 : position + 2])
    return wanted == log.LogFormat.JSON.value


@contextlib.contextmanager
def error_boundary() -> Iterator[None]:
    """Turn errors meant for users into a line on stderr and `typer.Exit`; others pass."""
    try:
        with _signals_unwind():
            try:
                yield
            finally:
                sys.stdout.flush()
            interrupts.settle()
    except BkctlError as e:
        _say(e, str(e) if e.kind == "other" else f"{e.kind}: {e}", e.kind)
        raise typer.Exit(exit_code_of(e)) from None
    except BrokenPipeError:
        _flush_or_discard_stdout()
        raise typer.Exit(1) from None
    except OSError as e:
        is_output = not e.filename and e.errno not in LACKING - {errno.ENOSPC}
        _say(e, f"cannot write the output: {e.strerror or e}" if is_output else what_failed(e))
        _flush_or_discard_stdout()
        raise typer.Exit(1) from None
    except MemoryError as e:
        _say(e, what_failed(e))
        raise typer.Exit(1) from None
    except KeyboardInterrupt as e:
        _say(e, "interrupted")
        raise typer.Exit(exit_code_of(e)) from None
    except typer.TyperException as e:
        # Bad options; the library says so to people, with a hint at --help.
        _make_printable(e)
        if not (log.is_json() and hasattr(e, "format_message") and hasattr(e, "exit_code")):
            raise
        log.error("error", e.format_message(), kind="other", exit_code=e.exit_code)
        raise typer.Exit(e.exit_code) from None


def _make_printable(error: Any) -> None:
    """Escape what the library would print as it was given."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)


def _open_missing_streams() -> None:
    """Let a closed stdout or stderr (`>&-`), which Python has None for, be /dev/null."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _say(error: BaseException, message: str, kind: str = "other") -> None:
    log.error("error", message, kind=kind, exit_code=exit_code_of(error))


def _flush_or_discard_stdout() -> None:
    """Let what cannot be written go nowhere, or the interpreter would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    interrupts.unsettle()
    with interrupts.unwinding(UNWINDING):
        yield


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bkctl {__version__}")
        raise typer.Exit


def _command(name: str) -> Any:
    """A command as Typer makes it of the function that its module names like itself."""
    module = importlib.import_module(f"bkctl.commands.{name}")
    function = getattr(module, name if name != "list" else "list_")
    alone = _typer()
    settings = getattr(module, "CONTEXT", None)
    alone.command(name, cls=BkctlCommand, help=module.HELP, context_settings=settings)(function)
    return typer.main.get_command(alone)


def _typer(**settings: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        # Plain help: it starts faster, and brackets and backslashes in it mean themselves.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **settings,
    )


app = _typer(
    name="bkctl",
    cls=BkctlGroup,
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def program(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", envvar="BKCTL_CONFIG", help="A file of options, in TOML."
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before the command; `--config` is read by the command's own."""
