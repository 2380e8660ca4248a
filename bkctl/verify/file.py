"""Proves the files of a backup whole: by their hashes, or record by record.

    sha256   the file's bytes are those that backupmeta describes
    deep     also: it is a sound SST file, its records are what a backup may hold, they count as
             backupmeta says, and long values and the records that refer to them fit together

A file of `write` and the one of `default` over the same range are checked as a pair. Everything is
read once, in pieces, in memory that does not grow with the files.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.encryption import plain_reader
from bkctl.archive.meta import BackupFile
from bkctl.errors import CorruptionError
from bkctl.mvcc.entry_bounds import EntryBounds
from bkctl.sst.damage import DamageList
from bkctl.sst.verify import verify_sst
from bkctl.storage.base import NotFoundError, RandomReader
from bkctl.store.ident import API_V1, has_plain_keys

if TYPE_CHECKING:
    # Imported where the deep level needs them: they bring numpy, and hashing alone does not.
    from bkctl.codec.cipher import Cipher
    from bkctl.mvcc.accounting import Accounting
    from bkctl.mvcc.backup_entries import EntryChecker, References

WRITE, DEFAULT = "write", "default"
_CHUNK = 1 << 20
_BATCH_RECORDS = 1024
_BATCH_BYTES = 1 << 20

Advance = Callable[[int, int], None]
"""Called now and then with the records and bytes checked since the last call; raises to stop."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a backup; `offset` is None where none is known."""

    file: str
    offset: int | None
    what: str

    def __str__(self) -> str:
        place = self.file if self.offset is None else f"{self.file}: at offset {self.offset}"
        return f"{place}: {self.what}"


def pairs_of(files: Sequence[BackupFile], is_raw: bool) -> list[tuple[BackupFile, ...]]:
    """Put together the files to be checked together, in key order."""
    ordered = sorted(files, key=lambda file: (file.start_key, file.end_key, file.cf, file.name))
    if is_raw:
        return [(file,) for file in ordered]
    pairs: dict[tuple[bytes, bytes, str], list[BackupFile]] = {}
    for file in ordered:
        # A second file of one family over a range is damage of its own, and has no partner.
        number = 0
        while any(other.cf == file.cf for other in pairs.get(_pair_key(file, number), [])):
            number += 1
        pairs.setdefault(_pair_key(file, number), []).append(file)
    return [tuple(pair) for pair in pairs.values()]


def _pair_key(file: BackupFile, number: int) -> tuple[bytes, bytes, str]:
    alone = "" if file.cf in (WRITE, DEFAULT) else file.cf
    return file.start_key, file.end_key, f"{alone}{number}"


class HashingReader(RandomReader):
    """Passes reads on and hashes the file on the way; what was not read in order is read again."""

    def __init__(self, reader: RandomReader) -> None:
        self._reader = reader
        self._hash = hashlib.sha256()
        self._hashed = 0

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._reader.size

    def read_at(self, offset: int, length: int) -> bytes:
        """See RandomReader."""
        data = self._reader.read_at(offset, length)
        if offset <= self._hashed < offset + len(data):
            self._hash.update(memoryview(data)[self._hashed - offset :])
            self._hashed = offset + len(data)
        return data

    def digest(self) -> bytes:
        """The SHA-256 of the whole file."""
        while data := self.read_at(self._hashed, _CHUNK):
            del data  # its memory is wanted for the next one
        return self._hash.digest()


class PairCheck:
    """Checks the files of one range; `run` returns what is wrong with them.

    `checked_bytes` counts the bytes that were read as stored.
    """

    def __init__(
        self,
        backup_dir: BackupDir,
        files: Sequence[BackupFile],
        *,
        is_raw: bool,
        deep: bool,
        advance: Advance,
        cipher: Cipher | None = None,
        api_version: int = API_V1,
    ) -> None:
        self._backup_dir = backup_dir
        self._files = files
        self._is_raw, self._deep = is_raw, deep
        self._cipher = cipher
        self._api_version = api_version
        self._advance = advance
        self._references: dict[str, References] = {}
        self.findings: list[Finding] = []
        self.checked_bytes = 0

    def run(self) -> list[Finding]:
        """Check all files; raises StorageError where one cannot be read, not where it is wrong."""
        for file in self._files:
            self._check_file(file)
        if self._deep and not self._is_raw and len(self._references) == len(self._files):
            self._check_references()
        return self.findings

    def _find(self, file: BackupFile, what: str) -> None:
        self.findings.append(Finding(file.name, None, what))

    def _check_file(self, file: BackupFile) -> None:
        try:
            reader = self._backup_dir.open_file(file.name)
        except NotFoundError:
            self._find(file, "is missing")
            return
        with reader:
            hashing = HashingReader(reader)
            if self._deep:
                self._check_plain(file, hashing)
            else:
                self._read_through(hashing)
            if not file.sha256:
                self._find(file, "backupmeta has no SHA-256 of it")
            elif hashing.digest() != file.sha256:
                self._find(file, "its SHA-256 is not the one in backupmeta")
            self.checked_bytes += reader.size

    def _check_plain(self, file: BackupFile, reader: HashingReader) -> None:
        if file.cipher_iv and self._cipher is None:
            self._find(file, "is encrypted, and cannot be checked without its key")
            return
        try:
            plain = plain_reader(reader, file, self._cipher)
        except CorruptionError as e:
            self._find(file, str(e).removeprefix(f"{file.name}: "))
        else:
            self._check_records(file, plain)

    def _read_through(self, reader: HashingReader) -> None:
        for offset in range(0, reader.size, _CHUNK):
            self._advance(0, len(reader.read_at(offset, _CHUNK)))

    def _check_records(self, file: BackupFile, reader: RandomReader) -> None:
        checker = self._checker(file)
        if checker is None:
            self._find(file, f"column family {file.cf!a} is none of a transactional backup")
            return
        problems = DamageList(file.name)
        batches = _Batches(checker, problems, self._advance)
        damages = verify_sst(reader, file.name, batches.add)
        batches.flush()
        damages += problems.all()
        self.findings += [Finding(file.name, damage.offset, damage.what) for damage in damages]
        self._references[file.cf] = checker.references
        if not damages:
            self._check_counts(file, checker.accounting)

    def _checker(self, file: BackupFile) -> EntryChecker | None:
        from bkctl.mvcc.backup_entries import DefaultChecker, RawChecker, WriteChecker

        bounds = EntryBounds(
            file.start_key,
            file.end_key,
            file.start_version,
            file.end_version,
            has_plain_keys(self._is_raw, self._api_version),
        )
        if self._is_raw:
            return RawChecker(bounds, self._api_version)
        if file.cf == WRITE:
            return WriteChecker(bounds)
        return DefaultChecker(bounds) if file.cf == DEFAULT else None

    def _check_counts(self, file: BackupFile, counted: Accounting) -> None:
        if counted.total_kvs != file.total_kvs:
            self._find(
                file, f"counts {counted.total_kvs} records, backupmeta says {file.total_kvs}"
            )
        if counted.total_bytes != file.total_bytes:
            self._find(
                file,
                f"counts {counted.total_bytes} plain bytes, backupmeta says {file.total_bytes}",
            )
        # Some versions of br do not record the checksum of raw files.
        is_recorded = file.crc64xor or not self._is_raw
        if is_recorded and counted.crc64xor != file.crc64xor:
            self._find(
                file,
                f"has crc64xor {counted.crc64xor:016x}, backupmeta says {file.crc64xor:016x}",
            )

    def _check_references(self) -> None:
        from bkctl.mvcc.backup_entries import References
        from bkctl.verify.references import unmatched_values

        nothing = References()
        wanted = self._references.get(WRITE, nothing)
        if wanted.agree(self._references.get(DEFAULT, nothing)):
            return
        by_family = {file.cf: file for file in self._files}
        for file_name, what in unmatched_values(
            self._backup_dir, by_family.get(WRITE), by_family.get(DEFAULT), self._cipher
        ):
            self.findings.append(Finding(file_name, None, what))


class _Batches:
    """Gathers the records of several blocks into batches that are worth looking at as columns."""

    def __init__(self, checker: EntryChecker, problems: DamageList, advance: Advance) -> None:
        self._checker, self._problems, self._advance = checker, problems, advance
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._size = 0
        self._first_rows: list[int] = []
        self._offsets: list[int] = []

    def add(self, offset: int, keys: list[bytes], values: list[bytes]) -> None:
        """Take the records of the block at `offset`."""
        self._first_rows.append(len(self._keys))
        self._offsets.append(offset)
        self._keys += keys
        self._values += values
        self._size += sum(map(len, values))
        if len(self._keys) >= _BATCH_RECORDS or self._size >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Check what is gathered."""
        if not self._keys:
            return
        before = self._checker.accounting
        kvs, plain_bytes = before.total_kvs, before.total_bytes
        for problem in self._checker.check(self._keys, self._values):
            block = bisect_right(self._first_rows, problem.row) - 1
            self._problems.add(self._offsets[block], problem.what)
        after = self._checker.accounting
        self._keys, self._values, self._size = [], [], 0
        self._first_rows, self._offsets = [], []
        self._advance(after.total_kvs - kvs, after.total_bytes - plain_bytes)
