"""What a benchmark found: its figures, ratios between tools, and all of it as JSON and back.

    {"bkctl", "started_at", "machine": {…}, "runs", "peers": {"refscan": "…"}, "notes": ["…"],
     "stores": [{"name", "rows", "files", "size"}],
     "results": [{"tool", "store", "backup": "full|incremental|incremental_read_all", "codec",
                  "jobs", "kvs", "plain_bytes", "size", "kvs_per_second", "bytes_per_second",
                  "peak", "peaks", "seconds": {"median", "min", "max", "runs"}, "wall": {…},
                  "cpu": {…},
                  "ratios": {"refscan": {"seconds": {"median", "min", "max"}, "wall": {…}}}}]}

`seconds` are the run's own, as the tool itself tells them, or null; `wall` is from the start of the
program to its end, `cpu` that of all processes; `peak` the memory of the largest process. Sizes are
in bytes. A ratio is bkctl's speed over the peer's: of the medians, and the least and greatest of
two runs of the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from bkctl.errors import UsageError

BKCTL = "bkctl"
FULL, INCREMENTAL, READ_ALL = "full", "incremental", "incremental_read_all"
BACKUPS = (FULL, INCREMENTAL, READ_ALL)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, least and greatest of some figures."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of one figure at least."""
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True, slots=True)
class Run:
    """One run: times in seconds, `peak` in bytes; see above."""

    seconds: float | None
    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a tool doing one thing, in the order of the rounds; sizes in bytes.

    `codec` is None for a tool that has its own way, `kvs` for one that does not look at records;
    `plain_bytes` are those of the backup's keys and values, whatever the tool moved.
    """

    tool: str
    store: str
    backup: str
    codec: str | None
    jobs: int
    kvs: int | None
    plain_bytes: int
    size: int
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> Spread | None:
        """The run's own seconds, if the tool tells them."""
        own = [run.seconds for run in self.runs if run.seconds is not None]
        return Spread.of(own) if len(own) == len(self.runs) else None

    @property
    def wall(self) -> Spread:
        """Seconds from start to end."""
        return Spread.of([run.wall for run in self.runs])

    @property
    def cpu(self) -> Spread:
        """Processor seconds of all processes."""
        return Spread.of([run.cpu for run in self.runs])

    @property
    def working(self) -> Spread:
        """The run's own seconds, or those from start to end where it tells none."""
        return self.seconds or self.wall

    @property
    def peak(self) -> int:
        """The most memory that a process had in any run."""
        return max(run.peak for run in self.runs)


@dataclass(frozen=True, slots=True)
class Ratio:
    """bkctl's speed over a peer's, by the runs' own seconds and by those from start to end."""

    peer: str
    seconds: Spread | None
    wall: Spread


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """A store that was measured: rows where they are known, SST files and their size in bytes."""

    name: str
    rows: int | None
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Findings:
    """A whole benchmark. `peers` are their versions by name; `notes` say what was left out, why."""

    bkctl: str
    started_at: str
    machine: dict[str, str | int]
    runs: int
    peers: dict[str, str]
    notes: tuple[str, ...]
    stores: tuple[StoreFacts, ...]
    results: tuple[Result, ...]

    def of(self, store: StoreFacts) -> list[Result]:
        """The results on one store."""
        return [result for result in self.results if result.store == store.name]

    def ratios(self, result: Result) -> list[Ratio]:
        """How a result of bkctl compares with the peers that did the same; none for a peer's."""
        if result.tool != BKCTL:
            return []
        return [_ratio(result, peer) for peer in self.results if _compares(result, peer)]

    def to_json_dict(self) -> dict[str, object]:
        """The document above."""
        return asdict(self) | {"results": [self._result_json(each) for each in self.results]}

    def _result_json(self, result: Result) -> dict[str, object]:
        document = asdict(result)
        del document["runs"]
        median = result.working.median
        return document | {
            "kvs_per_second": None if result.kvs is None else round(result.kvs / median, 1),
            "bytes_per_second": round(result.plain_bytes / median, 1),
            "peak": result.peak,
            "peaks": [run.peak for run in result.runs],
            "seconds": _times(result.seconds, [run.seconds for run in result.runs]),
            "wall": _times(result.wall, [run.wall for run in result.runs]),
            "cpu": _times(result.cpu, [run.cpu for run in result.runs]),
            "ratios": {
                ratio.peer: {
                    "seconds": None if ratio.seconds is None else _rounded(ratio.seconds),
                    "wall": _rounded(ratio.wall),
                }
                for ratio in self.ratios(result)
            },
        }


def parse_findings(document: object) -> Findings:
    """Read what `to_json_dict` gave; UsageError, saying what is wrong, for anything else."""
    top = _table(document, "the document")
    return Findings(
        bkctl=_get(top, "bkctl", str),
        started_at=_get(top, "started_at", str),
        machine={
            name: value if isinstance(value, int) else str(value)
            for name, value in _table(top.get("machine"), "machine").items()
        },
        runs=_get(top, "runs", int),
        peers={name: str(value) for name, value in _table(top.get("peers"), "peers").items()},
        notes=tuple(map(str, _get(top, "notes", list))),
        stores=tuple(_store(each) for each in _get(top, "stores", list)),
        results=tuple(_result(each) for each in _get(top, "results", list)),
    )


def _store(document: object) -> StoreFacts:
    table = _table(document, "a store")
    rows = None if table.get("rows") is None else _get(table, "rows", int)
    return StoreFacts(
        _get(table, "name", str), rows, _get(table, "files", int), _get(table, "size", int)
    )


def _result(document: object) -> Result:
    table = _table(document, "a result")
    peaks: list[object] = _get(table, "peaks", list)
    own = table.get("seconds")
    columns = {
        "seconds": [None] * len(peaks) if own is None else _run_times(table, "seconds"),
        "wall": _run_times(table, "wall"),
        "cpu": _run_times(table, "cpu"),
        "peak": [_is(peak, "peaks", int) for peak in peaks],
    }
    if not peaks or len({len(column) for column in columns.values()}) != 1:
        raise UsageError("a result has not as many times as peaks, or none")
    backup = _get(table, "backup", str)
    if backup not in BACKUPS:
        raise UsageError(f"backup {backup!r} is none of {', '.join(BACKUPS)}")
    runs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Result(
        tool=_get(table, "tool", str),
        store=_get(table, "store", str),
        backup=backup,
        codec=None if table.get("codec") is None else _get(table, "codec", str),
        jobs=_get(table, "jobs", int),
        kvs=None if table.get("kvs") is None else _get(table, "kvs", int),
        plain_bytes=_get(table, "plain_bytes", int),
        size=_get(table, "size", int),
        runs=tuple(Run(**{field.name: run[field.name] for field in fields(Run)}) for run in runs),
    )


def _run_times(table: dict[str, Any], name: str) -> list[float]:
    times = [
        _is(each, name, (int, float)) for each in _get(_table(table.get(name), name), "runs", list)
    ]
    if any(time <= 0 for time in times):
        raise UsageError(f"{name}: a time that is not above 0")
    return times


def _table(value: object, what: str) -> dict[str, Any]:
    table: dict[str, Any] = _is(value, what, dict)
    return table


def _get(table: dict[str, Any], name: str, kind: type[_T]) -> _T:
    value: _T = _is(table.get(name), name, kind)
    return value


def _is(value: object, name: str, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{name} is missing, or not what it should be")
    return value


def _compares(result: Result, peer: Result) -> bool:
    """Whether the peer's runs did what these did."""
    if peer.tool == BKCTL or (peer.store, peer.jobs) != (result.store, result.jobs):
        return False
    if peer.codec not in (None, result.codec) or len(peer.runs) != len(result.runs):
        return False
    # The peers read everything for an incremental backup.
    return (peer.backup == FULL) == (result.backup == FULL)


def _ratio(result: Result, peer: Result) -> Ratio:
    own = [(run.seconds, other.seconds) for run, other in _pairs(result, peer)]
    told = [(ours, theirs) for ours, theirs in own if ours is not None and theirs is not None]
    return Ratio(
        peer.tool,
        _quotients(told) if len(told) == len(own) else None,
        _quotients([(run.wall, other.wall) for run, other in _pairs(result, peer)]),
    )


def _pairs(result: Result, peer: Result) -> Iterable[tuple[Run, Run]]:
    return zip(result.runs, peer.runs, strict=True)


def _quotients(pairs: Sequence[tuple[float, float]]) -> Spread:
    """The peer's time over ours: of the medians, and the least and greatest of a round."""
    of_rounds = Spread.of([theirs / ours for ours, theirs in pairs])
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Spread(theirs / ours, of_rounds.min, of_rounds.max)


def _times(spread: Spread | None, runs: Sequence[float | None]) -> dict[str, object] | None:
    return None if spread is None else _rounded(spread) | {"runs": list(runs)}


def _rounded(spread: Spread) -> dict[str, object]:
    return {name: round(value, 4) for name, value in asdict(spread).items()}
