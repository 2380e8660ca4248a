import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.errors import RegionMapError
from bkctl.regions import pd
from bkctl.regions.pd_fast import FastReader, Unusual
from bkctl.regions.plan import make_plan
from bkctl.regions.region import Peer, Region, RegionEpoch
from bkctl.regions.region_map import RegionMap
from tests.regions.maps import REGION_LISTS

STORES = Path(__file__).parents[3] / "shared" / "stores"

FULL = {
    "id": 2,
    "start_key": "74",
    "end_key": "7480aB",
    "epoch": {"conf_ver": 5, "version": 10},
    "peers": [
        {"id": 3, "store_id": 1, "role_name": "Voter"},
        {"id": 4, "store_id": 4, "role": 1, "role_name": "Learner", "is_learner": True},
        {"id": 5, "store_id": 5, "is_witness": True},
    ],
    "leader": {"id": 3, "store_id": 1, "role_name": "Voter"},
    "written_bytes": 0,
    "approximate_size": 96,
    "approximate_keys": 12500,
}
MINIMAL = {"id": 2, "start_key": "", "end_key": "", "epoch": {"conf_ver": 5, "version": 10}}


def parse_one(**changes: object) -> Region:
    (region,) = pd.parse(json.dumps({"count": 1, "regions": [{**MINIMAL, **changes}]}), "map.json")
    return region


def test_a_region_is_read_with_all_its_fields() -> None:
    (region,) = pd.parse(json.dumps({"count": 1, "regions": [FULL]}), "map.json")
    assert region == Region(
        2,
        b"\x74",
        b"\x74\x80\xab",
        RegionEpoch(5, 10),
        (Peer(3, 1), Peer(4, 4, "Learner"), Peer(5, 5, "Voter", True)),
        Peer(3, 1),
        96,
        12500,
    )


def test_optional_fields_may_be_missing_or_null() -> None:
    bare = Region(2, b"", b"", RegionEpoch(5, 10))
    assert parse_one() == bare
    assert parse_one(peers=None, leader=None, approximate_size=None, approximate_keys=None) == bare


@pytest.mark.parametrize("leader", [{}, {"role_name": "Voter"}, {"id": 0, "store_id": 0}])
def test_a_leader_without_ids_is_an_unknown_one(leader: object) -> None:
    assert parse_one(leader=leader).leader is None


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({}, "Voter"),
        ({"role": 0}, "Voter"),
        ({"role": 1}, "Learner"),
        ({"role": "Learner"}, "Learner"),
        ({"role": 2}, "IncomingVoter"),
        ({"role_name": "DemotingVoter"}, "DemotingVoter"),
        ({"is_learner": True}, "Learner"),
    ],
)
def test_a_role_may_be_a_name_a_number_or_missing(fields: dict[str, object], role: str) -> None:
    (peer,) = parse_one(peers=[{"id": 3, "store_id": 1, **fields}]).peers
    assert peer.role == role


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"count": 1, "regions": [MINIMAL]}),
        json.dumps([MINIMAL]),
        "\ufeff" + json.dumps([MINIMAL]),
        json.dumps([MINIMAL]).encode("utf-8-sig"),
        json.dumps([MINIMAL], indent=2).encode("utf-16"),
    ],
)
def test_a_bare_list_and_a_byte_order_mark_are_taken(text: str | bytes) -> None:
    assert [region.id for region in pd.parse(text, "map.json")] == [2]


def test_duplicates_and_order_are_left_to_the_region_map() -> None:
    older = {**MINIMAL, "epoch": {"conf_ver": 1, "version": 1}}
    assert len(pd.parse(json.dumps([MINIMAL, older]), "map.json")) == 2


@given(REGION_LISTS)
def test_what_is_dumped_parses_to_the_same(regions: list[Region]) -> None:
    text = pd.dump(regions)
    assert pd.parse(text, "dump") == regions
    assert json.loads(text)["count"] == len(regions)


def test_dumped_keys_are_upper_case_hex() -> None:
    text = pd.dump([Region(2, b"\xab", b"\xcd", RegionEpoch(1, 1), (Peer(3, 1, "Learner", True),))])
    assert '"start_key":"AB","end_key":"CD"' in text
    assert pd.parse(text, "dump")[0].peers == (Peer(3, 1, "Learner", True),)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": None}, "index 0: id"),
        ({"id": "2"}, "index 0: id"),
        ({"id": True}, "index 0: id"),
        ({"id": -1}, "index 0: id"),
        ({"id": 0}, "index 0: id"),
        ({"id": 2.0}, "index 0: id"),
        ({"id": 1 << 64}, "index 0: id"),
        ({"start_key": None}, "region 2: start_key"),
        ({"start_key": 7}, "region 2: start_key"),
        ({"start_key": "748"}, "region 2: start_key"),
        ({"end_key": "zz"}, "region 2: end_key"),
        ({"end_key": "74 80"}, "region 2: end_key"),
        ({"end_key": "\ud800"}, "region 2: end_key"),
        ({"start_key": "75", "end_key": "74"}, "region 2: end_key"),
        ({"start_key": "75", "end_key": "75"}, "region 2: end_key"),
        ({"epoch": None}, "region 2: epoch"),
        ({"epoch": []}, "region 2: epoch"),
        ({"epoch": {"conf_ver": 1}}, r"region 2: epoch\.version"),
        ({"epoch": {"version": 1}}, r"region 2: epoch\.conf_ver"),
        ({"epoch": {"conf_ver": 1, "version": "1"}}, r"region 2: epoch\.version"),
        ({"peers": {}}, "region 2: peers"),
        ({"peers": [3]}, r"region 2: peers\[0\]"),
        ({"peers": [{"id": 3}]}, r"region 2: peers\[0\]\.store_id"),
        ({"peers": [{"store_id": 3}]}, r"region 2: peers\[0\]\.id"),
        ({"peers": [{"id": 3, "store_id": 1, "role": 4}]}, r"region 2: peers\[0\]\.role"),
        ({"peers": [{"id": 3, "store_id": 1, "role": True}]}, r"region 2: peers\[0\]\.role"),
        ({"peers": [{"id": 3, "store_id": 1, "role_name": "X"}]}, r"peers\[0\]\.role_name"),
        ({"peers": [{"id": 3, "store_id": 1, "is_witness": 1}]}, r"peers\[0\]\.is_witness"),
        ({"leader": 3}, "region 2: leader"),
        ({"leader": {"id": 3}}, r"region 2: leader\.store_id"),
        ({"approximate_size": "96"}, "region 2: approximate_size"),
        ({"approximate_keys": -1}, "region 2: approximate_keys"),
    ],
)
def test_a_bad_field_is_named_with_its_region(changes: dict[str, object], field: str) -> None:
    with pytest.raises(RegionMapError, match=rf"^map\.json: .*{field}") as caught:
        parse_one(**changes)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", ["id", "start_key", "end_key", "epoch"])
def test_a_field_that_must_be_there_is_missed(field: str) -> None:
    entry = {name: value for name, value in MINIMAL.items() if name != field}
    with pytest.raises(RegionMapError, match=f"{field}: is missing"):
        pd.parse(json.dumps([entry]), "map.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "regions",
        "{}",
        "null",
        "7",
        '"text"',
        '{"regions": null}',
        '{"regions": {}}',
        "[null]",
        "[[]]",
        '{"regions": [{"id": 2}',
        '[{"id": NaN}]',
        '[{"id": Infinity}]',
        '[{"id": 1e999}]',
        '[{"id": ' + "9" * 10_000 + "}]",
        "[" * 200_000,
        '{"regions":' * 200_000,
        b"\xff\xfe\xfd",
        b"\x80\x81\x82\x83",
        b"\x00",
        b"\x00" * 64,
    ],
)
def test_what_is_no_region_map_is_one_line_of_error(text: str | bytes) -> None:
    with pytest.raises(RegionMapError) as caught:
        pd.parse(text, "map.json")
    message = str(caught.value)
    assert message.startswith("map.json: ")
    assert message.isprintable()
    assert len(message) < 300


def complaint(document: object) -> str:
    """The error that a document meets, empty for none."""
    try:
        pd.parse(json.dumps(document), "map.json")
    except RegionMapError as e:
        return str(e)
    return ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.text(max_size=3) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*FULL, "regions", "store_id", "role", "role_name", "version", "conf_ver"]
            ),
            inner,
        )
    ),
    max_leaves=25,
)


@given(_JSON | st.fixed_dictionaries({"regions": st.lists(_JSON, max_size=2)}))
def test_no_json_gives_anything_but_regions_or_an_error(document: object) -> None:
    assert complaint(document).isprintable()


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FULL, _JSON)))
def test_no_change_of_fields_gives_anything_but_regions_or_an_error(
    changes: dict[str, object],
) -> None:
    assert complaint([{**FULL, **changes}]).isprintable()


_PEER = st.fixed_dictionaries(
    {"id": st.sampled_from([3, 0, True, 1 << 64]), "store_id": st.sampled_from([1, "1", 2.0])},
    optional={
        "role_name": st.sampled_from(["Voter", "Learner", "X", 1, True, None, []]),
        "role": st.sampled_from([0, 3, 4, -1, True, "Learner", None]),
        "is_witness": st.sampled_from([True, False, None, 1]),
        "is_learner": st.sampled_from([True, False, None, 1]),
    },
)
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(FULL, _JSON),
        "peers": st.lists(_PEER, max_size=3),
        "leader": _PEER | st.none(),
        "epoch": st.fixed_dictionaries(
            {"conf_ver": st.sampled_from([1, 1 << 64, True]), "version": st.sampled_from([2, 2.0])}
        ),
    },
)


def read_fast(*entries: object) -> list[Region] | None:
    try:
        return FastReader().read(json.dumps(entries))
    except Unusual:
        return None


@given(_CHANGES)
def test_the_fast_reader_knows_what_the_careful_one_says_or_leaves_it_to_that(
    changes: dict[str, object],
) -> None:
    entry = json.loads(json.dumps({**FULL, **changes}))
    regions = read_fast(entry)
    if regions is not None:
        assert regions == [pd._region(entry, 0, "map.json")]


@pytest.mark.parametrize("peer", [{"role_name": "Voter"}, {"role": 0}, {}])
def test_regions_as_pds_print_them_are_read_fast(peer: dict[str, object]) -> None:
    peers = [{"id": number, "store_id": number, **peer} for number in (3, 4, 5)]
    for leader in (peers[0], {"role_name": "Voter"}, {}, None):
        assert read_fast({**FULL, "peers": peers, "leader": leader}) is not None


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_nearly_all_regions_of_a_map_are_read_fast(
    monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    slow = 0
    careful = pd._region

    def counted(entry: object, index: int, source: str) -> Region:
        nonlocal slow
        slow += 1
        return careful(entry, index, source)

    monkeypatch.setattr(pd, "_region", counted)
    entries = [{**FULL, "id": number} for number in range(1, 5001)]
    regions = pd.parse(json.dumps({"regions": entries}, indent=indent), "map.json")
    assert [region.id for region in regions] == list(range(1, 5001))
    assert slow <= 50


@pytest.mark.parametrize("at", [0, 1, 777, 1999])
def test_a_bad_region_among_many_is_named_by_its_place(at: int) -> None:
    entries = [{**FULL, "id": number} for number in range(1, 2001)]
    entries[at] = {**FULL, "id": 0}
    with pytest.raises(RegionMapError, match=f"region at index {at}: id: 0 is no integer"):
        pd.parse(json.dumps(entries), "map.json")


def test_what_looks_like_the_next_region_in_a_text_is_none() -> None:
    trap = '}, {"start_key": "AA"}, {"start_key": "BB", "id": 7'
    entries = [{**FULL, "id": number, "note": trap} for number in range(1, 2001)]
    for entry in entries:
        entry["more"] = [{"start_key": "AB"}, {"start_key": "AC"}]
    regions = pd.parse(json.dumps(entries), "map.json")
    assert [region.id for region in regions] == list(range(1, 2001))


def in_pieces(text: str, size: int) -> list[Region]:
    data = text.encode()
    return pd._read((data[at : at + size] for at in range(0, len(data), size)), "map.json")


@given(REGION_LISTS, st.integers(1, 40), st.booleans())
def test_regions_may_come_in_any_pieces(regions: list[Region], size: int, spaced: bool) -> None:
    text = pd.dump(regions)
    if spaced:
        text = json.dumps({"é": [{}, "regions"], **json.loads(text), "z": 1.5}, indent=1)
    assert in_pieces(text, size) == regions


@given(st.text('{}[]":,\\ \n1e-taé"regions"', max_size=30), st.integers(1, 7))
def test_what_is_no_json_is_the_same_error_in_any_pieces(text: str, size: int) -> None:
    def complaint_in_pieces(size: int) -> str:
        try:
            in_pieces(text, size)
        except RegionMapError as e:
            return str(e)
        return ""

    assert complaint_in_pieces(size) == complaint_in_pieces(1 << 20)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"regions": [\n[2}', "line 2 column 3"),
        ('[{"id": 2,\n\n "x" 3}]', "line 3 column 6"),
        ("[]\n]", "line 2 column 1"),
        ('{"count" 1}', "line 1 column 10"),
        ('{"count": 1,}', "line 1 column 13"),
        ('{"regions": []', "line 1 column 15"),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_what_is_no_json_is_told_with_its_place(text: str, place: str, size: int) -> None:
    with pytest.raises(RegionMapError, match=rf"^map\.json: no JSON at {place} \("):
        in_pieces(text, size)


def test_a_value_without_end_is_not_kept_whole() -> None:
    pieces = (b'[{"id": "' if number == 0 else b"x" * (1 << 20) for number in range(1000))
    with pytest.raises(RegionMapError, match="a value in it is longer than 16 MiB"):
        pd._read(pieces, "map.json")


def test_a_large_map_is_read_without_its_text_in_memory() -> None:
    filler = " " * 100_000
    entry = json.dumps({**MINIMAL, "filler": filler}).encode()
    pieces = (
        b"[" * (number == 0) + entry + (b"]" if number == 499 else b",") for number in range(500)
    )
    tracemalloc.start()
    try:
        assert len(pd._read(pieces, "map.json")) == 500
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_region_takes_little_memory() -> None:
    count = 4000
    entries = [
        {
            **FULL,
            "id": 4 * number + 1,
            "start_key": f"{number:054X}",
            "end_key": f"{number + 1:054X}",
            "peers": [
                {"id": 4 * number + n, "store_id": n, "role_name": "Voter"} for n in (2, 3, 4)
            ],
        }
        for number in range(count)
    ]
    text = json.dumps(entries).encode()
    del entries
    pd._read([b"[]"], "map.json")
    tracemalloc.start()
    try:
        regions = pd._read((text[at : at + 4096] for at in range(0, len(text), 4096)), "map.json")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(regions) == count
    assert kept < 700 * count
    assert peak < kept + (4 << 20)


def test_a_file_is_loaded_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(pd.dump([Region(2, b"", b"", RegionEpoch(1, 1))]))
    assert [region.id for region in pd.load(path)] == [2]
    path.write_text("[{}]")
    with pytest.raises(RegionMapError, match=r"regions\.json: region at index 0: id: is missing"):
        pd.load(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path, Path("a\0b")):
        with pytest.raises(RegionMapError, match="cannot read region map"):
            pd.load(path)


@pytest.mark.parametrize("name", ["mvcc-short", "mvcc-long"])
def test_the_sample_stores_maps_plan_without_gaps(name: str) -> None:
    path = STORES / f"{name}.regions.json"
    if not path.exists():
        pytest.skip("the shared sample stores are not here")
    region_map = RegionMap.build(pd.load(path))
    plan = make_plan(1, b"", b"", region_map, False)
    assert len(plan.ranges) == json.loads(path.read_text())["count"]
    assert plan.skipped == ()
    assert plan.gaps == ()
    assert make_plan(4, b"", b"", region_map, False).ranges == ()
