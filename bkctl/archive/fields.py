"""Reads the fields of a report, or of another JSON object that anyone may have written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NoReturn

from bkctl.codec.json_text import RawList, TooMuchError, read_members
from bkctl.codec.stream import ByteStream
from bkctl.errors import CorruptionError

_SHA256_BYTES = 32


class Fields:
    """An object's fields, each read as what it must be; CorruptionError names one that is not.

    `source` says in errors where it comes from.
    """

    def __init__(self, value: object, source: str) -> None:
        if not isinstance(value, dict):
            raise CorruptionError(f"{source}: no report (a JSON object is expected)")
        self._fields: dict[str, object] = value
        self._source = source

    @classmethod
    def read(cls, stream: ByteStream, source: str, list_bytes: int) -> Fields:
        """Read a report that comes in pieces; lists of more than `list_bytes` are passed over."""
        try:
            return cls(dict(read_members(stream, list_bytes)), source)
        except TooMuchError as e:
            raise _unreadable(source, f" ({e})") from None
        except (ValueError, CorruptionError):
            raise _unreadable(source) from None

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def text(self, name: str, default: str | None = None) -> str:
        """A text; `default` where there is none."""
        value = self._fields.get(name, default)
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        values = tuple(self._values(name))
        if all(isinstance(value, str) for value in values):
            return tuple(map(str, values))
        return self._refuse(name, "a list of texts")

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        value = self._fields.get(name, False)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def counts(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        values = tuple(self._values(name))
        if all(type(value) is int for value in values):
            return tuple(value for value in values if isinstance(value, int))
        return self._refuse(name, "a list of counts")

    def _values(self, name: str) -> Iterator[object]:
        """The values of a list, each read when its turn comes."""
        values = self._fields.get(name, [])
        if not isinstance(values, RawList | list):
            self._refuse(name, "a list")
        try:
            yield from values.values() if isinstance(values, RawList) else values
        except ValueError:
            raise _unreadable(self._source) from None

    def word(self, name: str, words: frozenset[str]) -> str:
        """One of some words."""
        value = self.text(name)
        return value if value in words else self._refuse(name, "/".join(sorted(words)))

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number that fits 64 bits."""
        value = self._fields.get(name, default)
        # A bool is an int to Python, but not to JSON.
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
            return value
        return self._refuse(name, "a count")

    def optional_count(self, name: str) -> int | None:
        """The same, or None."""
        return None if self._fields.get(name) is None else self.count(name)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        return self._refuse(name, "a number")

    def key(self, name: str) -> bytes:
        """Bytes in hexadecimal."""
        try:
            return bytes.fromhex(self.text(name))
        except ValueError:
            return self._refuse(name, "a key in hexadecimal")

    def crc(self, name: str) -> int:
        """A checksum of 16 hexadecimal digits."""
        digits = self.key(name)
        return int.from_bytes(digits, "big") if len(digits) == 8 else self._refuse(name, "a CRC")

    def digest(self, name: str) -> bytes:
        """A SHA-256 in hexadecimal; empty where there is none."""
        text = self.text(name, "")
        digest = self.key(name) if text else b""
        return digest if len(digest) in (0, _SHA256_BYTES) else self._refuse(name, "a SHA-256")

    def time(self, name: str) -> float:
        """An RFC 3339 time, in unix seconds; 0 where there is none."""
        text = self.text(name, "")
        if not text:
            return 0.0
        try:
            time = datetime.fromisoformat(text.replace("Z", "+00:00"))
            seconds = time.timestamp()
            # Of times at the ends of the calendar, some cannot be shown in UTC.
            datetime.fromtimestamp(seconds, timezone.utc)
        except (ValueError, OverflowError, OSError):
            return self._refuse(name, "a time")
        return seconds if time.tzinfo is not None else self._refuse(name, "a time with its zone")

    def object(self, name: str) -> Fields:
        """An object."""
        return Fields(self._fields.get(name), f"{self._source}: field {name}")

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of a list, each read when its turn comes."""
        for entry in self._values(name):
            yield Fields(entry, f"{self._source}: field {name}")

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        raise CorruptionError(f"{self._source}: field {name} of the report is not {wanted}")


def _unreadable(source: str, why: str = "") -> CorruptionError:
    return CorruptionError(f"{source}: no readable JSON{why}; the report is damaged")
