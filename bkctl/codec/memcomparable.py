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
_ZEROS = bytes(_GROUP)


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
    groups, cut = divmod(len(encoded_key), _ENCODED_GROUP)
    padding = _MARKER - markers[-1] if markers else 0
    if not cut and 0 < padding <= _GROUP and markers.count(_MARKER) == groups - 1:
        raw = bytearray(encoded_key)
        del raw[_GROUP::_ENCODED_GROUP]
        if raw.endswith(_ZEROS[:padding]):
            del raw[-padding:]
            return bytes(raw)
    raise _what_is_wrong(encoded_key)


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
