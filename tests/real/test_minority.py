"""What was taken from a minority of voters: no base of a chain, and never mixed with the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.real.stores import unpack

# Before the cluster's last writes, and before its locks.
END = 470684891700000000


def back_up(stores: list[Path], repository: Path, *given: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "bkctl", "backup", "--json", "--progress", "none"]
    command += [word for store in stores for word in ("--db", str(store))]
    command += ["--region-map", "store", "--storage", str(repository), *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_nothing_is_built_on_what_may_lack_writes(tmp_path: Path) -> None:
    stores, repository = unpack("dead3", tmp_path), tmp_path / "repository"
    first = ("--name", "a", "--end-ts", END)
    assert back_up(stores[2:], repository, *first)[0] == 3
    assert back_up(stores[2:], repository, *first, "--resume", "--allow-minority")[0] == 2
    code, out, _ = back_up(
        stores[2:], repository, "--name", "b", "--end-ts", END, "--allow-minority"
    )
    assert (code, len(json.loads(out)["minority"])) == (7, 5)
    again = ("--incremental", "--end-ts", END + 1, "--name", "c", "--allow-minority")
    code, out, err = back_up(stores[2:], repository, *again)
    assert (code, json.loads(out)["start_ts"], json.loads(out)["base"]) == (7, 0, ""), err
