"""What to run on which machine, in words that can be pasted there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bkctl.backup.task import DEFAULT_SST_MAX_SIZE
from bkctl.fleet.state import State

_PLACE = "PATH"


def command_of(settings: Mapping[str, object], url: str, name: str, db: str = _PLACE) -> str:
    """The command line that takes a part of the backup that was begun with `settings`."""
    words = ["--db", db, "--region-map", "store", "--storage", url, "--name", name]
    if settings.get("base"):
        words.append("--incremental")
    elif settings.get("start_ts"):
        words += ["--start-ts", str(settings["start_ts"])]
    words += ["--end-ts", str(settings.get("end_ts"))]
    for option, setting in (("--start-key", "start_key"), ("--end-key", "end_key")):
        words += [option, str(settings[setting])] if settings.get(setting) else []
    if settings.get("mode") == "raw":
        words += ["--raw", "--cf", str(settings.get("cf"))]
    if (codec := settings.get("compression", "zstd")) != "zstd":
        words += ["--compression", str(codec)]
    if settings.get("compression_level") is not None:
        words += ["--compression-level", str(settings["compression_level"])]
    if (size := settings.get("sst_max_size")) != DEFAULT_SST_MAX_SIZE:
        words += ["--sst-max-size", str(size)]
    if settings.get("recovery"):
        words += ["--recovery", str(settings["recovery"])]
    if settings.get("allow-minority"):
        words.append("--allow-minority")
    if settings.get("crypter.method"):
        words += ["--crypter.method", str(settings["crypter.method"]), "--crypter.key-file", "FILE"]
    return f"bkctl backup --part {shlex.join(words)}"


def run_again(state: State, settings: Mapping[str, object], url: str, name: str) -> str:
    """What to run for a store whose part is known."""
    command = command_of(settings, url, name, state.db or _PLACE)
    return f"on {state.host or 'its machine'} (store {state.store_id}): {command}"


def run_first(store_id: int, settings: Mapping[str, object], url: str, name: str) -> str:
    """What to run for a store of which nothing is recorded."""
    return f"on the machine of store {store_id}: {command_of(settings, url, name)}"
