"""Text as it may go to a terminal: whatever names, keys and messages hold, a line is a line.

What is not printable would move the cursor, colour or rewrite what others said, or turn it round:
C0 and C1 controls, DEL, bidirectional controls and other invisible ones, separators of lines,
spaces that are no space, and lone surrogates. It is written as Python would, a byte of a file's
name that is no UTF-8 as that byte:

    \\n   \\x1b   \\u202e   \\U000e0001   \\xff
"""

from __future__ import annotations

import re

# What Python has in a text for a byte of a file's name that is no UTF-8.
_BYTES = range(0xDC80, 0xDD00)
_UNDECODED = 0xDC00
_NOT_ASCII = re.compile(r"[^ -~]")


def printable(text: str) -> str:
    """The text with all that is not printable escaped; twice is as once."""
    return text if text.isprintable() else _NOT_ASCII.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    code = ord(character)
    if code in _BYTES:
        return f"\\x{code - _UNDECODED:02x}"
    return character.encode("unicode_escape").decode()
