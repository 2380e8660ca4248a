"""How keys are written on the command line."""

from __future__ import annotations

import os
import re
from enum import Enum

from bkctl.errors import UsageError


class KeyFormat(str, Enum):
    """How --start-key and --end-key are written."""

    HEX = "hex"
    ESCAPED = "escaped"
    RAW = "raw"


def parse_key(text: str, key_format: KeyFormat | str) -> bytes:
    """The key that `text` means; UsageError if it is not of the format.

    hex: two digits a byte, of either case. escaped: text in which a backslash begins an escape, as
    tikv-ctl prints keys: \\xNN, \\NNN (octal), \\n \\r \\t \\a \\b \\f \\v \\" \\' or \\\\.
    raw: the text's bytes.
    """
    key_format = KeyFormat(key_format)
    if key_format is KeyFormat.RAW:
        return os.fsencode(text)
    if key_format is KeyFormat.ESCAPED:
        return _ESCAPE.sub(_unescape, os.fsencode(text))
    if not _HEX.fullmatch(text):
        raise UsageError(
            f"{text!a} is no hexadecimal key (two digits a byte); "
            "for keys written as text see --key-format"
        )
    return bytes.fromhex(text)


_HEX = re.compile("(?:[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[0-7]{3}|.|$)", re.DOTALL)
_ESCAPED = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"'": b"'",
    b'"': b'"',
    b"\\": b"\\",
}


def _unescape(match: re.Match[bytes]) -> bytes:
    escape: bytes = match[1]
    if (plain := _ESCAPED.get(escape)) is not None:
        return plain
    if len(escape) == 3:
        number = int(escape[1:], 16) if escape[:1] == b"x" else int(escape, 8)
        if number <= 0xFF:
            return bytes([number])
    shown = os.fsdecode(match[0])
    raise UsageError(
        f"{ascii(shown)[1:-1]} is no escape; write \\xNN, \\NNN in octal up to \\377, \\n or \\\\"
    )
