"""What the clients of the model write: versions of a few keys, as transactions leave them."""

from __future__ import annotations

import random

from bkctl.codec.memcomparable import encode
from bkctl.codec.varint import encode_uvarint
from tests.cluster.commands import Write

KEYS = [encode(b"k%02d" % number) for number in range(24)]
_MAX_TS = (1 << 64) - 1


def a_write(rng: random.Random, key: bytes, ts: int) -> Write:
    """A new version of a key; at times one of `default` that is deleted again, as by GC."""
    if rng.random() < 0.8:
        value = b"v%d" % ts
        record = b"P" + encode_uvarint(ts - 1) + b"v" + bytes([len(value)]) + value
        return Write("write", key + _inverse(ts), record)
    return Write("default", key + _inverse(rng.randint(1, 3)), rng.choice((None, b"d%d" % ts)))


def _inverse(ts: int) -> bytes:
    return (_MAX_TS - ts).to_bytes(8, "big")
