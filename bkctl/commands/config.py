"""The configuration file: TOML that gives options their values where neither the command line nor
a `BKCTL_…` variable does.

    storage = "local:///backups"    an option of all commands that have it, with - or _
    [backup]                        options of one command; they win over those above
    jobs = 4

The first of: --config, ./bkctl.toml, ~/.config/bkctl/config.toml. Typos are errors: an option that
is silently not set would be worse than none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from bkctl.errors import UsageError
from bkctl.files.small import read_small
from bkctl.shortage import reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

LOCAL_FILE = Path("bkctl.toml")
USER_FILE = Path("bkctl") / "config.toml"
_MAX_BYTES = 64 << 10
_MAX_DOTS = 64
_MAX_NUMBER = 1 << 64
# What stands between quotes, or behind one that is not closed, and comments.
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#.*')
_NOT_IN_FILES = {"config", "help"}


def load_config(ctx: typer.Context, config: Path | None) -> Path | None:
    """Give a command's options the values in the configuration file, and return its path.

    The callback of `--config` behind a command; one before the command counts as well, after it.
    Raises UsageError naming the file and the key for a file that cannot be read or understood.
    """
    if ctx.resilient_parsing:
        return config
    path = config or _of_program(ctx) or _default_file()
    if path is not None:
        ctx.default_map = _defaults(ctx, path, _read(path))
        ctx.meta["bkctl.config"] = path
    return path


def value_origin(ctx: Any, name: str) -> str:
    """Where a parameter's value came from, if not from the command line: words for a message."""
    source = ctx.get_parameter_source(name)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"from {ctx.meta['bkctl.config']}"
    if source is not None and source.name == "ENVIRONMENT":
        parameter = next(known for known in ctx.command.params if known.name == name)
        return f"from {parameter.envvar}"
    return ""


def _of_program(ctx: typer.Context) -> Path | None:
    given = ctx.parent.params.get("config") if ctx.parent else None
    return given if isinstance(given, Path) else None


def _default_file() -> Path | None:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return next((path for path in (LOCAL_FILE, Path(home) / USER_FILE) if path.exists()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_small(path, _MAX_BYTES).decode()
        _check_depth(path, text)
        document: dict[str, Any] = tomllib.loads(text)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {reason_of(e)}; check --config") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8, as TOML must be") from None
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{path}: no TOML: {e}") from None
    except RecursionError:
        raise UsageError(
            f"{path}: is nested far too deeply; options are texts and numbers"
        ) from None
    except ValueError:
        # The one that the library lets pass: an integer of thousands of digits.
        raise UsageError(f"{path}: holds a number that is too large for any option") from None
    return document


def _check_depth(path: Path, text: str) -> None:
    """Refuse a.b.c without end: memory grows with the square of the depth."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _MAX_DOTS and _QUOTED.sub("", line).count(".") > _MAX_DOTS:
            raise UsageError(f"{path}: line {number} has a name of more than {_MAX_DOTS} parts")


def _defaults(ctx: typer.Context, path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The values of one command's options; the whole file is checked, not only its part."""
    group: Any = ctx.parent.command if ctx.parent else None
    names = group.list_commands(ctx.parent) if group is not None else ()
    commands = {name: _options(group.get_command(ctx.parent, name)) for name in names}
    here = commands.get(ctx.info_name or "", _options(ctx.command))
    everywhere = {name: known for each in commands.values() for name, known in each.items()}
    for_all: dict[str, Any] = {}
    for_one: dict[str, Any] = {}
    for key, value in _flat(document, everywhere).items():
        if isinstance(value, dict):
            if key not in commands:
                raise UsageError(f"{path}: [{key}] is no command{_hint(key, commands)}")
            for inner, setting in _flat(value, commands[key]).items():
                known = _find(path, f"{key}.{inner}", inner, commands[key])
                checked = _checked(path, f"{key}.{inner}", known, setting)
                if key == ctx.info_name:
                    for_one[known.name] = checked
            continue
        known = _find(path, key, key, everywhere)
        # Of options of one name, some take several values.
        known = here.get(key.replace("_", "-"), known)
        checked = _checked(path, key, known, value)
        if known.name in {option.name for option in here.values()}:
            for_all[known.name] = checked
    return for_all | for_one


def _flat(table: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A table with dotted options in place: to TOML, `crypter.key = …` is a table of its own."""
    groups = {name.split(".")[0] for name in known if "." in name}
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and key in groups:
            flat |= {f"{key}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[key] = value
    return flat


def _options(command: Any) -> dict[str, Any]:
    """A command's options by their long names, without the dashes."""
    return {name: param for param in command.params for name in _long_names(param)}


def _long_names(parameter: Any) -> Iterator[str]:
    for name in parameter.opts:
        if name.startswith("--") and name[2:] not in _NOT_IN_FILES:
            yield name[2:]


def _find(path: Path, shown: str, key: str, known: dict[str, Any]) -> Any:
    name = key.replace("_", "-")
    if name not in known:
        raise UsageError(f"{path}: {shown} is no option{_hint(name, known)}")
    return known[name]


def _hint(name: str, known: dict[str, Any]) -> str:
    matches = get_close_matches(name, known, 1)
    return f"; did you mean {matches[0]}?" if matches else "; see bkctl --help"


def _checked(path: Path, shown: str, option: Any, value: object) -> object:
    """A TOML value as the command line would have it: text, but a flag's true or false."""
    if option.is_flag:
        if isinstance(value, bool):
            return value
        raise UsageError(f"{path}: {shown} is on or off; give true or false")
    if option.multiple and isinstance(value, list):
        return [_checked_text(path, shown, each) for each in value]
    text = _checked_text(path, shown, value)
    return [text] if option.multiple else text


def _checked_text(path: Path, shown: str, value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise UsageError(f"{path}: {shown} is a number that is too large for any option")
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise UsageError(f"{path}: {shown} takes a text or a number")
