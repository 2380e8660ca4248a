"""Where results go: stdout, as one JSON document, as CSV, or as text for people."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bkctl.ui.printable import printable

# Wider than any line: nothing is cut where no screen asks for it.
UNLIMITED_WIDTH = 1 << 30
_MAX_UNUSED = 16
_PIECES = 4096
_quoted = json.encoder.encode_basestring_ascii
_NAMES = {None: "null", True: "true", False: "false"}


def print_json(document: object) -> None:
    """Print exactly one JSON document on stdout."""
    # Piece by piece: it may be as large as a repository has backups, or a backup ranges.
    pieces = json.JSONEncoder(indent=2).iterencode(document)
    while batch := "".join(itertools.islice(pieces, _PIECES)):
        sys.stdout.write(batch)
    sys.stdout.write("\n")


@dataclass(frozen=True, slots=True)
class Rows:
    """Objects for JSON that all have the same names, `columns`; each row has their values."""

    columns: Sequence[str]
    rows: Iterable[Sequence[int | str | None]]

    def lines(self) -> Iterator[str]:
        """Each as JSON on one line."""
        members = ", ".join(f"{_quoted(name).replace('%', '%%')}: %s" for name in self.columns)
        line = f"{{{members}}}"
        for row in self.rows:
            yield line % tuple(
                [
                    _quoted(value)
                    if type(value) is str
                    else _NAMES[value]
                    if value is None or type(value) is bool
                    else value
                    for value in row
                ]
            )


def print_json_lists(lists: Iterable[tuple[str, Rows]]) -> None:
    """Print one JSON object of lists on stdout, an entry a line, each as it comes."""
    write = sys.stdout.write
    write("{")
    separator = ""
    for name, rows in lists:
        write(f"{separator}\n  {_quoted(name)}: [")
        separator = ""
        for line in rows.lines():
            write(f"{separator}\n    {line}")
            separator = ","
        write("\n  ]" if separator else "]")
        separator = ","
    write("\n}\n")


def print_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as CSV on stdout, None as an empty field."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [printable(value) if isinstance(value, str) else value for value in row] for row in rows
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Text for people on stdout: `width` columns, in bold and dim type where `is_styled`.

    Lines are printable, whatever they are made of: styles are only those that the page gave.
    """

    width: int
    is_styled: bool
    _styled: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of_stdout(cls) -> Page:
        """As wide as the terminal (or $COLUMNS); unlimited and plain for files and pipes.

        What the encoding of stdout lacks is replaced from here on, not an error.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        is_terminal = sys.stdout.isatty()
        is_bounded = is_terminal or "COLUMNS" in os.environ
        return cls(
            shutil.get_terminal_size().columns if is_bounded else UNLIMITED_WIDTH,
            is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        )

    def line(self, text: str) -> None:
        """Print one line; a terminal wraps it where it must."""
        if not self._styled:
            sys.stdout.write(printable(text).rstrip() + "\n")
            return
        shown, unused = [], []
        for piece in self._styled:
            before, found, after = text.partition(piece)
            if found:
                shown += [printable(before), piece]
                text = after
            else:
                unused.append(piece)
        self._styled[:] = unused[-_MAX_UNUSED:]
        shown.append(printable(text))
        sys.stdout.write("".join(shown).rstrip() + "\n")

    def bold(self, text: str) -> str:
        """The text in bold type, for a line to come soon."""
        return self._style("\x1b[1m", text)

    def dim(self, text: str) -> str:
        """The text in dim type, for a line to come soon."""
        return self._style("\x1b[2m", text)

    def _style(self, begin: str, text: str) -> str:
        if not self.is_styled:
            return text
        piece = f"{begin}{printable(text)}\x1b[0m"
        self._styled.append(piece)
        return piece
