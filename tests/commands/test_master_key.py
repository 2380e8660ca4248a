"""--master-key: on every command that opens a store, however it is set, and never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.make_store import END_TS, MID_TS, Made, make_store, region_map_of
from tests.commands.console import bkctl
from tests.store.at_rest import EncryptedStore, encrypt_store


@pytest.fixture
def sample(tmp_path: Path) -> tuple[EncryptedStore, Made]:
    (tmp_path / "store").mkdir()
    made = make_store(tmp_path / "store" / "db", 60, 3)
    return encrypt_store(tmp_path / "store"), made


def test_every_command_that_opens_a_store_takes_it(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, made = sample
    regions = region_map_of(store.path / "db")
    key = ["--master-key", store.key_file]
    opened = ["--db", store.path, "--region-map", regions]
    at = ["--storage", tmp_path / "r"]
    done = bkctl("backup", *opened, *at, *key, "--end-ts", END_TS, "--name", "b", "--json")
    assert (done.code, done.document["total_kvs"]) == (0, made.full_at_end.kvs), done.stderr
    for command in (
        ["ranges", *opened, "--start-ts", MID_TS],
        ["regions", "--db", store.path],
        ["verify", "b", *at, "--against", store.path, "--region-map", regions],
    ):
        without = bkctl(*command)
        assert without.code == 2, command
        assert without.stderr.endswith("give its master key with --master-key FILE\n")
        assert "Traceback" not in without.stderr
        assert bkctl(*command, *key).code == 0, command
    assert bkctl(*command, env={"BKCTL_MASTER_KEY": str(store.key_file)}).code == 0


def test_a_benchmark_makes_no_plain_backups_of_it(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, _ = sample
    regions = region_map_of(store.path / "db")
    opened = ["--db", store.path, "--region-map", regions, "--end-ts", END_TS]
    refused = bkctl("bench", *opened, "--work-dir", tmp_path)
    assert refused.code == 2
    assert refused.stderr.endswith("measure a made store, or take a backup of it to noop://\n")


def test_a_configuration_file_may_name_it(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, _ = sample
    config = tmp_path / "bkctl.toml"
    config.write_text(f'db = "{store.path}"\nmaster-key = "{store.key_file}"\n')
    outcome = bkctl("regions", "--config", config)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["regions"]


def test_a_key_that_others_may_read_draws_a_warning(
    sample: tuple[EncryptedStore, Made], tmp_path: Path
) -> None:
    store, _ = sample
    store.key_file.chmod(0o644)
    outcome = bkctl("regions", "--db", store.path, "--master-key", store.key_file)
    assert outcome.code == 0
    (line,) = outcome.stderr.strip().splitlines()
    assert f"{store.key_file}: others may read or change this master key" in line


def test_no_output_shows_a_key(sample: tuple[EncryptedStore, Made], tmp_path: Path) -> None:
    store, _ = sample
    command = ["backup", "--db", store.path, "--region-map", region_map_of(store.path / "db")]
    command += ["--storage", tmp_path / "r", "--end-ts", END_TS, "--log-format", "json"]
    shown = ""
    for options in ([], ["--master-key", store.key_file], ["--master-key", store.path]):
        outcome = bkctl(*command, *options)
        shown += outcome.stdout + outcome.stderr
    store.key_file.write_text("k" + store.master_key.hex())
    outcome = bkctl(*command, "--master-key", store.key_file)
    assert outcome.code == 2
    shown += outcome.stdout + outcome.stderr
    for key in (store.master_key, store.data_key):
        assert key.hex()[:16] not in shown.lower()
