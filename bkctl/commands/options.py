"""The options that commands share, each declared once, and what their texts mean.

Every option can also be set by a variable (`--wal-dir` by `BKCTL_WAL_DIR`) and in a configuration
file. Where an option's default depends on the command or the machine, its value is None here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bkctl.codec.tso import format_ts, is_by_clock, parse_timestamp
from bkctl.commands.config import load_config
from bkctl.commands.keys import KeyFormat as KeyFormat
from bkctl.commands.keys import parse_key as parse_key
from bkctl.errors import RegionMapError, UsageError
from bkctl.ui import log
from bkctl.ui.log import LogFormat as LogFormat

if TYPE_CHECKING:
    from bkctl.cluster.regions import RecordSource
    from bkctl.codec.cipher import Cipher
    from bkctl.regions.region_map import RegionMap, Skipped

_T = TypeVar("_T")


class ProgressMode(str, Enum):
    """How progress is shown on stderr."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    NONE = "none"


class Recovery(str, Enum):
    """What to do about a damaged tail of the store's MANIFEST or write-ahead log."""

    STRICT = "strict"
    POINT_IN_TIME = "point-in-time"


class ApiVersionName(str, Enum):
    """TiKV's API versions, as its configuration and br name them."""

    V1 = "v1"
    V1TTL = "v1ttl"
    V2 = "v2"


def env_name(option: str) -> str:
    """The variable that sets an option: `BKCTL_WAL_DIR` for `--wal-dir`."""
    return "BKCTL_" + option.lstrip("-").upper().replace("-", "_").replace(".", "_")


def option(declaration: str, **settings: Any) -> Any:
    """Declare an option that its variable sets too; `settings` are those of `typer.Option`."""
    first_name = declaration.split("/")[0]
    return typer.Option(declaration, envvar=env_name(first_name), show_envvar=False, **settings)


class FromClock(int):
    """A TSO that was given by this machine's clock: `now`, or a time ago."""


def parse_ts(text: str) -> int:
    """The TSO an option's text means; a usage error naming the option for anything else."""
    try:
        ts = parse_timestamp(text)
    except UsageError as e:
        raise typer.BadParameter(str(e)) from None
    return FromClock(ts) if is_by_clock(text) else ts


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=load_config,
        help="Options in TOML; otherwise ./bkctl.toml or ~/.config/bkctl/config.toml.",
    ),
]
Db = Annotated[
    Path | None,
    option(
        "--db",
        metavar="PATH",
        help="The store: a TiKV data directory, its db/, or any RocksDB directory for --raw.",
    ),
]
RegionMapFrom = Annotated[
    str | None,
    option(
        "--region-map",
        metavar="FILE|pd|store|none",
        help="Regions: a file of PD's JSON, --pd itself, the store's own records, or one over all "
        "keys.",
    ),
]
StorageUrl = Annotated[
    str | None,
    option("--storage", metavar="URL", help="The repository of backups, like local:///backups."),
]
StoreId = Annotated[
    int | None,
    option("--store-id", metavar="ID", min=1, help="Which store this is; default: its own record."),
]
StartKey = Annotated[
    str | None, option("--start-key", metavar="KEY", help="The first raw user key.")
]
EndKey = Annotated[
    str | None, option("--end-key", metavar="KEY", help="The raw user key to stop before.")
]
KeyFormatOption = Annotated[
    KeyFormat, option("--key-format", help="How both keys are written; escaped is like a\\x00b.")
]
StartTs = Annotated[
    int | None,
    option(
        "--start-ts",
        metavar="TS",
        parser=parse_ts,
        help="Take what changed after this: TSO, RFC 3339 time, now or -15m; 0, the default: all.",
    ),
]
EndTs = Annotated[
    int | None,
    option(
        "--end-ts",
        metavar="TS",
        parser=parse_ts,
        help="Take the data as of this: TSO, RFC 3339 time, now (the default) or -15m.",
    ),
]
Raw = Annotated[
    bool, option("--raw/--no-raw", show_default=False, help="The store holds raw keys.")
]
Cf = Annotated[
    str | None,
    option("--cf", metavar="FAMILY", help="Column family of raw keys; default: default."),
]
AllowGaps = Annotated[
    bool,
    option("--allow-gaps", help="Go on though keys are not covered, and say which."),
]
ApiVersion = Annotated[
    ApiVersionName | None,
    option("--api-version", help="How raw pairs are laid out; default: what the store says."),
]
WalDir = Annotated[
    Path | None,
    option("--wal-dir", metavar="PATH", help="Where the write-ahead logs are, if not in --db."),
]
WorkDir = Annotated[
    Path | None,
    option("--work-dir", metavar="PATH", help="Room for temporary files; default: $TMPDIR."),
]
RecoveryOption = Annotated[
    Recovery,
    option("--recovery", help="Refuse a damaged end of log, or take what lies before it."),
]
MasterKey = Annotated[
    Path | None,
    option(
        "--master-key",
        metavar="FILE",
        help="The master key of a store encrypted at rest; default: where last_tikv.toml has it.",
    ),
]
Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        metavar="N",
        min=1,
        help="Worker processes, 4 a core at most; default: half the cores, 1 to 8.",
    ),
]
Progress = Annotated[ProgressMode, option("--progress", help="Progress on stderr.")]
ReadAll = Annotated[
    bool,
    option("--read-all", help="Read also files that hold no commit of an incremental's window."),
]
CrypterMethod = Annotated[
    str | None,
    option(
        "--crypter.method",
        metavar="METHOD",
        help="Encryption, as br's: plaintext, aes128-ctr, aes192-ctr or aes256-ctr.",
    ),
]
CrypterKey = Annotated[
    str | None,
    option("--crypter.key", metavar="HEX", help="The key; --crypter.key-file does not show it."),
]
CrypterKeyFile = Annotated[
    Path | None,
    option("--crypter.key-file", metavar="FILE", help="A file with the key in hexadecimal."),
]
MetricsFile = Annotated[
    Path | None,
    option(
        "--metrics-file", metavar="FILE", help="Write Prometheus metrics of the run, at its end."
    ),
]
OnSuccess = Annotated[
    str | None,
    option("--on-success", metavar="CMD", help="Run CMD when published; the report is its input."),
]
OnFailure = Annotated[
    str | None,
    option("--on-failure", metavar="CMD", help="The same after any other end."),
]
Json = Annotated[bool, option("--json", help="Print one JSON document on stdout.")]


def _use_log_format(log_format: LogFormat) -> LogFormat:
    log.use(log_format)
    return log_format


# Declared after --config, whose values it may take; eager, so that errors of others are written so.
Log = Annotated[
    LogFormat,
    option(
        "--log-format",
        is_eager=True,
        callback=_use_log_format,
        help="Lines on stderr: for people, or one JSON object each.",
    ),
]


def required(name: str, value: _T | None) -> _T:
    """An option's value; UsageError saying how to give it where it has none."""
    if value is None:
        raise UsageError(
            f"{name} is missing; give it, or set {env_name(name)} or "
            f"{name.lstrip('-')} in bkctl.toml"
        )
    return value


def notify(message: str) -> None:
    """Say on stderr what the user should know and nothing depends on."""
    log.info("notice", message)


def cipher(method: str | None, key: str | None, key_file: Path | None) -> Cipher | None:
    """The encryption that the three options ask for, None for none; UsageError."""
    if method is None and key is None and key_file is None:
        return None
    from bkctl.codec.cipher import make_cipher

    return make_cipher(method, key, key_file, lambda message: log.warning("key_file", message))


def size(name: str, text: str) -> int:
    """The bytes that an option's text means, at least 1; UsageError naming the option."""
    from bkctl.codec.size import parse_size

    try:
        found = parse_size(text)
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from None
    if found < 1:
        raise UsageError(f"{name}: it must be at least 1 byte")
    return found


def duration(name: str, text: str) -> int:
    """The seconds that an option's text means; UsageError naming the option."""
    from bkctl.codec.duration import parse_duration

    try:
        return parse_duration(text)
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from None


def family_of(raw: bool, cf: str | None) -> str:
    """The column family to read in raw mode; UsageError for --cf without --raw."""
    if cf is not None and not raw:
        raise UsageError(f"--cf {cf} is for raw stores only; add --raw, or leave --cf out")
    return cf or "default"


def check_ts_window(start_ts: int, end_ts: int) -> None:
    """Raise UsageError unless --start-ts is at or before --end-ts."""
    if start_ts > end_ts:
        raise UsageError(
            f"--start-ts {start_ts} ({format_ts(start_ts)}) lies after "
            f"--end-ts {end_ts} ({format_ts(end_ts)})"
        )


def parse_key_window(
    start_key: str | None, end_key: str | None, key_format: KeyFormat
) -> tuple[bytes, bytes]:
    """--start-key and --end-key as raw user keys, empty for no bound; UsageError naming them."""
    raw_start_key = _parse_named("--start-key", start_key, key_format)
    raw_end_key = _parse_named("--end-key", end_key, key_format)
    if raw_end_key and raw_end_key <= raw_start_key:
        raise UsageError(
            f"--end-key {raw_end_key.hex().upper()} is not after --start-key "
            f"{raw_start_key.hex().upper()}; ranges are [start, end)"
        )
    return raw_start_key, raw_end_key


def _parse_named(name: str, text: str | None, key_format: KeyFormat) -> bytes:
    try:
        return parse_key(text or "", key_format)
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from None


def api_number(name: ApiVersionName) -> int:
    """The number of an API version, as stores and backups have it."""
    return list(ApiVersionName).index(name)


@contextlib.contextmanager
def naming_region_map(choice: str) -> Iterator[None]:
    """Within the block, an error of the region map that cannot know its file names it."""
    try:
        yield
    except RegionMapError as e:
        text = str(e)
        if text.startswith("region map:"):
            text = f"{choice}{text.removeprefix('region map')}"
        raise RegionMapError(text) from None


def region_map_loader(
    choice: str, store_id: int | None = None, pd: str | None = None
) -> Callable[[RecordSource], tuple[RegionMap, list[Skipped]]]:
    """Load the regions each time anew, as they are then; of a pipe, which ends, only once."""
    kept: list[tuple[RegionMap, list[Skipped]]] = []

    def load(source: RecordSource) -> tuple[RegionMap, list[Skipped]]:
        if kept:
            return kept[0]
        loaded = load_region_map(choice, source, store_id, pd)
        if choice not in ("store", "none", "pd") and not Path(choice).is_file():
            kept.append(loaded)
        return loaded

    return load


def load_region_map(
    choice: str,
    source: RecordSource | None,
    store_id: int | None = None,
    pd_urls: str | None = None,
) -> tuple[RegionMap, list[Skipped]]:
    """The regions that --region-map stands for, and those the store has a record of but no data.

    A file called `store`, `pd` or `none` is meant by `./store`. `store_id` None is the store's own.
    Raises RegionMapError, SourceError, CorruptionError, or UsageError for `store` without a store.
    """
    from bkctl.regions import local_state, pd
    from bkctl.regions.region_map import RegionMap, whole_key_space

    if choice == "none":
        return whole_key_space(), []
    if choice == "pd":
        if pd_urls is None:
            raise UsageError("--region-map pd asks PD for the regions; give --pd URL")
        from bkctl.regions.pd_map import fetch_regions

        return RegionMap.build(fetch_regions(pd_urls)), []
    if choice != "store":
        return RegionMap.build(pd.load(Path(choice))), []
    if source is None:
        raise UsageError("--region-map store takes the regions from a store; give --db PATH")
    own_id = source.ident.store_id if store_id is None else store_id
    local = local_state.load_regions(source.region_records(), own_id or None)
    return RegionMap.build(local.regions, "store"), local.skipped
