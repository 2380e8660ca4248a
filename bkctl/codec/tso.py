"""Timestamps of TiKV: the TSO, and the ways a user may write one.

TSO, 64 bits:  physical milliseconds since 1970, UTC (46 bits) | logical counter (18 bits)
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

from bkctl.errors import UsageError

LOGICAL_BITS = 18
MAX_TSO = (1 << 64) - 1
_MAX_LOGICAL = (1 << LOGICAL_BITS) - 1
_MAX_PHYSICAL_MS = MAX_TSO >> LOGICAL_BITS
_EPOCH = datetime(1970, 1, 1)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
# Longer numbers are out of range anyway; the bound keeps int() from meeting absurd input.
_MAX_DIGITS = 40

_INTEGER = re.compile(r"[0-9]+")
_AGO = re.compile(r"-([0-9]+)([smhdw])")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)
_FORMS = "give a TSO integer, a time like 2026-11-23T10:15:00Z, now, or -15m (s, m, h, d, w)"


def compose(physical_ms: int, logical: int = 0) -> int:
    """The TSO of a millisecond since 1970 (UTC) and a counter; UsageError where they do not fit."""
    if not 0 <= physical_ms <= _MAX_PHYSICAL_MS:
        raise UsageError(
            f"{physical_ms} ms lies outside of what a TSO can say: from "
            f"{format_ts(0)} to {to_datetime(MAX_TSO):%Y-%m-%d}"
        )
    if not 0 <= logical <= _MAX_LOGICAL:
        raise UsageError(f"a TSO's logical part is 0 to {_MAX_LOGICAL}, not {logical}")
    return physical_ms << LOGICAL_BITS | logical


def physical_ms(ts: int) -> int:
    """The milliseconds since 1970 (UTC) of a TSO."""
    return ts >> LOGICAL_BITS


def logical(ts: int) -> int:
    """The counter of a TSO within its millisecond."""
    return ts & _MAX_LOGICAL


def to_datetime(ts: int) -> datetime:
    """The time of a TSO, aware, in UTC, to the millisecond."""
    naive = _EPOCH + timedelta(milliseconds=physical_ms(ts))
    return naive.replace(tzinfo=timezone.utc)


def format_ts(ts: int) -> str:
    """A TSO as text for people: RFC 3339 in UTC with milliseconds, and the counter if not 0."""
    moment = to_datetime(ts)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    return f"{text}, logical {logical(ts)}" if logical(ts) else text


def is_by_clock(text: str) -> bool:
    """Whether a timestamp's text means another moment whenever it is read."""
    text = text.strip()
    return text.lower() == "now" or _AGO.fullmatch(text) is not None


def parse_timestamp(text: str, *, now_ms: int | None = None) -> int:
    """The TSO that `text` means.

    Forms: a TSO (decimal, 0 to 2^64-1), an RFC 3339 time with its zone, `now`, and `-15m` for a
    time ago (s, m, h, d, w). A time means its millisecond (finer digits are cut off) with a
    logical part of 0. `now_ms` stands in for the clock. Raises UsageError for anything else.
    """
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return _parse_integer(text)
    if text.lower() == "now":
        return compose(_clock(now_ms))
    if ago := _AGO.fullmatch(text):
        return _parse_ago(text, ago, _clock(now_ms))
    if moment := _TIME.fullmatch(text):
        return _parse_time(text, moment)
    raise UsageError(f"{_shown(text)} is no timestamp; {_FORMS}")


def _clock(now_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms


def _parse_integer(text: str) -> int:
    ts = int(text) if len(text) <= _MAX_DIGITS else MAX_TSO + 1
    if ts > MAX_TSO:
        raise UsageError(f"{_shown(text)} is too large for a TSO, which is at most {MAX_TSO}")
    return ts


def _parse_ago(text: str, ago: re.Match[str], now_ms: int) -> int:
    count, unit = ago.groups()
    if len(count) > _MAX_DIGITS or (then_ms := now_ms - int(count) * _UNIT_MS[unit]) < 0:
        raise UsageError(f"{_shown(text)} lies before 1970; give a shorter time ago")
    return compose(then_ms)


def _parse_time(text: str, match: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone is None:
        raise UsageError(
            f"{_shown(text)} does not say its time zone; write it as "
            f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}Z "
            f"or with an offset like +02:00 for Z"
        )
    try:
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))
        since_epoch = local - _EPOCH - _offset(zone)
    except ValueError as e:
        raise UsageError(f"{_shown(text)} is no time: {e}") from None
    # The fraction is cut, never rounded: a backup must not reach past the time asked for.
    millis = int(((fraction or "") + "000")[:3])
    since_ms = since_epoch // timedelta(milliseconds=1) + millis
    if not 0 <= since_ms <= _MAX_PHYSICAL_MS:
        raise UsageError(
            f"{_shown(text)} lies outside of what a TSO can say: from 1970 to "
            f"{to_datetime(MAX_TSO):%Y-%m-%d}"
        )
    return compose(since_ms)


def _offset(zone: str) -> timedelta:
    """How far local time of `zone` (Z or ±hh:mm) is ahead of UTC; ValueError if out of range."""
    if zone in "Zz":
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(f"an offset of {zone}")
    ahead = timedelta(hours=hours, minutes=minutes)
    return -ahead if zone[0] == "-" else ahead


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
