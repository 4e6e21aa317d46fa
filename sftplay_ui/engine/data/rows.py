"""What all readers agree on: a row with its place, a row that is broken, and the facts of a file.

Reading itself is left to one module per kind of file; `readers` chooses between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.errors import DataError

MAX_LINE_CHARS = 16 * 2**20
MAX_CELL_CHARS = 4 * 2**20
MAX_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row begins: the file, and its line (its row number in files without lines)."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file holds it; `changes` names what had to be altered to read it."""

    place: Place
    value: object
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that could not be read, and why; `mended` holds what a repair would make of it."""

    place: Place
    kind: str
    reason: str
    mended: object = None


Row = RawRow | BrokenRow


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a file; what is left on auto is detected, shown, and can be changed."""

    encoding: str = "auto"
    delimiter: str = "auto"
    sheet: str | None = None
    header: bool | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a file, in words a person can check against a preview."""

    kind: str
    size_bytes: int
    encoding: str | None = None
    encoding_reason: str = ""
    delimiter: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] = ()
    sheet: str | None = None
    sheets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file: its facts, and its rows as often as they are asked for."""

    path: Path
    facts: Facts
    read: Callable[[], Iterator[Row]]

    def rows(self) -> Iterator[Row]:
        """Stream the rows from the first one on; broken ones keep their place in the order."""
        return self.read()


def unique_names(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give every column a name of its own; return the names, and a note per changed name."""
    seen: set[str] = set()
    result: list[str] = []
    notes: list[str] = []
    for number, name in enumerate(names, start=1):
        wanted = name.strip() or f"column_{number}"
        unique, copy = wanted, 2
        while unique in seen:
            unique, copy = f"{wanted}_{copy}", copy + 1
        if unique != wanted:
            notes.append(f'Two columns are called "{wanted}"; the later one is "{unique}" here.')
        seen.add(unique)
        result.append(unique)
    return tuple(result), tuple(notes)


def refuse_width(path: Path, columns: int) -> None:
    """Raise DataError for a table that is too wide to be one of questions and answers."""
    if columns > MAX_COLUMNS:
        raise DataError(
            f"{path.name} has {columns:,} columns; more than {MAX_COLUMNS:,} are not read.",
            "Keep the columns of questions and answers, and leave out the others.",
        )
