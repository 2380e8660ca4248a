from __future__ import annotations

from pathlib import Path

import pytest

from bkctl.regions.region import Peer, Region, RegionEpoch
from tests.commands.console import Outcome, bkctl, write_map


def region_on(store_id: int) -> Region:
    peer = Peer(1, store_id)
    return Region(store_id * 10, b"", b"", RegionEpoch(1, 1), (peer,), peer)


@pytest.fixture(autouse=True)
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with region maps whose only region has the number in their name."""
    for store_id in (1, 2, 3, 4):
        write_map(tmp_path / f"{store_id}0.json", region_on(store_id))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*arguments: str, **env: str) -> list[int]:
    outcome = bkctl(*arguments, "--json", env=env)
    assert outcome.code == 0, outcome.stderr
    return [entry["region_id"] for entry in outcome.document["ranges"]]


def refused(text: str, *arguments: str) -> str:
    Path("bkctl.toml").write_text(text)
    outcome = bkctl(*(arguments or ("ranges",)))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("bkctl: bkctl.toml: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def test_command_line_wins_over_variable_over_command_table_over_all() -> None:
    Path("bkctl.toml").write_text("region-map = '10.json'\n[regions]\ncheck = true\n")
    assert planned("ranges") == [10]
    Path("bkctl.toml").write_text("region-map = '10.json'\n[ranges]\nregion-map = '20.json'\n")
    assert planned("ranges") == [20]
    assert planned("ranges", BKCTL_REGION_MAP="30.json") == [30]
    assert planned("ranges", "--region-map", "40.json", BKCTL_REGION_MAP="30.json") == [40]


def test_keys_may_be_written_with_underscores() -> None:
    Path("bkctl.toml").write_text("region_map = '10.json'\n[ranges]\nstore_id = 1\n")
    assert planned("ranges") == [10]


def test_config_before_the_command_wins_over_the_working_directory(tmp_path: Path) -> None:
    Path("bkctl.toml").write_text("region-map = '10.json'\n")
    Path("a.toml").write_text("region-map = '20.json'\n")
    Path("b.toml").write_text("region-map = '30.json'\n")
    assert planned("--config", "a.toml", "ranges") == [20]
    assert planned("ranges", "--config", "b.toml") == [30]
    assert planned("--config", "a.toml", "ranges", "--config", "b.toml") == [30]
    assert planned("ranges", BKCTL_CONFIG="a.toml") == [20]
    assert planned("--config", "b.toml", "ranges", BKCTL_CONFIG="a.toml") == [30]


def test_the_users_own_file_counts_where_the_working_directory_has_none(tmp_path: Path) -> None:
    own = tmp_path / "home" / ".config" / "bkctl" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text("region-map = '20.json'\n")
    home = str(tmp_path / "home")
    assert planned("ranges", HOME=home, XDG_CONFIG_HOME="") == [20]
    assert planned("ranges", XDG_CONFIG_HOME=f"{home}/.config") == [20]
    Path("bkctl.toml").write_text("region-map = '10.json'\n")
    assert planned("ranges", HOME=home, XDG_CONFIG_HOME="") == [10]


def test_values_may_be_numbers_flags_and_times() -> None:
    Path("bkctl.toml").write_text(
        "region-map = '10.json'\nstart-ts = 440000000000000000\n"
        "end-ts = 2026-11-23T10:15:00Z\n[ranges]\nraw = true\n"
    )
    assert "raw keys of column family default" in bkctl("ranges").stdout
    outcome = bkctl("ranges", "--no-raw")
    assert "after 440000000000000000 (" in outcome.stdout
    assert "up to 470660913561600000 (2026-11-23T10:15:00.000Z)" in outcome.stdout


def test_flags_can_be_set_by_variables() -> None:
    env = {"BKCTL_REGION_MAP": "10.json", "BKCTL_RAW": "1"}
    assert "raw keys" in bkctl("ranges", env=env).stdout
    assert "raw keys" not in bkctl("ranges", env=env | {"BKCTL_RAW": "0"}).stdout


def test_an_option_that_a_command_lacks_is_none_of_its_business() -> None:
    Path("bkctl.toml").write_text("region-map = '10.json'\nwal-dir = '/logs'\n")
    assert bkctl("tso").code == 0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("regoin-map = '10.json'\n", "regoin-map is no option; did you mean region-map?"),
        ("[ranges]\nchek = true\n", "ranges.chek is no option"),
        ("[regions]\nstart-ts = 5\n", "regions.start-ts is no option"),
        ("[rangs]\nraw = true\n", "[rangs] is no command; did you mean ranges?"),
        ("config = 'other.toml'\n", "config is no option"),
        ("help = true\n", "help is no option"),
        ("raw = 1\n", "raw is on or off; give true or false"),
        ("region-map = true\n", "region-map takes a text or a number"),
        ("region-map = ['10.json']\n", "region-map takes a text or a number"),
        ("region-map = \n", "no TOML: "),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(text: str, what: str) -> None:
    assert what in refused(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("db = " + "[" * 30_000 + "]" * 30_000, "nested far too deeply"),
        ("db = " + "{a=" * 15_000 + "1" + "}" * 15_000, "nested far too deeply"),
        (".".join("a" * 30_000) + " = 1", "line 1 has a name of more than 64 parts"),
        ("db = 1\n[" + ".".join("a" * 30_000) + "]", "line 2 has a name of more than 64 parts"),
        ('db = {"a"' + '."a"' * 100 + " = 1}", "more than 64 parts"),
        ("batch-size = " + "9" * 10_000, "a number that is too large for any option"),
        ("batch-size = 0x" + "f" * 10_000, "batch-size is a number that is too large"),
        ("batch-size = -" + "9" * 30, "batch-size is a number that is too large"),
    ],
    ids=["lists", "tables", "name", "table", "quoted", "digits", "hex digits", "negative"],
)
def test_depth_and_numbers_without_end_are_refused(text: str, what: str) -> None:
    assert what in refused(text)


def test_dots_in_a_text_are_no_depth(tmp_path: Path) -> None:
    path = write_map(tmp_path / ("a." * 70 + "json"), region_on(7))
    Path("bkctl.toml").write_text(f'region-map = "{path}"  # {"." * 70}\n')
    assert planned("ranges") == [70]


def test_mistakes_in_other_commands_tables_are_found_too() -> None:
    assert "ranges.chek" in refused("[ranges]\nchek = true\n", "tso")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    Path("bkctl.toml").write_bytes(b"db = '\xff'\n")
    outcome = bkctl("ranges")
    assert (outcome.code, outcome.stderr) == (2, "bkctl: bkctl.toml: not UTF-8, as TOML must be\n")


def test_a_file_that_is_not_there_is_refused() -> None:
    for arguments in (["--config", "no.toml", "ranges"], ["ranges", "--config", "no.toml"]):
        outcome = bkctl(*arguments)
        assert outcome.code == 2
        assert "cannot read no.toml: No such file or directory" in outcome.stderr


def origin_of_bad_value(*arguments: str, **env: str) -> Outcome:
    outcome = bkctl("ranges", *arguments, env=env)
    assert outcome.code == 2
    return outcome


def test_a_bad_value_says_where_it_came_from() -> None:
    assert "'later' is no timestamp" in origin_of_bad_value("--end-ts", "later").stderr
    stderr = origin_of_bad_value(BKCTL_END_TS="later").stderr
    assert "'--end-ts'" in stderr
    assert "(from BKCTL_END_TS)" in stderr
    Path("bkctl.toml").write_text("end-ts = 'later'\n")
    assert "(from bkctl.toml)" in origin_of_bad_value().stderr


def test_help_works_with_a_broken_file() -> None:
    Path("bkctl.toml").write_text("= broken")
    assert bkctl("--help").code == 0
    assert bkctl("ranges", "--help").code == 0
