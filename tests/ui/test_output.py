import io
import json

import pytest

from bkctl.ui.output import UNLIMITED_WIDTH, Page, print_csv, print_json


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"keys": [1, None, "ü"]})
    assert json.loads(capsys.readouterr().out) == {"keys": [1, None, "ü"]}


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
