"""Reads JSON that anyone may have written: never more of it, nor deeper, than what is read may be.

A few bytes of JSON make an object of a hundred in memory, so a limit of bytes alone is none. All
that is wrong is a ValueError; a TooMuchError says which bound is passed.
"""

from __future__ import annotations

import itertools
import json
import re
from array import array
from collections.abc import Iterator

from bkctl.codec.stream import ByteStream

MAX_ENTRIES = 1 << 21
"""Of all lists of a document that are kept: more than a cluster has regions."""

_MAX_SCALAR_BYTES = 1 << 20
_MAX_VALUES = 100_000
_MAX_DEPTH = 64
_MAX_MEMBERS = 1000
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
# An object with nothing but plain values in it, as entries of lists mostly are.
_FLAT = re.compile(rb'\{[^{}\[\]"]*(?:' + _STRING + rb'[^{}\[\]"]*)*\}', re.DOTALL)
# A lone quote begins a string that has not ended yet.
_TOKEN = re.compile(_STRING + rb'|[{}\[\],:"]', re.DOTALL)
_SPACE = b" \t\r\n"


class TooMuchError(ValueError):
    """More of something than a document may have."""


def loads(data: bytes, most: int = _MAX_VALUES) -> object:
    """Read a document of at most `most` values, and as many keys."""
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > most:
        raise TooMuchError(f"it holds {values} values, more than the {most} it may")
    try:
        value: object = json.loads(data)
    except RecursionError:
        raise TooMuchError("it is nested far too deeply") from None
    return value


class RawList:
    """The values of a list as they are written, in one piece; none where it was passed over."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, written: bytes) -> None:
        """Keep one more."""
        self._written += written
        self._ends.append(len(self._written))

    def clear(self) -> None:
        """Keep none."""
        self._written.clear()
        del self._ends[:]

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._written)

    def values(self) -> Iterator[object]:
        """Read one after the other."""
        start = 0
        for end in self._ends:
            yield loads(bytes(self._written[start:end]))
            start = end


def read_members(stream: ByteStream, list_bytes: int) -> Iterator[tuple[str, object]]:
    """Yield the members of the object that is all of `stream`, lists among them as RawList.

    A list of more than `list_bytes` is passed over: it is given as an empty one. Raises ValueError
    for what is no such object, or has more entries than MAX_ENTRIES in lists that are kept.
    """
    text, entries = _Text(stream), 0
    text.expect(b"{")
    if text.next_byte() == b"}":
        text.expect(b"}")
    else:
        for count in itertools.count(1):
            if count > _MAX_MEMBERS:
                raise TooMuchError(f"it has more than {_MAX_MEMBERS} members")
            key = loads(text.value())
            if not isinstance(key, str):
                raise ValueError("a name is no text")
            text.expect(b":")
            if text.next_byte() == b"[":
                kept = _read_list(text, list_bytes, MAX_ENTRIES - entries)
                entries += len(kept)
                yield key, kept
            else:
                yield key, loads(text.value())
            if text.expect(b",}") == b"}":
                break
    if text.next_byte():
        raise ValueError("something follows it")


def _read_list(text: _Text, list_bytes: int, entries: int) -> RawList:
    kept, is_kept = RawList(), True
    text.expect(b"[")
    if text.next_byte() == b"]":
        text.expect(b"]")
        return kept
    while True:
        written = text.value()
        if is_kept and kept.size + len(written) > list_bytes:
            is_kept = False
            kept.clear()
        if is_kept:
            kept.append(written)
            if len(kept) > entries:
                raise TooMuchError(f"its lists have more than {MAX_ENTRIES} entries")
        if text.expect(b",]") == b"]":
            return kept


class _Text:
    """What is left of a text, as much of it as is needed at a time."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._data, self._at = b"", 0

    def next_byte(self) -> bytes:
        """The next byte that is no space, which stays; empty at the end."""
        while True:
            while self._at < len(self._data) and self._data[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._data) or not self._more():
                return self._data[self._at : self._at + 1]

    def expect(self, wanted: bytes) -> bytes:
        """The next byte that is no space, if it is one of those."""
        found = self.next_byte()
        if not found or found not in wanted:
            raise ValueError(f"no {wanted.decode()!r} where one has to be")
        self._at += 1
        return found

    def value(self) -> bytes:
        """The next value, or what stands where one has to be, as it is written."""
        if not self.next_byte():
            raise ValueError("it is cut short")
        flat = _FLAT.match(self._data, self._at)
        end = flat.end() if flat is not None else self._end_of_value()
        start, self._at = self._at, end
        if end - start > _MAX_SCALAR_BYTES:
            raise TooMuchError(f"a value of {end - start} bytes")
        return self._data[start:end].rstrip(_SPACE)

    def _end_of_value(self) -> int:
        depth, at = 0, self._at
        while True:
            token = _TOKEN.search(self._data, at)
            if token is None or token.group() == b'"':
                if len(self._data) - self._at > _MAX_SCALAR_BYTES:
                    raise TooMuchError("a value that is too long")
                begun, searched = self._at, at
                if not self._more():
                    return len(self._data)
                at = searched - begun + self._at
                continue
            at, found = token.end(), token.group()
            if found in (b"{", b"["):
                depth += 1
                if depth > _MAX_DEPTH:
                    raise TooMuchError("it is nested far too deeply")
            elif found in (b"}", b"]"):
                depth -= 1
                if depth <= 0:
                    return token.end() if depth == 0 else token.start()
            elif depth == 0:
                # A comma or a colon ends a value; a string is one.
                return token.end() if found[:1] == b'"' else token.start()

    def _more(self) -> bool:
        piece = bytes(self._stream.peek())
        if not piece:
            return False
        self._stream.skip(len(piece))
        self._data, self._at = self._data[self._at :] + piece, 0
        return True
