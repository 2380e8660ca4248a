"""Backups over Dask on this machine: as local ones are, and what becomes of losses and refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.report import Report
from bkctl.backup.backup import take_backup
from bkctl.backup.request import BackupRequest
from bkctl.commands.options import load_region_map
from bkctl.errors import UsageError
from bkctl.executor.cluster_file import read_cluster
from bkctl.executor.dask import DaskExecutor
from bkctl.executor.scheduler import Scheduler
from bkctl.storage.url import open_storage, parse_storage
from bkctl.store.source import SourceOptions
from tests.backup.helpers import Quiet
from tests.commands.console import bkctl
from tests.executor.machines import (
    DaskCluster,
    Done,
    Worker,
    await_that,
    dask_cluster,
    end,
    finished,
    is_gone,
)
from tests.executor.stores import STORE_IDS, figures, window_options, write_cluster_file
from tests.real.stores import require_real, truth, unpack

pytestmark = pytest.mark.xdist_group("dask")


def window(name: str) -> dict[str, object]:
    found: dict[str, object] = next(w for w in truth("dead3")["windows"] if w["name"] == name)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Not to be changed."""
    return unpack("dead3", tmp_path_factory.mktemp("dead3"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler, to which tests add workers that they also end."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as found:
        yield found


@pytest.fixture
def workers(cluster: DaskCluster) -> Iterator[Callable[..., list[Worker]]]:
    """Starts a worker for each of the resources given."""
    begun: list[Worker] = []

    def start(*resources: str, **env: str) -> list[Worker]:
        for each in resources:
            begun.append(cluster.start_worker(f"w{len(cluster.workers)}", each, None, **env))
        return begun

    yield start
    for worker in begun:
        end(worker.process)


def begin(
    cluster: DaskCluster, file: Path, repository: Path, *options: object
) -> subprocess.Popen[str]:
    return cluster.begin(
        *("backup", "--executor", cluster.executor, "--cluster", file, "--json"),
        *("--region-map", "store", "--storage", repository, "--progress", "none", *options),
    )


def back_up(cluster: DaskCluster, file: Path, repository: Path, *options: object) -> Done:
    return finished(begin(cluster, file, repository, *options))


SLOW = ("--rate-limit", "250KiB", "--log-format", "json", "--progress", "plain")


def begin_slowly(
    cluster: DaskCluster, file: Path, repository: Path, *options: object
) -> subprocess.Popen[str]:
    """A backup whose ranges are in work, and will be for some seconds."""
    process = begin(cluster, file, repository, *options, *SLOW)
    assert process.stderr is not None
    while '"running"' not in (line := process.stderr.readline()):
        assert line, "it ended before"
    return process


def all_three(workers: Callable[..., list[Worker]], more: Sequence[str] = ()) -> list[Worker]:
    return workers(*(f"store-{store_id}=2" for store_id in STORE_IDS), *more)


def agents_of(worker: Worker) -> list[int]:
    """The agents that a worker started, and their processes."""
    found, asked = [], [worker.process.pid]
    while asked:
        pid = asked.pop()
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for each in tasks for child in each.read_text().split()]
        found += children
        asked += children
    return found


def test_windows_are_those_of_a_local_run(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    all_three(workers, ["store-2=2"])
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    for name in ("inc12", "mid"):
        repository = tmp_path / name
        done = back_up(cluster, file, repository, *window_options(window(name)))
        assert done.code == 0, done.stderr
        assert figures(done.report) == figures(window(name))
        local = bkctl(
            *("backup", *(word for each in (2, 0, 1) for word in ("--db", stores[each]))),
            *("--region-map", "store", "--storage", tmp_path / f"{name}-local", "--json"),
            *("--progress", "none", *window_options(window(name))),
        )
        for field in ("ranges", "covered", "replicas", "skipped", "notes"):
            assert done.report.get(field) == local.document.get(field)
        verified = cluster.run("verify", "--storage", repository, "--level", "deep")
        assert verified.code == 0, verified.stderr
    assert cluster.private_folders == []


def test_locks_are_decided_as_by_a_local_run(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    all_three(workers)
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    options = ("--end-ts", truth("dead3")["windows"][-1]["end_ts"] + (1 << 40), "--resolve-locks")
    done = back_up(cluster, file, tmp_path / "repository", *options)
    assert done.code == 0, done.stderr
    local = bkctl(
        *("backup", *(word for each in (2, 0, 1) for word in ("--db", stores[each]))),
        *("--region-map", "store", "--storage", tmp_path / "local", "--json"),
        *("--progress", "none", *options),
    )
    assert figures(done.report) == figures(local.document)
    ours, theirs = done.report["decided_locks"], local.document["decided_locks"]
    assert sorted(ours, key=str) == sorted(theirs, key=str)
    assert len(ours) > 1
    assert any(lock.get("presumed") for lock in ours)
    unresolved = back_up(cluster, file, tmp_path / "again", *options[:2])
    assert unresolved.code == 4, unresolved.stderr


def test_an_encrypted_store_by_a_key_of_its_machine(
    cluster: DaskCluster, workers: Callable[..., list[Worker]], tmp_path: Path
) -> None:
    (store,) = unpack("encrypted", tmp_path)
    key = require_real("encrypted") / "master.key"
    workers("store-1=2")
    file = tmp_path / "cluster.toml"
    file.write_text(f'[[store]]\nid = 1\npath = "{store}"\nmaster-key = "{key}"\n')
    asked = next(w for w in truth("encrypted")["windows"] if w["name"] == "full2")
    done = back_up(cluster, file, tmp_path / "repository", *window_options(asked))
    assert done.code == 0, done.stderr
    assert figures(done.report) == figures(asked)


# What has stopped is lost once it was silent for a time, so that test takes one.
LOSSES = ["killed", *(["stopped"] if os.environ.get("BKCTL_DASK_LOSSES") == "all" else [])]


@pytest.mark.parametrize("how", LOSSES)
def test_another_worker_finishes_what_a_lost_one_had(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
    how: str,
) -> None:
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    repository = tmp_path / "repository"
    lost = all_three(workers)[0]
    began = begin_slowly(cluster, file, repository, *window_options(window("full2")))
    agents = agents_of(lost)
    assert agents
    lost.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    workers("store-2=2")
    done = finished(began)
    assert done.code == 0, done.stderr
    assert figures(done.report) == figures(window("full2"))
    with open_storage(parse_storage(str(repository))) as storage:
        folder = BackupDir(storage, done.report["name"])
        named = {file.name for file in folder.read_meta().files}
        there = {info.name.partition("/")[2] for info in folder.list_files()}
    assert {name for name in there if name.endswith(".sst")} == named or how == "stopped"
    end(lost.process)
    await_that(lambda: all(map(is_gone, agents)))
    await_that(lambda: cluster.private_folders == [])


def taken(
    cluster: DaskCluster, file: Path, repository: Path, listener: Quiet, grace: float
) -> Report:
    """A backup from this process, slow enough to be met by a loss."""
    stores = read_cluster(file)
    first, *others = (SourceOptions(store.path) for store in stores)
    asked = BackupRequest(
        source=first,
        others=tuple(others),
        load_regions=lambda source: load_region_map("store", source),
        chooses=True,
        storage=parse_storage(str(repository)),
        start_ts=0,
        end_ts=int(str(window("full2")["end_ts"])),
        rate_limit=100 << 10,
    )
    with Scheduler(cluster.executor.replace("dask", "tcp")) as scheduler:
        return take_backup(asked, listener, executor=DaskExecutor(scheduler, stores, grace=grace))


def test_ranges_that_nobody_is_left_to_read_fail(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    lost = all_three(workers)[0]

    def lose(event: str) -> None:
        if event == "range_started":
            lost.process.kill()

    listener = Quiet(lose)
    report = taken(cluster, file, tmp_path / "repository", listener, grace=3)
    assert report.status == "partial"
    messages = {error.message for error in report.errors}
    assert len(messages) == 1
    (message,) = messages
    assert "store 2: the Dask worker that read it was lost" in message
    assert "--resources store-2=2" in message
    assert {error.kind for error in report.errors} == {"other"}
    assert not list(tmp_path.rglob("backupmeta"))


def test_a_store_that_no_worker_has_is_named(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    workers("store-2=2", "store-1=2")
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    with pytest.raises(UsageError, match=r"store 3: no Dask worker .* --resources store-3=2"):
        taken(cluster, file, tmp_path / "repository", Quiet(), grace=1)


def test_ctrl_c_ends_agents_and_publishes_nothing(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    repository = tmp_path / "repository"
    began_workers = all_three(workers)
    began = begin_slowly(cluster, file, repository, *window_options(window("full2")))
    agents = [pid for worker in began_workers for pid in agents_of(worker)]
    assert len(agents) > 3
    began.send_signal(signal.SIGINT)
    done = finished(began)
    assert done.code == 130, done.stderr
    assert cluster.private_folders == []
    assert all(map(is_gone, agents))
    assert not list(repository.rglob("backupmeta"))
    options = window_options(window("full2"))
    again = back_up(cluster, file, repository, "--resume", *options)
    assert figures(again.report) == figures(window("full2"))


def test_agents_end_with_a_coordinator_that_is_killed(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    repository = tmp_path / "repository"
    began_workers = all_three(workers)
    began = begin_slowly(cluster, file, repository, *window_options(window("full2")))
    agents = [pid for worker in began_workers for pid in agents_of(worker)]
    began.kill()
    began.wait()
    await_that(lambda: all(map(is_gone, agents)))
    await_that(lambda: cluster.private_folders == [])
    assert not list(repository.rglob("backupmeta"))


def test_another_version_is_refused(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import bkctl; bkctl.__version__ = '0.0.9'")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    workers("store-2=2", PYTHONPATH=path)
    file = write_cluster_file(tmp_path / "cluster.toml", stores[:1])
    done = back_up(cluster, file, tmp_path / "repository")
    assert done.code == 2
    assert "runs bkctl 0.0.9" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_store_in_its_place_is_refused(
    cluster: DaskCluster,
    workers: Callable[..., list[Worker]],
    stores: list[Path],
    tmp_path: Path,
) -> None:
    workers("store-9=1")
    file = tmp_path / "cluster.toml"
    file.write_text(f'[stores]\n9 = "{stores[0]}"\n')
    done = back_up(cluster, file, tmp_path / "repository")
    assert done.code == 2
    assert "is store 2; correct --cluster" in done.stderr
    assert cluster.private_folders == []


def tls_settings(folder: Path) -> dict[str, str]:
    """Dask's TLS by one certificate that signs itself, for everyone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    settings = {f"{tls}CA_FILE": str(folder / "cert.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        settings[f"{tls}{role}__CERT"] = str(folder / "cert.pem")
        settings[f"{tls}{role}__KEY"] = str(folder / "key.pem")
    return settings


def test_a_key_goes_to_workers_by_tls_and_shows_nowhere(stores: list[Path], tmp_path: Path) -> None:
    file = write_cluster_file(tmp_path / "cluster.toml", stores)
    secret = "5ec2e7" * 5 + "00"
    crypter = ("--crypter.method", "aes128-ctr", "--crypter.key", secret)
    with dask_cluster(tmp_path / "dask", tls=tls_settings(tmp_path)) as cluster:
        for store_id in STORE_IDS:
            cluster.start_worker(f"w{store_id}", f"store-{store_id}=2")
        options = (*window_options(window("full2")), *crypter)
        done = back_up(cluster, file, tmp_path / "repository", *options)
        assert done.code == 0, done.stderr
        assert figures(done.report) == figures(window("full2"))
        verified = cluster.run(
            *("verify", "--storage", tmp_path / "repository", "--level", "deep", *crypter)
        )
        assert verified.code == 0, verified.stderr
        logs = [path.read_text() for path in cluster.folder.glob("*.log")]
    assert len(logs) == 4
    for text in (*logs, done.stdout, done.stderr):
        assert secret not in text.lower()
        assert bytes.fromhex(secret).decode("latin-1") not in text


def test_a_path_that_is_no_store_is_told_with_its_machine(
    cluster: DaskCluster, workers: Callable[..., list[Worker]], tmp_path: Path
) -> None:
    workers("store-9=1")
    file = tmp_path / "cluster.toml"
    file.write_text(f'[stores]\n9 = "{tmp_path / "none"}"\n')
    done = back_up(cluster, file, tmp_path / "repository")
    assert done.code == 2
    assert "store 9 on " in done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--executor", "dask://nobody"), "is neither local nor dask://HOST:PORT"),
        (("--executor", "dask://h:1"), "--cluster is missing"),
        (("--cluster", "{file}"), "--cluster is for --executor dask://"),
        (("--executor", "dask://h:1", "--cluster", "{file}", "--db", "x"), "--db cannot go with"),
        (("--executor", "dask://h:1", "--cluster", "{file}", "--jobs", 2), "--jobs cannot go"),
        (
            (
                *("--executor", "dask://h:1", "--cluster", "{file}"),
                *("--crypter.method", "aes128-ctr", "--crypter.key", "00" * 16),
            ),
            "would go to the Dask workers in clear",
        ),
        (
            (
                *("--executor", "dask://h:1", "--cluster", "{file}"),
                *("--storage", "s3://bucket/p?access-key=a&secret-access-key=hidden"),
            ),
            "would go to the Dask workers in clear",
        ),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, options: tuple[object, ...], text: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[stores]\n1 = "/data"\n')
    given = [str(option).format(file=file) for option in options]
    done = bkctl(
        *("backup", "--region-map", "store", "--storage", tmp_path / "r", *given),
    )
    assert done.code == 2
    assert text in done.stderr
    assert "hidden" not in done.stderr


def test_without_dask_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    file = tmp_path / "cluster.toml"
    file.write_text('[stores]\n1 = "/data"\n')
    done = bkctl(
        *("backup", "--region-map", "store", "--storage", tmp_path / "r"),
        *("--executor", "dask://127.0.0.1:1", "--cluster", file),
    )
    assert done.code == 2
    assert "pip install 'bkctl[dask]'" in done.stderr


def test_what_is_no_scheduler_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr("bkctl.executor.scheduler._CONNECT_SECONDS", 1.0)
    file = tmp_path / "cluster.toml"
    file.write_text('[stores]\n1 = "/data"\n')
    for says in (b"", b"\xff" * 4096, b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            accepted: list[socket.socket] = []

            def answer(
                server: socket.socket = server,
                accepted: list[socket.socket] = accepted,
                says: bytes = says,
            ) -> None:
                accepted.append(server.accept()[0])
                accepted[-1].sendall(says)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            done = bkctl(
                *("backup", "--region-map", "store", "--storage", tmp_path / "r"),
                *("--executor", f"dask://127.0.0.1:{port}", "--cluster", file),
            )
            thread.join()
            for each in accepted:
                each.close()
        assert done.code == 2
        assert f"Dask scheduler tcp://127.0.0.1:{port}: cannot connect" in done.stderr
        assert len(done.stderr.splitlines()) == 1
