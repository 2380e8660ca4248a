"""A process that keeps writing to, flushing and compacting a store until its standard input closes.

Rows r00000 to r04999 are committed at timestamp 10; every later commit is above 1000, and older
versions are deleted as garbage collection would.
"""

from __future__ import annotations

import select
import sys
from itertools import count

from rocksdict import AccessType, Options, Rdict

from bkctl.codec.varint import encode_uvarint
from bkctl.mvcc.keys import versioned_key

ROWS = 5000


def main() -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(256 << 10)
    families = {}
    for name in ("lock", "write", "raft"):
        families[name] = Options(raw_mode=True)
        families[name].set_write_buffer_size(256 << 10)
    db = Rdict(sys.argv[1], options, column_families=families, access_type=AccessType.read_write())
    write = db.get_column_family("write")
    for row in range(ROWS):
        put(write, row, 10, b"base%05d" % row)
    print("ready", flush=True)
    for turn in count():
        ts = 1000 + turn
        for row in range(turn % 7, ROWS, 7):
            put(write, row, ts, b"newer" * 20)
            if turn >= 7:
                del write[versioned_key(b"r%05d" % row, ts - 7)]
        write.flush()
        if turn % 3 == 0:
            write.compact_range(None, None)
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    db.close()


def put(write: Rdict, row: int, ts: int, value: bytes) -> None:
    record = b"P" + encode_uvarint(ts - 1) + b"v" + bytes([len(value)]) + value
    write[versioned_key(b"r%05d" % row, ts)] = record


if __name__ == "__main__":
    main()
