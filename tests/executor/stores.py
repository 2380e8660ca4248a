"""The real cluster of three stores, for tests over Dask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What the records of tikv1, tikv2 and tikv3 say.
STORE_IDS = (2, 3, 1)


def write_cluster_file(path: Path, stores: Sequence[Path]) -> Path:
    """A file for --cluster."""
    lines = [f'{STORE_IDS[int(store.name[-1]) - 1]} = "{store}"' for store in stores]
    path.write_text("\n".join(["[stores]", *lines, ""]))
    return path


def window_options(window: dict[str, Any]) -> list[object]:
    """The options that ask for a window of truth.json."""
    options: list[object] = ["--start-ts", window["start_ts"], "--end-ts", window["end_ts"]]
    for key in ("start_key", "end_key"):
        options += ["--" + key.replace("_", "-"), window[key]] if window[key] else []
    return options


def figures(document: dict[str, Any]) -> list[object]:
    """What a report and a window of truth.json have in common."""
    return [document[name] for name in ("total_kvs", "total_bytes", "crc64xor")]
