"""Finds which long values and which records that refer to them do not fit together.

Records of `write` and values of `default` are both in key order, one version a key, so the two
files are merged as streams. Where a block of either cannot be read, the other's records there are
passed over: what they lack may be in it, and the block is told as damage already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.encryption import plain_reader
from bkctl.archive.meta import BackupFile
from bkctl.errors import CorruptionError
from bkctl.mvcc.backup_entries import long_value_keys
from bkctl.mvcc.keys import TS_SIZE, split_versioned
from bkctl.sst.reader import SstReader

if TYPE_CHECKING:
    from bkctl.codec.cipher import Cipher

MAX_TOLD = 1000

_Pick = Callable[[Sequence[bytes], Sequence[bytes]], Sequence[bytes]]


def unmatched_values(
    backup_dir: BackupDir,
    write_file: BackupFile | None,
    default_file: BackupFile | None,
    cipher: Cipher | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) of the two files of a range, either of which may not exist.

    At most `MAX_TOLD`, and then one that says so.
    """
    write_name = write_file.name if write_file else None
    default_name = default_file.name if default_file else None
    with contextlib.ExitStack() as opened:

        def stream(file: BackupFile | None, pick: _Pick) -> _KeyStream:
            if file is None:
                return _KeyStream(iter(()))
            stored = opened.enter_context(backup_dir.open_file(file.name))
            reader = plain_reader(stored, file, cipher)
            return _KeyStream(_key_chunks(partial(SstReader, reader, file.name), pick))

        differences = _differences(
            stream(write_file, long_value_keys), stream(default_file, lambda keys, values: keys)
        )
        for told, (default_key, is_wanted) in enumerate(differences):
            file_name = (write_name if is_wanted else default_name) or ""
            if told == MAX_TOLD:
                yield file_name, f"more than {MAX_TOLD} values do not fit their records"
                return
            shown = _shown(default_key)
            if is_wanted:
                place = default_name or "the backup"
                yield file_name, f"the value of {shown} is missing from {place}"
            else:
                place = write_name or "the backup"
                yield file_name, f"the value of {shown} is referred to by no record of {place}"


@dataclass(frozen=True, slots=True)
class _Gap:
    """Keys that could not be read: after `after`, up to `up_to` (None: to the file's end)."""

    after: bytes
    up_to: bytes | None

    def may_hold(self, default_key: bytes) -> bool:
        """Whether some version of the key could be in it."""
        user_key = default_key[:-TS_SIZE]
        begins = user_key + b"\xff" * TS_SIZE > self.after
        return begins and (self.up_to is None or user_key + bytes(TS_SIZE) <= self.up_to)


_Chunk = tuple[Sequence[bytes], _Gap | None]


class _KeyStream:
    """Keys one by one, and the gaps between the key that is next and the one before it."""

    def __init__(self, chunks: Iterator[_Chunk]) -> None:
        self._chunks = chunks
        self._keys: Iterator[bytes] = iter(())
        self._gaps: list[_Gap] = []
        self.head: bytes | None = None
        self.advance()

    def advance(self) -> None:
        """Go on to the next key; `head` is None at the end."""
        if self.head is not None:
            self._gaps = []
        self.head = next(self._keys, None)
        while self.head is None:
            chunk = next(self._chunks, None)
            if chunk is None:
                return
            keys, gap = chunk
            if gap is not None:
                self._gaps.append(gap)
            self._keys = iter(keys)
            self.head = next(self._keys, None)

    def may_have_lost(self, default_key: bytes) -> bool:
        """Whether a key before `head` that did not come may be in a gap."""
        return any(gap.may_hold(default_key) for gap in self._gaps)


def _key_chunks(open_sst: Callable[[], SstReader], pick: _Pick) -> Iterator[_Chunk]:
    """Yield a file's keys block by block, with the gap before them."""
    last = b""
    gap_start: bytes | None = None
    try:
        sst = open_sst()
        shape = sst.properties.index
        for partition in sst.index_partitions(shape):
            for entry in sst.partition_entries(partition, shape):
                try:
                    keys, values = sst.read_entries(entry.handle)
                except CorruptionError:
                    gap_start = last if gap_start is None else gap_start
                else:
                    gap = None if gap_start is None else _Gap(gap_start, last)
                    gap_start = None
                    yield pick(keys, values), gap
                last = entry.separator
    except CorruptionError:
        gap_start = last if gap_start is None else gap_start
    if gap_start is not None:
        yield (), _Gap(gap_start, None)


def _differences(wanted: _KeyStream, present: _KeyStream) -> Iterator[tuple[bytes, bool]]:
    """Yield each key that only one stream has, and whether that is `wanted`."""
    while (want := wanted.head) is not None or present.head is not None:
        have = present.head
        if want == have:
            wanted.advance()
            present.advance()
        elif want is not None and (have is None or want < have):
            if not present.may_have_lost(want):
                yield want, True
            wanted.advance()
        elif have is not None:
            if not wanted.may_have_lost(have):
                yield have, False
            present.advance()


def _shown(default_key: bytes) -> str:
    try:
        raw_key, start_ts = split_versioned(default_key)
    except CorruptionError:
        return f"stored key {default_key.hex().upper()}"
    return f"key {raw_key.hex().upper()} at start_ts {start_ts}"
