import io
import json
from collections.abc import Iterator

import pytest

from bkctl.ui.output import UNLIMITED_WIDTH, Page, Rows, print_csv, print_json, print_json_lists


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"keys": [1, None, "ü"]})
    assert json.loads(capsys.readouterr().out) == {"keys": [1, None, "ü"]}


def test_json_lists_are_one_document_an_entry_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(1, None, 'a "b" ü\n', "%s"), (1 << 64, -2, "", "\x1b")]
    print_json_lists([("all %", Rows(("n", "none", "%", 't"'), rows)), ("no", Rows(("n",), ()))])
    shown = capsys.readouterr().out
    names = ("n", "none", "%", 't"')
    assert json.loads(shown) == {
        "all %": [dict(zip(names, row, strict=True)) for row in rows],
        "no": [],
    }
    assert len(shown.splitlines()) == 7


def test_lists_are_printed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    lengths = []

    def rows() -> Iterator[tuple[int]]:
        for number in range(3):
            lengths.append(len(out.getvalue()))
            yield (number,)

    print_json_lists([("n", Rows(("n",), rows()))])
    print_csv(("n",), rows())
    assert lengths == sorted(set(lengths))


def test_csv_has_a_header_and_empty_fields_for_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(("a", "b"), [(1, None), ("x,y", 2)])
    assert capsys.readouterr().out == 'a,b\n1,\n"x,y",2\n'


def test_a_page_is_plain_and_unlimited_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    page = Page.of_stdout()
    assert page == Page(UNLIMITED_WIDTH, is_styled=False)
    page.line(page.bold("head") + page.dim("tail") + "  ")
    assert capsys.readouterr().out == "headtail\n"


def test_columns_bound_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert Page.of_stdout().width == 72


def test_styles_end_where_they_began() -> None:
    page = Page(80, is_styled=True)
    assert page.bold("x") == "\x1b[1mx\x1b[0m"
    assert page.dim("x") == "\x1b[2mx\x1b[0m"


def test_what_the_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    Page.of_stdout().line("a…b")
    stream.flush()
    assert written.getvalue() == b"a?b\n"
