import pytest

from bkctl.codec.memcomparable import encode
from bkctl.regions.plan import make_plan
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap
from bkctl.ui.output import UNLIMITED_WIDTH, Page
from bkctl.ui.tables import KeyRange, MapProblem, print_plan, print_problems

HERE, THERE = Peer(1, 1), Peer(2, 4)


def region(region_id: int, start: bytes, end: bytes, leader: Peer = HERE) -> Region:
    return Region(
        region_id,
        encode(start) if start else b"",
        encode(end) if end else b"",
        RegionEpoch(1, 7),
        (HERE, THERE),
        leader,
        approximate_size=96,
        approximate_keys=1000 * region_id,
    )


def shown(
    capsys: pytest.CaptureFixture[str], *regions: Region, width: int = UNLIMITED_WIDTH
) -> list[str]:
    plan = make_plan(1, b"", b"", RegionMap.build(regions), is_raw=False)
    print_plan(Page(width, is_styled=False), plan, is_raw=False)
    return capsys.readouterr().out.splitlines()


def test_ranges_show_readable_keys_above_hexadecimal_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = shown(capsys, region(2, b"", b"k\x00"), region(3, b"k\x00", b""))
    assert lines[0].split() == ["region", "epoch", "start", "key", "end", "key", "size", "keys"]
    assert lines[1].split() == ["2", "7", "(start)", "k\\x00", "96.0", "MiB", "2,000"]
    assert lines[2].split() == ["6B00"]
    assert lines[3].split() == ["3", "7", "k\\x00", "(end)", "96.0", "MiB", "3,000"]
    assert lines[4].split() == ["6B00"]
    assert lines[5] == "total: 2 ranges, about 192.0 MiB, about 5,000 keys"
    assert len(lines) == 6


def test_keys_are_shortened_only_where_the_page_is_narrow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long_key = b"k" * 200
    wide = "\n".join(shown(capsys, region(2, b"", long_key), region(3, long_key, b"")))
    assert long_key.decode() in wide
    assert long_key.hex().upper() in wide
    narrow = shown(capsys, region(2, b"", long_key), region(3, long_key, b""), width=80)
    assert all(len(line) <= 80 for line in narrow)
    assert "…" in narrow[1]


def test_skipped_regions_are_grouped_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    regions = [
        region(number + 1, bytes([number]), bytes([number + 1]), THERE) for number in range(1, 15)
    ]
    lines = shown(capsys, region(1, b"", b"\x01"), *regions)
    assert "skipped: 14 regions" in lines
    assert "  leader is on store 4: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 4 more" in lines


def test_a_long_plan_is_aligned_in_portions_and_has_one_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bkctl.ui.tables._PORTION", 3)
    keys = [b"", *(b"k" * min(n, 4) + b"%02d" % n for n in range(1, 10)), b""]
    lines = shown(capsys, *(region(n + 1, keys[n], keys[n + 1]) for n in range(10)))
    assert len(lines) == 1 + 2 * 10 + 1
    assert [line.split()[0] for line in lines[1:21:2]] == [str(n + 1) for n in range(10)]
    assert sum("start key" in line for line in lines) == 1
    sizes = [line.index(" MiB") for line in lines[1:21:2]]
    assert sizes == sorted(sizes)
    assert sizes[0] == sizes[2]
    assert sizes[3] == sizes[8] > sizes[2]


def test_gaps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, region(1, b"a", b"b"), region(2, b"c", b""))
    assert lines[-3:] == [
        "gaps: 2 ranges of keys that no region covers",
        "  (start) to a",
        "  b to c",
    ]


def test_many_gaps_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    regions = [
        region(number, b"%03d" % (2 * number), b"%03d" % (2 * number + 1))
        for number in range(1, 21)
    ]
    assert shown(capsys, *regions)[-1] == "  and 11 more gaps (see --json)"


def test_a_plan_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, region(1, b"", b"", THERE))
    assert lines[0] == "total: 0 ranges"


def test_unknown_figures_make_totals_lower_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    known = region(1, b"", b"a")
    unknown = Region(2, encode(b"a"), b"", RegionEpoch(1, 1), (HERE,), HERE)
    assert shown(capsys, known, unknown)[-1] == "total: 2 ranges, over 96.0 MiB, over 1,000 keys"


def test_problems_show_their_keys_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        MapProblem("overlap", 5, KeyRange(encode(b"a"), encode(b"b")), "overlapped by region 6"),
        MapProblem("gap", None, KeyRange(b"not encoded", b""), "no region covers these keys"),
    ]
    print_problems(Page(UNLIMITED_WIDTH, is_styled=False), problems, is_raw=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["overlap", "5", "a", "b"]
    assert lines[3] == "  overlapped by region 6"
    assert lines[4].split() == ["gap", "not", "encoded", "(end)"]
    print_problems(Page(80, is_styled=False), [], is_raw=False)
    assert capsys.readouterr().out == ""
