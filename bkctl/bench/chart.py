"""A benchmark's findings as a chart: full backups, MB/s of plain data, an SVG by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bkctl.bench.results import BKCTL, FULL, Findings, Result

_WIDTH, _LEFT, _RIGHT = 840, 250, 70
_BAR, _GAP, _TOP, _BOTTOM = 15, 12, 64, 40
_TICKS = 5
# One worker, several: distinguishable in grey and for the colour-blind.
_COLOURS = {BKCTL: ("#7db3dd", "#1f6fb2"), "refscan": ("#f2bf80", "#d97d0d")}
_OTHER = ("#c4c4c4", "#8a8a8a")


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    colour: str
    median: float
    low: float
    high: float


def draw(findings: Findings) -> str:
    """The chart; bars are medians, the line on each shows from the slowest to the fastest run."""
    groups = list(_groups(findings))
    bars = [bar for _, group in groups for bar in group]
    height = _TOP + _BOTTOM + len(bars) * _BAR + len(groups) * _GAP
    top = _round_up(max((bar.high for bar in bars), default=1.0))
    scale = (_WIDTH - _LEFT - _RIGHT) / top
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{_title(findings)}</text>',
        '<text x="12" y="40" fill="#555555">MB of keys and values a second; more is better. '
        "Lines: slowest to fastest run.</text>",
        *_axis(top, scale, height),
    ]
    y = float(_TOP)
    for name, group in groups:
        middle = y + len(group) * _BAR / 2 + 4
        out.append(f'<text x="12" y="{middle:.1f}" font-weight="bold">{escape(name)}</text>')
        for bar in group:
            out += _drawn(bar, y, scale)
            y += _BAR
        y += _GAP
    return "\n".join([*out, "</svg>", ""])


def _title(findings: Findings) -> str:
    return escape(f"Full backups, bkctl {findings.bkctl}, {findings.started_at[:10]}")


def _groups(findings: Findings) -> Iterator[tuple[str, list[_Bar]]]:
    for store in findings.stores:
        full = [result for result in findings.of(store) if result.backup == FULL]
        for codec in dict.fromkeys(result.codec for result in full):
            group = [_bar(result) for result in full if result.codec == codec]
            name = codec or "as files*"
            yield f"{store.name}, {name}", group


def _bar(result: Result) -> _Bar:
    time, plain = result.working, result.plain_bytes / 1e6
    colour = _COLOURS.get(result.tool, _OTHER)[result.jobs > 1]
    label = f"{result.tool} x{result.jobs}"
    return _Bar(label, colour, plain / time.median, plain / time.max, plain / time.min)


def _axis(top: float, scale: float, height: int) -> Iterator[str]:
    for i in range(_TICKS + 1):
        value = top * i / _TICKS
        x = _LEFT + value * scale
        yield (
            f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - _BOTTOM + 4}" '
            'stroke="#dddddd"/>'
        )
        yield (
            f'<text x="{x:.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle" '
            f'fill="#555555">{value:g}</text>'
        )
    yield (
        f'<text x="12" y="{height - 8}" fill="#555555">* the directory as it is, timed from the '
        "program's start to its end; the others by their own clocks.</text>"
    )


def _drawn(bar: _Bar, y: float, scale: float) -> Iterator[str]:
    middle = y + _BAR / 2 - 1
    end = _LEFT + bar.median * scale
    low, high = _LEFT + bar.low * scale, _LEFT + bar.high * scale
    yield (
        f'<text x="{_LEFT - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
    )
    yield (
        f'<rect x="{_LEFT}" y="{y:.1f}" width="{end - _LEFT:.1f}" height="{_BAR - 3}" '
        f'fill="{bar.colour}"/>'
    )
    yield (
        f'<line x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}" '
        'stroke="#222222" stroke-width="1.5"/>'
    )
    yield f'<text x="{high + 5:.1f}" y="{middle + 4:.1f}">{bar.median:.1f}</text>'


def _round_up(value: float) -> float:
    """The next number of the form 1, 2 or 5 times a power of ten."""
    step = 1.0
    while step < value:
        step *= 10
    return next(each for each in (step / 10, step / 5, step / 2, step) if each >= value)
