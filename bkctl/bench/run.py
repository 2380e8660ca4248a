"""Runs a benchmark: makes the stores, lets everybody run in turn, and gathers what they took.

In each round each contestant runs once, so that what disturbs the machine for a while disturbs all.
Every second round goes backwards, so that nobody always follows the same one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bkctl import __version__, interrupts
from bkctl.bench.contest import Contestant, Outcome, Subject, contestants, find_peers
from bkctl.bench.measure import CommandFailedError, run_measured
from bkctl.bench.results import BKCTL, FULL, Findings, Result, StoreFacts
from bkctl.bench.stores import END_TS, INCREMENT_TS, StoreKind, make_store, region_map_of
from bkctl.errors import BkctlError, StorageError, UsageError
from bkctl.store.layout import is_encrypted, locate

_FOLDER = "bkctl-bench-"


class Watcher(Protocol):
    """Is told how a benchmark goes on."""

    def begun(self, store: str, steps: int) -> None:
        """A store's turn has come; there are so many steps to it."""

    def step(self, what: str) -> None:
        """A step begins."""

    def told(self, note: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True, slots=True)
class OwnStore:
    """A store that is there: what `bkctl backup` needs to know of it. `start_ts` may be None."""

    db: Path
    region_map: str
    is_raw: bool
    family: str | None
    start_ts: int | None
    end_ts: int


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure: made stores (`rows` are those of the one of short values), or one's own."""

    kinds: tuple[StoreKind, ...]
    own: OwnStore | None
    rows: int
    runs: int
    codecs: tuple[str, ...]
    jobs: tuple[int, ...]
    work_dir: Path | None = None
    keep: bool = False


def run_bench(request: BenchRequest, watcher: Watcher) -> Findings:
    """Measure all that is asked for.

    Raises UsageError for a store that cannot be backed up, StorageError where there is no room,
    BkctlError where a backup fails or two of them differ. A peer that fails is left out, and a note
    says so. Nothing is left, whatever is raised, but stores that are to be kept.
    """
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with _folder(request, watcher) as folder:
        bench = _Bench(request, watcher, folder)
        for kind in request.kinds:
            bench.measure_made(kind)
        if request.own is not None:
            bench.measure_own(request.own)
        return Findings(
            bkctl=__version__,
            started_at=begun,
            machine=_machine(),
            runs=request.runs,
            peers=bench.peer_versions(),
            notes=tuple(bench.notes),
            stores=tuple(bench.stores),
            results=tuple(bench.results),
        )


class _Bench:
    """A benchmark in work."""

    def __init__(self, request: BenchRequest, watcher: Watcher, folder: Path) -> None:
        self._request, self._watcher, self._folder = request, watcher, folder
        self._peers = find_peers()
        self.notes: list[str] = []
        self.stores: list[StoreFacts] = []
        self.results: list[Result] = []
        for name in ("refscan", "ldb", "tar"):
            if name not in self._peers:
                self.notes.append(f"{name} is not on this machine")

    def measure_made(self, kind: StoreKind) -> None:
        """Make a store and measure on it."""
        path = self._folder / kind.word
        rows = kind.rows(self._request.rows)
        self._watcher.begun(kind.name, 1)
        self._watcher.step(f"making {rows:,} rows")
        make_store(kind, rows, path)
        own = OwnStore(
            path,
            str(region_map_of(path)),
            kind.is_raw,
            None,
            None if kind.is_raw else INCREMENT_TS,
            END_TS,
        )
        self._measure(kind.name, own, rows)
        if not self._request.keep:
            shutil.rmtree(path)

    def measure_own(self, own: OwnStore) -> None:
        """Measure on a store that is there."""
        self._watcher.told(f"measuring {own.db}; made stores are measured with --store all")
        self._measure("own store", own, None)

    def peer_versions(self) -> dict[str, str]:
        """The peers that ran, by name, with what they say of their version."""
        ran = {result.tool for result in self.results} - {BKCTL}
        return {name: self._version(name) for name in self._peers if name in ran}

    def _version(self, name: str) -> str:
        if name == "refscan":
            return ""  # it would take the word for a directory
        with contextlib.suppress(CommandFailedError):
            command = [self._peers[name], "--version"]
            lines = run_measured(name, command, self._folder).stdout.strip().splitlines()
            return lines[0] if lines else ""
        return ""

    def _measure(self, name: str, own: OwnStore, rows: int | None) -> None:
        subject = self._subject(name, own, rows)
        everybody = contestants(subject, self._request.codecs, self._request.jobs, self._peers)
        self._watcher.begun(name, len(everybody) * self._request.runs + 1)
        scores = _Scores(subject)
        self._watcher.step("once to warm up")
        self._run(everybody[0])
        for number in range(self._request.runs):
            order = everybody if number % 2 == 0 else everybody[::-1]
            for contestant in order:
                self._watcher.step(f"{contestant}, {number + 1} of {self._request.runs}")
                try:
                    scores.add(contestant, self._run(contestant))
                except BkctlError as e:
                    if contestant.tool == BKCTL:
                        raise
                    everybody = [each for each in everybody if each.tool != contestant.tool]
                    scores.drop(contestant.tool)
                    self._note(f"{name}: {contestant.tool} is left out: {e}")
        sizes = [file.stat().st_size for file in subject.files.glob("*.sst")]
        self.stores.append(StoreFacts(name, rows, len(sizes), sum(sizes)))
        self.results += scores.results()

    def _run(self, contestant: Contestant) -> Outcome:
        folder = self._folder / "run"
        folder.mkdir()
        try:
            return contestant.run(folder)
        finally:
            shutil.rmtree(folder)

    def _note(self, note: str) -> None:
        self.notes.append(note)
        self._watcher.told(note)

    def _subject(self, name: str, own: OwnStore, rows: int | None) -> Subject:
        """Plan the backup, so that what cannot be backed up is refused before anything runs."""
        if is_encrypted(own.db):
            raise UsageError(
                f"{own.db}: the store is encrypted at rest, and what bkctl bench makes of it would "
                "be plain; measure a made store, or take a backup of it to noop://"
            )
        reading = ["--region-map", own.region_map]
        if own.is_raw:
            reading += ["--raw", *(["--cf", own.family] if own.family else [])]
        config = self._folder / "empty.toml"
        config.touch()
        command = [sys.executable, "-m", "bkctl", "ranges", "--db", str(own.db), *reading]
        command += ["--end-ts", str(own.end_ts), "--json", "--config", str(config)]
        command += ["--work-dir", str(self._folder)]
        try:
            planned = json.loads(run_measured("bkctl ranges", command, self._folder).stdout)
        except CommandFailedError as e:
            if e.code == UsageError.exit_code:
                raise UsageError(e.reason) from None
            raise BkctlError(e.reason) from None
        return Subject(
            name=name,
            db=own.db,
            files=locate(own.db).db_dir,
            options=tuple(reading),
            regions=tuple(
                (bytes.fromhex(each["start_key"]), bytes.fromhex(each["end_key"]))
                for each in planned["ranges"]
            ),
            end_ts=own.end_ts,
            start_ts=own.start_ts,
            is_raw=own.is_raw,
            rows=rows,
        )


class _Scores:
    """The outcomes on one store so far; all that look at records must have found the same."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._runs: dict[Contestant, list[Outcome]] = {}
        self._content: dict[bool, tuple[int, int, int]] = {}

    def add(self, contestant: Contestant, outcome: Outcome) -> None:
        """Add a run; BkctlError if it backed up something else than those before it."""
        is_full = contestant.backup == FULL
        if outcome.content is not None:
            first = self._content.setdefault(is_full, outcome.content)
            if first != outcome.content:
                raise BkctlError(
                    f"{contestant} on {self._subject.name} backed up "
                    f"{outcome.content[0]:,} records of {outcome.content[1]:,} bytes, "
                    f"others {first[0]:,} of {first[1]:,}, or others than those"
                )
        self._runs.setdefault(contestant, []).append(outcome)

    def drop(self, tool: str) -> None:
        """Forget all runs of a tool."""
        self._runs = {each: runs for each, runs in self._runs.items() if each.tool != tool}

    def results(self) -> Iterator[Result]:
        """What was found, a result for each contestant."""
        for contestant, outcomes in self._runs.items():
            kvs, plain_bytes, _ = self._content[contestant.backup == FULL]
            yield Result(
                tool=contestant.tool,
                store=self._subject.name,
                backup=contestant.backup,
                codec=contestant.codec,
                jobs=contestant.jobs,
                kvs=None if outcomes[0].content is None else kvs,
                plain_bytes=plain_bytes,
                size=outcomes[-1].size,
                runs=tuple(outcome.run for outcome in outcomes),
            )


@contextlib.contextmanager
def _folder(request: BenchRequest, watcher: Watcher) -> Iterator[Path]:
    """Where all is made; removed at the end, which nothing can interrupt."""
    try:
        path = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=request.work_dir)).absolute()
    except OSError as e:
        raise StorageError(
            f"{request.work_dir or tempfile.gettempdir()}: cannot be written ({e.strerror}); "
            "set TMPDIR or --work-dir to a directory with space"
        ) from None
    try:
        yield path
    finally:
        with interrupts.handled_by(lambda signum, frame: None):
            if request.keep and request.kinds:
                shutil.rmtree(path / "run", ignore_errors=True)
                watcher.told(f"the stores are kept in {path}; their --end-ts is {END_TS}")
            else:
                shutil.rmtree(path, ignore_errors=True)


def _machine() -> dict[str, str | int]:
    """What the figures depend on, as far as the system tells."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
