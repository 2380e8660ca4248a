"""A backup's description: whatever in it, beside it or missing from it is wrong is found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bkctl import __version__
from bkctl.archive.backup_dir import BackupDir
from bkctl.archive.meta import BackupMeta, RawRange, decode_meta, encode_meta
from bkctl.errors import UsageError
from bkctl.verify.backup import check_description
from examples.make_store import MID_TS
from tests.archive.made_backups import MadeBackup, check_all, existing, put
from tests.backup.helpers import backup
from tests.conftest import SampleStore
from tests.oracles import require_shared

END = 1 << 62


def told(backup_dir: BackupDir) -> list[str]:
    return [str(finding) for finding in check_description(backup_dir).findings]


@pytest.fixture
def made(tmp_path: Path) -> MadeBackup:
    return MadeBackup(tmp_path)


@pytest.fixture
def taken(sample_store: SampleStore, tmp_path: Path) -> Path:
    """The folder of a backup `b` that was taken of the sample store."""
    backup(sample_store.path, tmp_path / "repo", end_ts=END, name="b")
    return tmp_path / "repo" / "b"


def of(folder: Path) -> BackupDir:
    return existing(folder.parent, folder.name)


def change_meta(folder: Path, change: Callable[[BackupMeta], BackupMeta]) -> None:
    path = folder / "backupmeta"
    path.write_bytes(encode_meta(change(decode_meta(path.read_bytes(), "x"))))


def forget_hash(folder: Path) -> None:
    """Leave the report as runs wrote it that recorded no hash of backupmeta."""
    report = json.loads((folder / "report.json").read_text())
    del report["backupmeta_sha256"]
    (folder / "report.json").write_text(json.dumps(report))


def test_a_backup_just_taken_has_nothing_wrong(taken: Path) -> None:
    description = check_description(of(taken))
    assert description.findings == ()
    assert description.meta is not None
    assert description.report is not None
    assert check_all(taken.parent, "b") == []


def test_a_backup_of_br_is_whole_without_report_and_lock() -> None:
    description = check_description(existing(require_shared(), "br-raw-v5.2.1"))
    assert description.findings == ()
    assert description.report is None


def test_what_is_no_backup_is_a_usage_error(made: MadeBackup) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check_description(existing(made.repository, "none"))
    made.add("write", [put(b"a", 10)])
    with pytest.raises(UsageError, match="unfinished"):
        check_description(made.backup_dir)


def test_missing_unknown_and_cut_files_are_each_named(taken: Path) -> None:
    names = sorted(path.name for path in taken.glob("*.sst"))
    (taken / names[0]).unlink()
    size = (taken / names[1]).stat().st_size
    (taken / names[1]).write_bytes((taken / names[1]).read_bytes()[:-1])
    (taken / "stray.sst").write_bytes(b"x")
    (taken / "checkpoint").mkdir()
    (taken / "checkpoint" / "left.json").write_bytes(b"{}")
    assert sorted(told(of(taken))) == sorted(
        [
            f"{names[0]}: is missing",
            f"{names[1]}: has {size - 1} bytes, backupmeta says {size}",
            "stray.sst: backupmeta does not know this file",
        ]
    )


def test_a_size_that_was_not_recorded_is_not_compared(made: MadeBackup) -> None:
    made.add("write", [put(b"a", 10)], size=0)
    made.publish()
    assert told(made.backup_dir) == []


def test_any_bit_flipped_in_backupmeta_is_found(taken: Path) -> None:
    path = taken / "backupmeta"
    content = path.read_bytes()
    rng = random.Random(5)
    for _ in range(1000):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert any(text.startswith("backupmeta: ") for text in told(of(taken)))
    path.write_bytes(content)
    assert told(of(taken)) == []


def test_without_its_hash_backupmeta_is_compared_with_files_and_report(taken: Path) -> None:
    forget_hash(taken)
    path = taken / "backupmeta"
    content = path.read_bytes()
    # Free text and its tag: nothing else tells what it was.
    text = f"bkctl {__version__}".encode()
    start = content.index(text)
    unseen = range(start - 2, start + len(text))
    rng = random.Random(6)
    for _ in range(300):
        damaged = bytearray(content)
        position = rng.randrange(len(content))
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if not check_all(taken.parent, "b"):
            assert position in unseen


def test_bytes_that_mean_nothing_are_found_without_a_report(taken: Path) -> None:
    (taken / "report.json").unlink()
    assert told(of(taken)) == []
    with (taken / "backupmeta").open("ab") as file:
        file.write(b"\xf8\x3f\x01")  # a field that nobody knows
    assert told(of(taken)) == ["backupmeta: holds bytes that bkctl would not have written"]


def test_a_backupmeta_that_cannot_be_read_is_damage(taken: Path) -> None:
    (taken / "backupmeta").write_bytes(b"\xff" * 20)
    [text] = told(of(taken))
    assert text.startswith("backupmeta: no readable protobuf (20 bytes)")


def test_a_report_that_cannot_be_read_is_damage(taken: Path) -> None:
    (taken / "report.json").write_bytes(b"{")
    assert told(of(taken)) == ["report.json: no readable JSON; the report is damaged"]


def test_figures_that_the_report_contradicts_are_all_told(taken: Path) -> None:
    forget_hash(taken)
    change_meta(
        taken, lambda meta: replace(meta, cluster_id=9, end_version=END + 1, files=meta.files[1:])
    )
    findings = told(of(taken))
    for name in ("cluster_id", "end_ts", "files", "total_kvs", "total_bytes", "crc64xor", "size"):
        assert any(text.startswith(f"backupmeta: {name} is ") for text in findings), name
    assert any("backupmeta does not know this file" in text for text in findings)


def test_a_report_of_a_run_that_failed_contradicts_a_backup(taken: Path) -> None:
    report = json.loads((taken / "report.json").read_text())
    (taken / "report.json").write_text(json.dumps(report | {"status": "partial"}))
    assert told(of(taken)) == ["backupmeta: status is ok by backupmeta, partial by report.json"]


@pytest.mark.parametrize(
    ("ranges", "overlapping"),
    [
        ([(b"", b"b"), (b"b", b"c"), (b"d", b"")], []),
        ([(b"", b"c"), (b"b", b"d"), (b"d", b"")], [1]),
        ([(b"", b""), (b"b", b"c"), (b"d", b"")], [1, 2]),
        ([(b"a", b"z"), (b"b", b"c"), (b"d", b"e")], [1, 2]),
        ([(b"a", b"b"), (b"a", b"b")], [1]),
    ],
)
def test_files_of_one_family_do_not_overlap(
    ranges: list[tuple[bytes, bytes]], overlapping: list[int], made: MadeBackup
) -> None:
    for start_key, end_key in ranges:
        made.add("write", [put(start_key + b"k", 10)], start_key=start_key, end_key=end_key)
    made.publish()
    findings = [text for text in told(made.backup_dir) if "overlaps" in text]
    assert [text.split(":")[0] for text in findings] == [made.files[i].name for i in overlapping]


def test_files_keep_to_the_backups_window_and_ranges(tmp_path: Path) -> None:
    made = MadeBackup(tmp_path, start_version=10)
    made.add("write", [put(b"a", 20)], start_version=9, end_key=b"b")
    made.add("write", [put(b"c", 20)], start_key=b"c", end_key=b"b")
    made.publish()
    assert told(made.backup_dir) == [
        f"{made.files[0].name}: holds the versions (9, 100], the backup those of (10, 100]",
        f"{made.files[1].name}: its range ends before it begins",
    ]


def test_raw_files_lie_in_the_backups_ranges(tmp_path: Path) -> None:
    ranges = (RawRange(b"a", b"c", "default"),)
    made = MadeBackup(tmp_path, is_raw_kv=True, raw_ranges=ranges)
    made.add("default", [(b"za", b"v")], start_key=b"a", end_key=b"b")
    made.add("default", [(b"zb", b"v")], start_key=b"b")
    made.publish()
    assert told(made.backup_dir) == [
        f"{made.files[1].name}: its range lies outside those of the backup"
    ]


def test_swapped_files_are_both_named(taken: Path) -> None:
    first, second = sorted(taken.glob("*_write.sst"))[:2]
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    by_hash = check_all(taken.parent, "b", deep=False)
    assert {finding.file for finding in by_hash} == {first.name, second.name}
    # Long values are now referred to from another file: they are told too.
    deep = check_all(taken.parent, "b")
    for name in (first.name, second.name):
        outside = [f for f in deep if f.file == name and "outside its file's range" in f.what]
        assert outside


def test_a_file_of_another_backup_under_the_right_name_is_found(
    sample_store: SampleStore, taken: Path
) -> None:
    backup(sample_store.path, taken.parent, end_ts=MID_TS, name="other")
    ours = max(taken.glob("*_write.sst"), key=lambda path: path.stat().st_size)
    region = ours.name.split("_")[1]
    [theirs] = (taken.parent / "other").glob(f"*_{region}_*_write.sst")
    ours.write_bytes(theirs.read_bytes())
    for deep in (False, True):
        assert ours.name in {finding.file for finding in check_all(taken.parent, "b", deep=deep)}
