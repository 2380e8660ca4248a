"""Taking parts and sealing them by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.commands.console import Outcome, bkctl


class Fleet:
    """Stores' directories, a storage that they share, and the options that all parts have."""

    def __init__(self, stores: list[Path], storage: Path, **options: object) -> None:
        self.stores, self.storage = stores, storage
        self.name = str(options.pop("name", "night"))
        self.options: list[object] = []
        for name, value in options.items():
            option = "--" + name.replace("_", "-")
            self.options += [option] if value is True else [option, value]

    @property
    def folder(self) -> Path:
        """The backup's."""
        return self.storage / self.name

    def part(self, number: int, *more: object) -> Outcome:
        return bkctl(
            *("backup", "--part", "--db", self.stores[number], "--region-map", "store"),
            *("--storage", self.storage, "--name", self.name, "--json", "--progress", "none"),
            *(*self.options, *more),
        )

    def parts(self, *numbers: int) -> None:
        for number in numbers:
            done = self.part(number)
            assert done.code == 0, done.stderr

    def seal(self, *more: object) -> Outcome:
        return bkctl("seal", self.name, "--storage", self.storage, "--json", *more)

    def together(self, *numbers: int) -> Any:
        """The report of a backup of the stores at one place."""
        dbs = [word for number in numbers for word in ("--db", self.stores[number])]
        done = bkctl(
            *("backup", *dbs, "--region-map", "store", "--storage", f"{self.storage}-together"),
            *("--name", self.name, "--json", "--progress", "none", *self.options),
        )
        assert done.code in (0, 7), done.stderr
        return done.document


def content(report: Any) -> list[object]:
    """What two reports of the same backup have in common."""
    names = (
        *("status", "mode", "start_ts", "end_ts", "store_id", "cluster_id", "ranges", "total_kvs"),
        *("total_bytes", "crc64xor", "covered", "uncovered", "skipped", "gaps", "base"),
        *("decided_locks", "errors"),
    )
    return [report[name] for name in names] + [report.get("minority")]
