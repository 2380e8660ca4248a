"""Memcomparable keys: encoded so that comparing bytes compares keys, whatever follows.

    groups of 8 bytes, the last one padded with zeros | after each: 0xFF - (number of padding bytes)

A key whose length is a multiple of 8 gets one more group, all padding. Source: TiKV's codec
(MyRocks' record format).
"""

from __future__ import annotations

from bkctl.errors import CorruptionError

_GROUP = 8
_ENCODED_GROUP = 9
_MARKER = 0xFF
_ZEROS = [bytes(length) for length in range(_GROUP + 1)]


def encode(raw_key: bytes) -> bytes:
    """The memcomparable form of a raw key: 9 bytes for each 8 begun."""
    out = bytearray()
    for start in range(0, len(raw_key) + 1, _GROUP):
        group = raw_key[start : start + _GROUP]
        padding = _GROUP - len(group)
        out += group
        out += bytes(padding)
        out.append(_MARKER - padding)
    return bytes(out)


def decode(encoded_key: bytes) -> bytes:
    """The raw key of exactly one whole encoding.

    Raises CorruptionError for a cut group, a marker below 0xF7, padding that is not zero, and
    for bytes behind the last group.
    """
    # Whole encodings without a loop: maps have millions of them.
    markers = encoded_key[_GROUP::_ENCODED_GROUP]
    padding = _PADDINGS.get(markers) or _padding(markers)
    if padding and len(encoded_key) == len(markers) * _ENCODED_GROUP:
        raw = bytearray(encoded_key)
        del raw[_GROUP::_ENCODED_GROUP]
        if raw.endswith(_ZEROS[padding]):
            del raw[-padding:]
            return bytes(raw)
    raise _what_is_wrong(encoded_key)


def _padding(markers: bytes) -> int:
    """The bytes of padding that the markers of a whole encoding tell; 0 if they are of none."""
    padding = _MARKER - markers[-1] if markers else 0
    is_whole = markers.count(_MARKER) == len(markers) - 1 and padding <= _GROUP
    return padding if is_whole else 0


_PADDINGS = {
    bytes([_MARKER] * groups + [_MARKER - padding]): padding
    for groups in range(16)
    for padding in range(1, _GROUP + 1)
}
"""What `_padding` says of keys that are not very long."""


def _what_is_wrong(encoded_key: bytes) -> CorruptionError:
    """What the first thing is that keeps a key from being one whole encoding."""
    end = len(encoded_key)
    for start in range(0, end, _ENCODED_GROUP):
        group = encoded_key[start : start + _ENCODED_GROUP]
        if len(group) < _ENCODED_GROUP:
            return _bad(encoded_key, "a cut group")
        padding = _MARKER - group[_GROUP]
        if padding == 0:
            continue
        if padding > _GROUP:
            return _bad(encoded_key, "a bad marker")
        if any(group[_GROUP - padding : _GROUP]):
            return _bad(encoded_key, "padding that is not zero")
        return _bad(encoded_key, "bytes behind its end")
    return _bad(encoded_key, "no last group")


def _bad(encoded_key: bytes, what: str) -> CorruptionError:
    return CorruptionError(f"{encoded_key.hex().upper()} is no memcomparable key: {what}")
