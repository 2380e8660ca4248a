from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bkctl.errors import CorruptionError, UsageError
from bkctl.ui.metrics_file import check_metrics_file, read_samples, write_metrics

NO_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def test_the_file_is_replaced_in_one_step_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "bkctl.prom"
    path.write_text("old 1\n")
    path.chmod(0o600)
    before = path.stat().st_ino
    mask = os.umask(0o077)
    try:
        write_metrics(path, b"new 2\n")
    finally:
        os.umask(mask)
    assert path.read_text() == "new 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["bkctl.prom"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "bkctl.prom").symlink_to(real / "bkctl.prom")
    write_metrics(tmp_path / "bkctl.prom", b"a 1\n")
    assert (tmp_path / "bkctl.prom").is_symlink()
    assert os.listdir(real) == ["bkctl.prom"]


def test_checking_leaves_everything_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bkctl.prom"
    check_metrics_file(path)
    assert os.listdir(tmp_path) == []
    path.write_text("a 1\n")
    check_metrics_file(path)
    assert (os.listdir(tmp_path), path.read_text()) == (["bkctl.prom"], "a 1\n")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/bkctl.prom", "No such file or directory"),
        ("file/bkctl.prom", "Not a directory"),
        (".", "Is a directory"),
        ("pipe", "not a regular file"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(
    place: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=f"^--metrics-file .*: cannot be written \\({reason}\\)$"):
        check_metrics_file(tmp_path / place)
    with pytest.raises(OSError, match=reason):
        write_metrics(tmp_path / place, b"a 1\n")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        check_metrics_file(Path("/dev/null"))


@NO_ROOT
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        check_metrics_file(tmp_path / "bkctl.prom")


def test_a_missing_file_says_nothing(tmp_path: Path) -> None:
    assert read_samples(tmp_path / "none") == {}


def test_samples_are_read_by_name_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    path.write_text('# TYPE a counter\na_total{x="1",y="2"} 3\nb 4.5e+17\n')
    labels = frozenset({("x", "1"), ("y", "2")})
    assert read_samples(path) == {("a_total", labels): 3.0, ("b", frozenset()): 4.5e17}


@pytest.mark.parametrize(
    "data", [b"{", b"a", b"a b\n", b'a{x="1} 2\n', b"\xff\xfe 1\n", b"a NaN\n", b"a -1\n"]
)
def test_damage_is_one_clear_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"m\.prom: "):
        read_samples(path)


def test_a_file_of_any_size_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptionError, match="larger than any file"):
        read_samples(path)


WHOLE = b"""# HELP h x
# TYPE h histogram
h_bucket{le="1.0",t="a"} 1.0
h_count{t="a"} 1
# TYPE c counter
c_total 2
"""


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)), st.data())
@example(b"# HELP\n", None)
@example(b"# TYPE a\n", None)
def test_no_content_is_a_fault_of_the_program(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, data: st.DataObject | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.prom"
    at = 0 if data is None else data.draw(st.integers(0, len(WHOLE)))
    upto = 0 if data is None else data.draw(st.integers(at, len(WHOLE)))
    for content in (noise, WHOLE[:at] + noise + WHOLE[upto:]):
        path.write_bytes(content)
        try:
            read_samples(path)
        except CorruptionError:
            continue
