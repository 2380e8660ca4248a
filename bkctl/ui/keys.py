"""Keys for people: TiDB's row and index keys by name, others as escaped text.

    row     t | table id (8) | _r | handle (8)           t100_r500
    index   t | table id (8) | _i | index id (8) | …     t100_i2_0380…

Numbers are big-endian with the sign bit inverted, so that they sort as bytes. Source: TiDB's
tablecodec.
"""

from __future__ import annotations

_NUMBER_SIZE = 8
_SIGN_BIT = 1 << 63
_TABLE_SIZE = 1 + _NUMBER_SIZE
# Ids are handed out one by one; a larger one is text that happens to begin with a t.
_MAX_TABLE_ID = 1 << 48
_MARKS = {b"_r": "r", b"_i": "i"}
_ESCAPES = {0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
_ESCAPED = [
    _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
    for byte in range(256)
]
_ELLIPSIS = "…"


def describe_key(raw_key: bytes, when_empty: str = "") -> str:
    """A raw user key in its most readable form; `when_empty` stands for a missing bound."""
    if not raw_key:
        return when_empty
    return _tidb_key(raw_key) or escape_key(raw_key)


def escape_key(raw_key: bytes) -> str:
    """A key as printable ASCII: other bytes as \\n, \\r, \\t or \\xNN, a backslash as two.

    `--key-format escaped` reads it back.
    """
    return "".join([_ESCAPED[byte] for byte in raw_key])


def shorten_middle(text: str, width: int) -> str:
    """The text in at most `width` columns, its two ends being kept; 0 or less is no limit.

    Neighbouring keys differ near their ends and share their beginnings; both tell them apart.
    """
    if width <= 0 or len(text) <= width:
        return text
    kept = width - len(_ELLIPSIS)
    head = kept // 2
    return text[:head] + _ELLIPSIS + text[len(text) - (kept - head) :]


def _tidb_key(raw_key: bytes) -> str | None:
    """`t100`, `t100_r500`, `t100_i2_…`; None for a key that is none of TiDB's."""
    if len(raw_key) < _TABLE_SIZE or not raw_key.startswith(b"t"):
        return None
    table_id = _number(raw_key[1:_TABLE_SIZE])
    if not 0 < table_id < _MAX_TABLE_ID:
        return None
    rest = raw_key[_TABLE_SIZE:]
    if not rest:
        return f"t{table_id}"
    mark = _MARKS.get(rest[:2])
    if mark is None:
        return None
    name = f"t{table_id}_{mark}"
    rest = rest[2:]
    if len(rest) < _NUMBER_SIZE or (mark == "r" and len(rest) > _NUMBER_SIZE + 1):
        # A table's first key, or a row whose handle is not a number but encoded columns.
        return f"{name}_{rest.hex().upper()}" if rest else name
    name += str(_number(rest[:_NUMBER_SIZE]))
    tail = rest[_NUMBER_SIZE:]
    return f"{name}_{tail.hex().upper()}" if tail else name


def _number(field: bytes) -> int:
    return int.from_bytes(field, "big") - _SIGN_BIT
