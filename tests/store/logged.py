"""Stores with several write-ahead logs, made by RocksDB, and what they hold after each write."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rocksdict import AccessType, Options, Rdict, WriteBatch

FAMILIES = ("default", "lock", "write", "raft")
State = dict[tuple[str, bytes], bytes]


@dataclass
class LoggedStore:
    """A store as a kill would leave it; `states[i]` is what it holds after `i` batches."""

    path: Path
    states: list[State] = field(default_factory=list)
    # By log: how many batches there were when it was begun.
    begins: dict[str, int] = field(default_factory=dict)

    @property
    def logs(self) -> list[Path]:
        return sorted(self.path.glob("*.log"))


def make_logged_store(
    path: Path, rng: random.Random, batches: int = 60, *, recycle: bool = False
) -> LoggedStore:
    """Random writes with flushes of single families now and then, which begin a new log each.

    The raft family is never flushed, so that all logs count.
    """
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    if recycle:
        options.set_recycle_log_file_num(4)
    open_at = path.with_name(f"{path.name}-open")
    families = {name: Options(raw_mode=True) for name in FAMILIES[1:]}
    for each in (options, *families.values()):
        each.set_disable_auto_compactions(True)
    access = AccessType.read_write()
    db = Rdict(str(open_at), options, column_families=families, access_type=access)
    handles = {name: db.get_column_family_handle(name) for name in FAMILIES}
    made = LoggedStore(path, [{}])
    known: set[str] = set()

    def note_logs() -> None:
        for log in open_at.glob("*.log"):
            if log.name not in known:
                known.add(log.name)
                made.begins[log.name] = len(made.states) - 1

    note_logs()
    for number in range(batches):
        state = dict(made.states[-1])
        batch = WriteBatch(raw_mode=True)
        for _ in range(rng.randint(1, 30)):
            # The first of all is of the family that holds all logs back.
            family = rng.choice(FAMILIES) if number else "raft"
            key = b"z%06d" % rng.randint(0, 400)
            if rng.random() < 0.2 and number:
                batch.delete(key, handles[family])
                state.pop((family, key), None)
            else:
                value = rng.randbytes(rng.choice((5, 50, 500, 5000)))
                batch.put(key, value, handles[family])
                state[family, key] = value
        db.write(batch)
        made.states.append(state)
        if rng.random() < 0.1:
            family = rng.choice(FAMILIES[:-1])
            (db if family == "default" else db.get_column_family(family)).flush()
            note_logs()
    shutil.copytree(open_at, path)
    db.close()
    made.begins = {log.name: made.begins[log.name] for log in made.logs}
    return made


def open_tuned(path: Path, **settings: str) -> Rdict:
    """A new store, open, with options that only its OPTIONS file can set."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    families = {name: Options(raw_mode=True) for name in FAMILIES[1:]}
    access = AccessType.read_write()
    Rdict(str(path), options, column_families=families, access_type=access).close()
    newest = max(path.glob("OPTIONS-*"))
    text = newest.read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"^(\s*{name})=\w+$", rf"\1={value}", text, flags=re.MULTILINE)
        assert count == 1
    newest.write_text(text)
    loaded, families = Options.load_latest(str(path))
    families.pop("default")
    return Rdict(str(path), loaded, column_families=families, access_type=access)
