"""The options that say which keyspace of API V2 is meant, by its id or its name."""

from __future__ import annotations

from typing import Annotated

from bkctl.commands.options import KeyFormat, option, parse_key_window
from bkctl.errors import UsageError
from bkctl.regions.keyspace import MAX_KEYSPACE_ID, keyspace_window

_MAX_DIGITS = 20

Keyspace = Annotated[
    str | None,
    option(
        "--keyspace",
        metavar="ID|NAME",
        help="API V2: this keyspace; --start-key and --end-key are then keys in it. Names need "
        "--pd.",
    ),
]
PdOfNames = Annotated[
    str | None,
    option(
        "--pd", metavar="URL", help="Ask this PD for the keyspace's id, and for --region-map pd."
    ),
]


def is_name(keyspace: str | None) -> bool:
    """Whether a keyspace is given by its name, which is looked up at PD."""
    return keyspace is not None and not _is_number(keyspace)


def parse_window(
    start_key: str | None,
    end_key: str | None,
    key_format: KeyFormat,
    keyspace: str | None,
    pd: str | None,
    *,
    is_raw: bool,
) -> tuple[bytes, bytes]:
    """The raw user keys from `start_key` to `end_key`, of the keyspace if one is given."""
    start, end = parse_key_window(start_key, end_key, key_format)
    if keyspace is None:
        return start, end
    return keyspace_window(_id_of(keyspace, pd), start, end, is_raw=is_raw)


def _id_of(keyspace: str, pd: str | None) -> int:
    if not _is_number(keyspace):
        if pd is None:
            raise UsageError(
                f"--keyspace {keyspace!a} is a name, which only PD knows; give --pd URL, or the "
                "keyspace's id (pd-ctl keyspace show name NAME)"
            )
        from bkctl.regions.keyspace_names import fetch_keyspace_id

        return fetch_keyspace_id(pd, keyspace)
    if len(keyspace) > _MAX_DIGITS or not 0 <= int(keyspace) <= MAX_KEYSPACE_ID:
        raise UsageError(
            f"--keyspace {keyspace[:_MAX_DIGITS]}: ids are from 0 to {MAX_KEYSPACE_ID}"
        )
    return int(keyspace)


def _is_number(keyspace: str) -> bool:
    return keyspace.removeprefix("-").isascii() and keyspace.removeprefix("-").isdigit()
