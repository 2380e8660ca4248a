"""Running the command line in tests, apart from the machine's own settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bkctl.cli import app
from bkctl.regions import pd
from bkctl.regions.region import Region

NO_HOME = "/nonexistent"


class Outcome:
    """What a run printed and how it ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


def bkctl(*args: object, env: dict[str, str] | None = None) -> Outcome:
    """Run in this process, with no variables of the outside but those given."""
    alone: dict[str, str | None] = {name: None for name in os.environ if name.startswith("BKCTL_")}
    alone |= {"XDG_CONFIG_HOME": NO_HOME, "HOME": NO_HOME, "COLUMNS": None, **(env or {})}
    result = CliRunner().invoke(app, [str(arg) for arg in args], env=alone)
    unexpected = result.exception
    if unexpected is not None and not isinstance(unexpected, SystemExit):
        raise unexpected
    return Outcome(result.exit_code, result.stdout, result.stderr)


def process(*args: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m bkctl` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bkctl", *map(str, args)],
        **{"capture_output": True, "text": True, "timeout": 60, **settings},
    )


def write_map(path: Path, *regions: Region) -> Path:
    """Write regions to a file as PD's JSON."""
    path.write_text(pd.dump(regions))
    return path
