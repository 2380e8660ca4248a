"""`bkctl tso`: converts between TSO and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bkctl.codec.tso import compose, format_ts, logical, parse_timestamp, physical_ms
from bkctl.commands import options
from bkctl.ui.output import print_json

HELP = """Convert timestamps: a TSO to its time, a time to its TSO.

A VALUE is a TSO, an RFC 3339 time, now, or a time ago like -15m (s, m, h, d, w). Without one, or
for -, it is now. A line each: TSO, time in UTC, milliseconds since 1970, logical counter.

\b
Example:
  bkctl tso 440000000000500000 2026-11-23T10:15:00Z -15m

\b
Exit codes: 0 done; 2 a value that is no timestamp.
"""
# -15m is a value here and no option; neither may -2h ask for help.
CONTEXT = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@dataclass(frozen=True, slots=True)
class _Converted:
    value: str
    ts: int

    @property
    def time(self) -> str:
        """The time in UTC, without the logical counter."""
        return format_ts(compose(physical_ms(self.ts)))

    def as_json(self) -> dict[str, object]:
        return {
            "value": self.value,
            "tso": self.ts,
            "time": self.time,
            "physical_ms": physical_ms(self.ts),
            "logical": logical(self.ts),
        }


def tso(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="VALUE...", help="What to convert.")
    ] = None,
    json: options.Json = False,
    config: options.Config = None,
    log_format: options.Log = options.LogFormat.TEXT,
) -> None:
    """Convert each value and print what it is in both forms."""
    asked = ["now" if value == "-" else value for value in values or ["now"]]
    converted = [_Converted(value, parse_timestamp(value)) for value in asked]
    if json:
        print_json([entry.as_json() for entry in converted])
        return
    for entry in converted:
        typer.echo(
            f"{entry.ts}  {entry.time}  {physical_ms(entry.ts)} ms  logical {logical(entry.ts)}"
        )
