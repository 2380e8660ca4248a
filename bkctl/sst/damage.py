"""How damage in an SST file is told: always with the file and the offset of the block it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bkctl.errors import CorruptionError


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing wrong with a file; `offset` is that of the block or footer it was found in."""

    file: str
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}: at offset {self.offset}: {self.what}"


@contextmanager
def located(file: str, offset: int) -> Iterator[None]:
    """Give a CorruptionError raised inside its place: file and offset in front of its text."""
    try:
        yield
    except CorruptionError as e:
        raise CorruptionError(str(Damage(file, offset, str(e)))) from None


class DamageList:
    """The damage of one file: each once, in the order found, and no more than `LIMIT`.

    A file of nothing but damage would otherwise fill the memory with what is wrong with it.
    """

    LIMIT = 1000

    def __init__(self, file: str) -> None:
        """Make an empty list for the file named `file`."""
        self._file = file
        self._found: dict[Damage, None] = {}
        self._more = False

    def add(self, offset: int, what: str) -> None:
        """Add damage found at `offset`."""
        damage = Damage(self._file, offset, what)
        if len(self._found) < self.LIMIT:
            self._found[damage] = None
        elif damage not in self._found:
            self._more = True

    def add_error(self, offset: int, error: CorruptionError) -> None:
        """Add what `error` says, at the place it names itself, or else at `offset`."""
        text = str(error)
        start = f"{self._file}: at offset "
        if text.startswith(start):
            place, _, text = text.removeprefix(start).partition(": ")
            offset = int(place)
        self.add(offset, text)

    def all(self) -> list[Damage]:
        """Return the damage; the last one says so if there was more than the list holds."""
        found = list(self._found)
        if self._more:
            found.append(Damage(self._file, 0, f"more damage than the {self.LIMIT} places above"))
        return found
