"""Who runs in a benchmark: bkctl, and the peers that are found on the machine.

    refscan   the same backup by librocksdb in C++: $REFSCAN, or on the PATH
    ldb       RocksDB's own backup of the whole directory (Debian: rocksdb-tools)
    tar       an archive of the whole directory, by tar and zstd

Opening a RocksDB writes into its directory, so refscan and ldb get one of their own, made anew for
each run: links to the SST files, copies of the rest. bkctl and tar read the store itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bkctl.bench.measure import CommandFailedError, Measured, run_measured
from bkctl.bench.results import BKCTL, FULL, INCREMENTAL, READ_ALL, Run
from bkctl.bench.stores import region_map_of
from bkctl.codec.memcomparable import encode
from bkctl.errors import BkctlError, UsageError

REFSCAN, LDB, TAR = "refscan", "ldb", "tar"


@dataclass(frozen=True, slots=True)
class Subject:
    """A store to measure: `db` as bkctl takes it, `files` the RocksDB directory in it.

    `options` are those of `bkctl backup` that say what to read. Timestamps are TSOs; without a
    `start_ts` no incremental backup is measured. `regions` are raw bounds of the planned ranges.
    """

    name: str
    db: Path
    files: Path
    options: tuple[str, ...]
    regions: tuple[tuple[bytes, bytes], ...]
    end_ts: int
    start_ts: int | None
    is_raw: bool
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, the size of what it wrote, and what it backed up: records, plain bytes, crc64xor."""

    run: Run
    size: int
    content: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who does what; `run` does it once, in an empty folder, or raises BkctlError."""

    tool: str
    backup: str
    codec: str | None
    jobs: int
    run: Callable[[Path], Outcome]

    def __str__(self) -> str:
        words = [self.tool, self.backup.replace("_", " "), self.codec or "", f"x{self.jobs}"]
        return " ".join(word for word in words if word)


def find_peers() -> dict[str, Path]:
    """The programs of the peers that are here, by name; UsageError for a $REFSCAN that is none."""
    named = os.environ.get("REFSCAN")
    if named and not shutil.which(named):
        raise UsageError(f"REFSCAN={named}: no program; correct it, or unset it")
    found = {
        REFSCAN: shutil.which(named or REFSCAN),
        LDB: shutil.which(LDB),
        TAR: shutil.which(TAR) if shutil.which("zstd") else None,
    }
    return {name: Path(path).absolute() for name, path in found.items() if path}


def contestants(
    subject: Subject, codecs: Sequence[str], jobs: Sequence[int], peers: dict[str, Path]
) -> list[Contestant]:
    """All that run on a store, in turn."""
    found: list[Contestant] = []
    kinds = [FULL] if subject.start_ts is None else [FULL, INCREMENTAL, READ_ALL]
    for count in jobs:
        for codec in codecs:
            for kind in kinds:
                found.append(_bkctl(subject, kind, codec, count))
                if REFSCAN in peers and not subject.is_raw and kind != READ_ALL:
                    found.append(_refscan(peers[REFSCAN], subject, kind, codec, count))
        if LDB in peers:
            found.append(_ldb(peers[LDB], subject, count))
        if TAR in peers:
            found.append(_tar(peers[TAR], subject, count))
    return found


def _bkctl(subject: Subject, kind: str, codec: str, jobs: int) -> Contestant:
    command = [sys.executable, "-m", "bkctl", "backup", "--db", str(subject.db), *subject.options]
    command += ["--end-ts", str(subject.end_ts), "--compression", codec, "--jobs", str(jobs)]
    command += ["--json", "--progress", "none"]
    if kind != FULL:
        command += ["--start-ts", str(subject.start_ts)]
    if kind == READ_ALL:
        command.append("--read-all")

    def run(folder: Path) -> Outcome:
        config = folder / "empty.toml"
        config.touch()
        places = {"--storage": folder / "backups", "--work-dir": folder, "--config": config}
        given = [str(each) for option in places.items() for each in option]
        try:
            measured = run_measured("bkctl backup", [*command, *given], folder)
        except CommandFailedError as e:
            raise BkctlError(f"{subject.name} cannot be backed up: {_why(e)}") from None
        report = json.loads(measured.stdout)
        content = report["total_kvs"], report["total_bytes"], int(report["crc64xor"], 16)
        return Outcome(_run(measured, report["seconds"]), report["size"], content)

    return Contestant(BKCTL, kind, codec, jobs, run)


def _why(error: CommandFailedError) -> str:
    """The first of a failed backup's errors, which its report has, or what it said."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        first, *others = json.loads(error.stdout)["errors"]
        more = f" (and {len(others)} more regions)" if others else ""
        return f"region {first['region_id']}: {first['kind']}: {first['message']}{more}"
    return str(error)


def _refscan(program: Path, subject: Subject, kind: str, codec: str, jobs: int) -> Contestant:
    start_ts = 0 if kind == FULL else subject.start_ts

    def run(folder: Path) -> Outcome:
        store = _own_directory(subject, folder)
        window = [str(start_ts), str(subject.end_ts)]
        command = [program, store, folder / "out", *window, jobs, codec]
        measured = run_measured(REFSCAN, command, folder)
        try:
            kvs, plain_bytes, crc, size, seconds = measured.stdout.split()
            content = int(kvs), int(plain_bytes), int(crc)
            return Outcome(_run(measured, float(seconds)), int(size), content)
        except ValueError:
            raise BkctlError(
                f"{REFSCAN} printed {measured.stdout[:80]!r}, not five numbers"
            ) from None

    return Contestant(REFSCAN, kind, codec, jobs, run)


def _ldb(program: Path, subject: Subject, jobs: int) -> Contestant:
    def run(folder: Path) -> Outcome:
        out = folder / "out"
        store = _own_directory(subject, folder)
        command = [program, "backup", f"--db={store}", f"--backup_dir={out}"]
        measured = run_measured(LDB, [*command, f"--num_threads={jobs}"], folder)
        return Outcome(_run(measured, None), _size_of(out), None)

    return Contestant(LDB, FULL, None, jobs, run)


def _tar(program: Path, subject: Subject, jobs: int) -> Contestant:
    def run(folder: Path) -> Outcome:
        out = folder / "store.tar.zst"
        zstd = f"--use-compress-program=zstd -q -T{jobs}"
        command = [program, "-C", subject.files, zstd, "-cf", out, "."]
        measured = run_measured(TAR, command, folder)
        return Outcome(_run(measured, None), _size_of(out), None)

    return Contestant(TAR, FULL, None, jobs, run)


def _run(measured: Measured, seconds: float | None) -> Run:
    # As the JSON has them, so that what is read back gives the same ratios.
    own = None if seconds is None else round(seconds, 4)
    return Run(own, round(measured.wall, 4), round(measured.cpu, 4), measured.peak)


def _own_directory(subject: Subject, folder: Path) -> Path:
    """A RocksDB directory that may be written to, with the regions beside it in compact JSON."""
    path = folder / "store"
    path.mkdir()
    for file in subject.files.iterdir():
        if file.suffix == ".sst":
            (path / file.name).symlink_to(file.absolute())
        elif file.name.startswith(("CURRENT", "MANIFEST-", "OPTIONS-")) or file.suffix == ".log":
            shutil.copyfile(file, path / file.name)
    regions = [
        {"start_key": _encoded(start), "end_key": _encoded(end)} for start, end in subject.regions
    ]
    region_map_of(path).write_text(json.dumps({"regions": regions}, separators=(",", ":")))
    return path


def _encoded(raw_key: bytes) -> str:
    return encode(raw_key).hex().upper() if raw_key else ""


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
