"""The file that node_exporter's textfile collector reads: written in one step, gone on from by the
next run.

What is in it is a memory between runs and no more: one that is missing, damaged or of other
contents costs the counters their past, which Prometheus takes for a restart.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bkctl.errors import CorruptionError, UsageError
from bkctl.shortage import reason_of

# A file of ours has some 20 kB.
_MAX_BYTES = 4 << 20
# node_exporter's own user must be able to read it.
_MODE = 0o644

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


def check_metrics_file(path: Path) -> None:
    """Raise UsageError unless the file can be written: its directory must allow new files."""
    try:
        target = _target(path)
        os.unlink(_write_temporary(target, b""))
    except OSError as e:
        raise UsageError(f"--metrics-file {path}: cannot be written ({reason_of(e)})") from None


def read_samples(path: Path) -> Samples:
    """What the file of the run before says; nothing where there is none.

    Raises CorruptionError for one that is damaged; a value that is negative or no number is damage.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise CorruptionError(f"{path}: cannot be read ({e.strerror})") from None
    if len(data) > _MAX_BYTES:
        raise CorruptionError(f"{path}: larger than any file of metrics")
    try:
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(data.decode())
            for sample in family.samples
        }
    # Which of these its parser meets depends on where a text breaks off.
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CorruptionError(f"{path}: no metrics in Prometheus' text format") from None
    if not all(math.isfinite(value) and value >= 0 for value in samples.values()):
        raise CorruptionError(f"{path}: a value is negative or no number")
    return samples


def write_metrics(path: Path, data: bytes) -> None:
    """Replace the file in one step, durably and readable by all; raises OSError."""
    target = _target(path)
    temporary = _write_temporary(target, data)
    try:
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _target(path: Path) -> Path:
    """Where the file is; OSError for what is there and no file, as a rename would remove it."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    return target


def _write_temporary(target: Path, data: bytes) -> str:
    # A name that neither starts nor ends as those do that node_exporter reads.
    fd, temporary = tempfile.mkstemp(".tmp", f".{target.name[:200]}.", target.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, _MODE)
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def continued(
    run: CollectorRegistry,
    before: Samples,
    exposed_name: Callable[[str], str],
    is_kept: Callable[[str], bool],
) -> bytes:
    """A run's metrics as text, its counters and histograms added to the samples before.

    `exposed_name` gives a counter's name in the text for the one that prometheus_client knows it
    by; gauges that `is_kept` names have the value from before, if there is one.
    """
    registry = CollectorRegistry()
    registry.register(_Continued(run, before, exposed_name, is_kept))
    return generate_latest(registry)


class _Continued(Collector):
    def __init__(
        self,
        run: CollectorRegistry,
        before: Samples,
        exposed_name: Callable[[str], str],
        is_kept: Callable[[str], bool],
    ) -> None:
        self._run, self._before = run, before
        self._exposed_name, self._is_kept = exposed_name, is_kept

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        for family in self._run.collect():
            yield self._continued(family)

    def _continued(self, family: Metric) -> Metric:
        kind = family.type
        is_renamed = kind == "counter" and self._exposed_name(family.name) == family.name
        # The library writes no counter without `_total`; a type of its own is what is left.
        shown = Metric(family.name, family.documentation, "unknown" if is_renamed else kind)
        for sample in family.samples:
            if sample.name == f"{family.name}_created":
                continue
            name = family.name if is_renamed else sample.name
            value, key = sample.value, (name, frozenset(sample.labels.items()))
            if kind != "gauge":
                value += self._before.get(key, 0.0)
            elif self._is_kept(name):
                value = self._before.get(key, value)
            shown.add_sample(name, sample.labels, value)
        return shown
