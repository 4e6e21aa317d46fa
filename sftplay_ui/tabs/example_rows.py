"""Any row of a large examples file at once: where each line begins, kept while the file stays.

Paging, searching and previews ask here; what a line means is left to `engine.data.examples`.
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.errors import DataError

Row = Example | RenderedExample


@dataclass(frozen=True)
class ExampleRows:
    """One file of examples: its length, and any of its rows, numbered from 0."""

    path: Path
    starts: "array[int]"

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> Row:
        """Read one row; DataError names the line of a damaged one."""
        return next(self.rows([number]))

    def rows(self, numbers: list[int]) -> Iterator[Row]:
        """Read some rows in the order asked."""
        with self.path.open("rb") as file:
            for number in numbers:
                file.seek(self.starts[number])
                yield read_row(file.readline(), f"{self.path.name}, row {number + 1}")

    def matching(self, query: str) -> list[int]:
        """Find the rows that contain a text, whatever its case."""
        wanted = query.casefold().strip()
        if not wanted:
            return list(range(len(self)))
        everything = self.rows(list(range(len(self))))
        return [n for n, row in enumerate(everything) if wanted in "\n".join(texts(row)).casefold()]


def open_rows(path: Path) -> ExampleRows:
    """Find the rows of a file; DataError where it is not there."""
    try:
        stat = path.stat()
    except OSError:
        raise DataError(
            f"{path.name} is not there yet.", "Process a file in the Data tab first."
        ) from None
    return index_rows(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=12)
def index_rows(path: Path, _version: int, _size: int) -> ExampleRows:
    """Note where each line begins; asked again only when the file has changed."""
    starts = array("q")
    at = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                starts.append(at)
            at += len(line)
    return ExampleRows(path, starts)


def read_row(line: bytes, place: str) -> Row:
    """Read one line of any of the three kinds."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not valid JSON: {error}.", "Process the file again.") from None
    if "messages" not in record and {"input", "target"} <= record.keys():
        return RenderedExample.from_record(record, place=place)
    return Example.from_record(record, place=place)


def texts(row: Row) -> list[str]:
    """Give the texts of a row in order."""
    if isinstance(row, RenderedExample):
        return [row.input, row.target]
    return [message.content for message in row.messages]


def columns(row: Row) -> tuple[str, str, str]:
    """Give a row as system, question and answer; earlier turns stand in the question."""
    if isinstance(row, RenderedExample):
        return "", row.input, row.target
    turns = [message for message in row.prompt if message.role != "system"]
    question = (
        turns[0].content
        if len(turns) == 1
        else "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    )
    return row.system or "", question, row.reference
