"""Restores backups of mutated files whose hashes are right.

    OPENBLAS_NUM_THREADS=1 python -m tests.restore.fuzz FIRST_SEED COUNT

Run by itself, as a process of one thread, each restore is quick. What is printed is how many ended
how, as JSON. Each must end in a store that holds what the files say, or in an error that names the
file that is at fault; anything else ends the run with a traceback.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bkctl.archive.meta import BackupFile, BackupMeta, RawRange, encode_meta
from bkctl.restore.plan import RestoreRequest
from bkctl.restore.restore import restore
from bkctl.sst.reader import SstReader
from bkctl.storage.url import parse_storage
from bkctl.store.inspector import Inspector
from tests.sst.mutations import mutated, sound_files
from tests.sst.table_builder import BytesReader

_NOT_VERIFIED = 5
"""Every so manieth restore is one with --no-verify."""


def make_backup(repository: Path, files: dict[str, bytes]) -> None:
    """A raw backup of one file a column family; its backupmeta is right about all of them."""
    (repository / "b").mkdir(parents=True)
    described = []
    for family, data in files.items():
        name = f"{family}.sst"
        (repository / "b" / name).write_bytes(data)
        sha256 = hashlib.sha256(data).digest()
        described.append(BackupFile(name, sha256, b"", b"", 0, 0, 0, 0, 0, family, len(data)))
    ranges = tuple(RawRange(b"", b"", family) for family in files)
    meta = BackupMeta(1, "", tuple(described), 0, 1, is_raw_kv=True, raw_ranges=ranges)
    (repository / "b" / "backupmeta").write_bytes(encode_meta(meta))


def restore_one(folder: Path, sound: bytes, data: bytes, *, verify: bool) -> str:
    """How the restore of a sound file and another one ends."""
    repository, target = folder / "repo", folder / "db"
    make_backup(repository, {"default": sound, "write": data})
    result = restore(RestoreRequest(parse_storage(str(repository)), target, jobs=1, verify=verify))
    if result.findings:
        assert "write.sst" in str(result.findings[0]), result.findings
        assert sorted(folder.iterdir()) == [repository], "something is left"
        return "crash" if "crashed" in str(result.findings[0]) else "refused"
    if verify:
        assert scanned(target) == list(SstReader(BytesReader(data), "f1").entries())
    return "restored"


def scanned(target: Path) -> list[tuple[bytes, bytes]]:
    """What RocksDB, in a process of its own, shows of the family that the mutated file is of."""
    inspector = Inspector()
    try:
        inspector.open(target, target)
        return list(inspector.records("write", b"", b"\xff"))
    finally:
        inspector.close()


def main(first: int, count: int) -> None:
    """Do `count` restores, from seed `first` on."""
    ended: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as base:
        files = sound_files(Path(base))
        for seed in range(first, first + count):
            folder = Path(base) / "run"
            folder.mkdir()
            data = mutated(files[seed % len(files)], seed)
            ended[restore_one(folder, files[0], data, verify=seed % _NOT_VERIFIED != 0)] += 1
            shutil.rmtree(folder)
    print(json.dumps(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
