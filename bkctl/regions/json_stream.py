"""Reads one JSON document value by value, however long it is: a value and a piece are in memory.

Elements of a list that are alike can be had many at a time, as text for a faster reader. Where to
cut is guessed, and the reader is the proof: what it reads as a list are whole elements, as all
before them are.

Python's own decoder reads the values, so what is JSON and what is not is as elsewhere. It is told
apart from a value that only goes on in the next piece by where it stops: at the end of what is
there, or in a text that has no end yet.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from bkctl.errors import RegionMapError

# A value longer than this is none of a region map; what is no JSON is told apart within it.
MAX_VALUE = 16 << 20
_PIECE = 1 << 18
# A decoder needs as many bytes to tell UTF-8, UTF-16 and UTF-32 apart.
_ENCODING_BYTES = 4
# No word or number that is cut off is refused farther from the end than this.
_LONGEST_WORD = 16
# So much text at a time goes to a faster reader, which ends where the last of so many guesses is.
_PORTION = 1 << 16
_GUESSES = 64
_LONGEST_GAP = 256
_GAP = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\Z")
_OPEN_TEXT = "Unterminated string"
_SPACES = " \t\n\r"
_SPACE = re.compile(f"[{_SPACES}]*")


class Elements:
    """Some elements of a list, as the text of a list of their own."""

    __slots__ = ("is_refused", "text")

    def __init__(self, text: str) -> None:
        self.text, self.is_refused = text, False

    def refuse(self) -> None:
        """Have them one by one instead."""
        self.is_refused = True


class JsonStream:
    """The values of a document, in its order; RegionMapError, naming `source`, for what is none.

    `advice` ends each error.
    """

    def __init__(self, pieces: Iterable[bytes], source: str, advice: str) -> None:
        """`pieces` are the document's bytes, UTF-8, UTF-16 or UTF-32, with or without a BOM."""
        self._texts = _decoded(pieces)
        self._source, self._advice = source, advice
        self._buffer, self._at, self._ended = "", 0, False
        self._lines_before, self._columns_before = 0, 0
        self._careful_to = 0
        self._scan = json.JSONDecoder(parse_constant=self._no_number).raw_decode

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        if (found := self._buffer[self._at : self._at + 1]) and found not in _SPACES:
            return found
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def value(self) -> object:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._buffer, self._at)
            except json.JSONDecodeError as e:
                is_cut = e.msg.startswith(_OPEN_TEXT) or e.pos + _LONGEST_WORD > len(self._buffer)
                if not is_cut or not self._more():
                    raise self._no_json(e.msg, e.pos) from None
            except RecursionError:
                raise self._error("nested far deeper than a region map") from None
            except ValueError:
                raise self._error("a number in it is far too long") from None
            else:
                # A number may go on in the next piece.
                if end < len(self._buffer) or not self._more():
                    self._at = end
                    return value

    def members(self) -> Iterator[str]:
        """The names in an object, which is next; the value of each is for the caller to read."""
        self._take("{", "Expecting value")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._no_json("Expecting property name enclosed in double quotes", self._at)
            name = str(self.value())
            self._take(":", "Expecting ':' delimiter")
            yield name
            if not self._goes_on("}"):
                return

    def elements(self, sign: str) -> Iterator[object]:
        """The values of a list, which is next: each by itself, or some of them as `Elements`.

        `sign` is the name of a member that objects in the list have, and nothing within them.
        """
        self._take("[", "Expecting value")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            some = None
            if self._at >= self._careful_to:
                behind = self._boundary(sign)
                # What is not read fast is read one by one up to there.
                self._careful_to = behind or min(len(self._buffer), self._at + _PORTION)
                if behind:
                    some = Elements(f"[{self._buffer[self._at : behind]}]")
                    yield some
            if some is not None and not some.is_refused:
                self._at = self._careful_to
            else:
                yield self.value()
            if not self._goes_on("]"):
                return

    def _boundary(self, sign: str) -> int:
        """Where, not far on, one element of a list seems to end and another begins; 0: nowhere."""
        position = min(len(self._buffer), self._at + _PORTION)
        for _ in range(_GUESSES):
            position = self._buffer.rfind("{", self._at + 1, position)
            if position < 0:
                return 0
            between = self._buffer[max(self._at, position - _LONGEST_GAP) : position]
            match = _GAP.search(between)
            if match is None:
                continue
            try:
                value, _ = self._scan(self._buffer, position)
            except (ValueError, RecursionError, RegionMapError):
                continue
            if isinstance(value, dict) and sign in value:
                return position - len(between) + match.start() + 1
        return 0

    def end(self) -> None:
        """Nothing but space is left, or it is an error."""
        if self.peek():
            raise self._no_json("Extra data", self._at)

    def _goes_on(self, closing: str) -> bool:
        """Whether another member or element follows; takes the comma, or what closes."""
        found = self.peek()
        if found not in {closing, ","}:
            raise self._no_json("Expecting ',' delimiter", self._at)
        self._at += 1
        return found == ","

    def _take(self, wanted: str, message: str) -> None:
        if self.peek() != wanted:
            raise self._no_json(message, self._at)
        self._at += 1

    def _more(self) -> bool:
        """Read on; False at the end. What is read through already goes."""
        if self._ended:
            return False
        gone, self._buffer = self._buffer[: self._at], self._buffer[self._at :]
        self._at = 0
        self._careful_to -= len(gone)
        self._count(gone)
        if len(self._buffer) > MAX_VALUE:
            raise self._error(f"a value in it is longer than {MAX_VALUE >> 20} MiB")
        texts, wanted = [self._buffer], max(_PIECE, len(self._buffer))
        while wanted > 0:
            try:
                text = next(self._texts, "")
            except UnicodeDecodeError:
                raise self._error("no JSON: it is not text in UTF-8") from None
            if not text:
                self._ended = True
                break
            texts.append(text)
            wanted -= len(text)
        self._buffer = "".join(texts)
        return len(texts) > 1

    def _count(self, text: str) -> None:
        lines = text.count("\n")
        self._lines_before += lines
        after = len(text) - text.rfind("\n") - 1
        self._columns_before = after if lines else self._columns_before + len(text)

    def _no_json(self, message: str, position: int) -> RegionMapError:
        self._count(self._buffer[:position])
        line, column = self._lines_before + 1, self._columns_before + 1
        return self._error(f"no JSON at line {line} column {column} ({message})")

    def _no_number(self, name: str) -> object:
        raise self._error(f"{name} is no number that JSON knows")

    def _error(self, what: str) -> RegionMapError:
        return RegionMapError(f"{self._source}: {what}; {self._advice}")


def _decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of bytes in whichever encoding they begin, piece by piece, none of them empty."""
    head, rest = b"", iter(pieces)
    while len(head) < _ENCODING_BYTES and (piece := next(rest, b"")):
        head += piece
    # As `json.loads` has it: half of a surrogate pair is refused where it matters.
    decoder = codecs.getincrementaldecoder(json.detect_encoding(head))("surrogatepass")
    for piece in chain([head], rest):
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
