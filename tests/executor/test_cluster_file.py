"""The file of --cluster: what it says, and what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.errors import UsageError
from bkctl.executor.cluster_file import read_cluster
from bkctl.store.source import SourceOptions

GOOD = """
[stores]
4 = "/data/tikv-4"
5 = {path = "/data/tikv-5", raft-dir = "/log/5", wal-dir = "/wal/5", master-key = "/key"}

[[store]]
id = 4
worker = "spare-*"
path = "/mnt/copy-of-4"
[[store]]
id = 6
worker = "node-6"
path = "/data/6"
work-dir = "/scratch"
"""


def test_each_worker_has_paths_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(GOOD)
    stores = {store.id: store for store in read_cluster(tmp_path / "c.toml")}
    assert list(stores) == [4, 5, 6]
    usual = SourceOptions(Path("x"), work_dir=Path("/tmp"))
    at = stores[4].options_on(usual, "tcp://10.0.0.1:1", "node-1")
    assert at == SourceOptions(Path("/data/tikv-4"), work_dir=Path("/tmp"))
    spare = stores[4].options_on(usual, "spare-2", "node-1")
    assert spare is not None
    assert spare.path == Path("/mnt/copy-of-4")
    five = stores[5].options_on(usual, "any")
    assert five is not None
    found = five.path, five.raft_dir, five.wal_dir, five.master_key
    assert found == tuple(map(Path, ("/data/tikv-5", "/log/5", "/wal/5", "/key")))
    assert stores[6].options_on(usual, "node-5") is None
    six = stores[6].options_on(usual, "node-6")
    assert six is not None
    assert six.work_dir == Path("/scratch")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no store"),
        ("[stores]\n", "names no store"),
        ("nonsense", "no TOML"),
        ("a." * 50_000 + "b = 1", "more than 64 dots"),
        ("a = " + "[" * 50_000, "no TOML"),
        ("a = " + "9" * 50_000, "no TOML"),
        ("[store]\nid = 1\n", "'store' is not known"),
        ("[other]\n", "'other' is not known"),
        ("store = [1]\n", "store 1 is no table"),
        ('[stores]\nx = "/a"\n', "'x' is no store's id"),
        ('[stores]\n0 = "/a"\n', "'0' is no store's id"),
        (f'[stores]\n{"9" * 5000} = "/a"\n', "is no store's id"),
        ("[stores]\n1 = 2\n", "neither a path nor a table"),
        ('[stores]\n1 = "a"\n', "does not begin with /"),
        ('[stores]\n1 = {paths = "/a"}\n', "'paths' is not known"),
        ("[stores]\n1 = {path = 3}\n", "path is no text"),
        ('[stores]\n1 = {wal-dir = "/a"}\n', "lacks path"),
        ('[[store]]\npath = "/a"\n', "'None' is no store's id"),
        ('[[store]]\nid = true\npath = "/a"\n', "'True' is no store's id"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_cluster(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def test_what_is_no_small_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(UsageError, match="cannot read"):
        read_cluster(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_cluster(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="cannot read"):
        read_cluster(path)
