"""Lines for terminals hold nothing but what can be seen, whatever they are made of."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkctl.ui import log
from bkctl.ui.lines import QuietStream, failure_line
from bkctl.ui.output import Page, print_csv
from bkctl.ui.printable import printable
from bkctl.ui.progress import make_listener
from tests.commands.console import bkctl
from tests.ui.runs import Clock, backup_range

HOSTILE = {
    "c0": ("\x00\x07\x08\x1b[2J", r"\x00\x07\x08\x1b[2J"),
    "line feeds": ("a\nb\r\nc\td\x0b\x0c", r"a\nb\r\nc\td\x0b\x0c"),
    "del and c1": ("\x7f\x80\x9b31m\x9d0;t\x9c", r"\x7f\x80\x9b31m\x9d0;t\x9c"),
    "bidi": ("\u202egnp\u2066\u200f\u061c", r"\u202egnp\u2066\u200f\u061c"),
    "separators": ("a\u2028b\u2029c\x85\x1c\u00a0", r"a\u2028b\u2029c\x85\x1c\xa0"),
    "surrogates": ("a\ud800\udfff", r"a\ud800\udfff"),
    "bytes of a name": ("\udcff\udc80", r"\xff\x80"),
    "invisible": ("a\u200bb\u00adc\ufeff\U000e0041", r"a\u200bb\xadc\ufeff\U000e0041"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_people_write_stays() -> None:
    for text in ("", "a b", "├─ Größe → 数字 ü…", "back\\slash 'quoted'"):
        assert printable(text) == text


@given(st.text(st.characters(blacklist_categories=())))
def test_any_text_becomes_a_printable_line_and_stays_one(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE.values()], ids=HOSTILE)
@pytest.mark.parametrize("is_styled", [False, True])
def test_a_page_s_lines_are_printable(
    text: str, is_styled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(80, is_styled=is_styled)
    page.line(f"{page.bold(text)}: {text} {page.dim(text)}")
    shown = printable(text)
    bold, dim, end = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if is_styled else ("", "", "")
    expected = f"{bold}{shown}{end}: {shown} {dim}{shown}{end}".rstrip()
    assert capsys.readouterr().out == expected + "\n"


def test_a_style_that_came_with_a_text_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(80, is_styled=True)
    unused = page.bold("later")
    page.line(f"\x1b[1mhostile\x1b[0m {page.bold('ours')} \x1b[0m")
    page.line(unused)
    assert capsys.readouterr().out == (
        "\\x1b[1mhostile\\x1b[0m \x1b[1mours\x1b[0m \\x1b[0m\n\x1b[1mlater\x1b[0m\n"
    )


def test_csv_fields_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(("a", "b"), [("x\x1b[2J\n", 2)])
    assert capsys.readouterr().out == "a,b\nx\\x1b[2J\\n,2\n"


def test_log_lines_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    for say in (log.info, log.warning, log.error):
        say("event", "a\x1b[2J\u202eb\nc\udcff")
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("bkctl: ").removeprefix("warning: ") for line in lines] == [
        r"a\x1b[2J\u202eb c\xff"
    ] * 3


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_failures_on_a_display_are_printable(mode: str) -> None:
    stream = io.StringIO()
    listener = make_listener(mode, stream, clock=Clock())
    listener.started(2, None, 1)
    listener.range_failed(0, backup_range(5), "kind\x1b[2J", "why\x1b]0;title\x07\u202e[bold]x")
    listener.finished()
    assert r"why\x1b]0;title\x07\u202e[bold]x" in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_a_failure_s_line_is_printable_as_a_whole() -> None:
    assert failure_line(backup_range(5), "\x1b", "\x9b").isprintable()


def test_a_stream_s_lines_are_printable() -> None:
    stream = io.StringIO()
    QuietStream(stream).line("a\nb\x1b")
    assert stream.getvalue() == "a\\nb\\x1b\n"


def test_typer_s_own_complaints_are_printable() -> None:
    hostile = "\x1b[2J\u202e\n\x9b31m\udcff"
    for arguments in (
        [f"--{hostile}"],
        [hostile],
        ["list", f"--{hostile}"],
        ["list", hostile],
        ["backup", "--jobs", hostile],
        ["backup", f"--end-ts={hostile}"],
        ["backup", "--key-format", hostile],
        ["list", "--config"],
    ):
        outcome = bkctl(*arguments)
        assert outcome.code == 2, arguments
        assert all(line.isprintable() for line in outcome.stderr.split("\n")), arguments
