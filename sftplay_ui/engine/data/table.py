"""A processed file as a table: pages, search, and edits that can be undone, at a million rows.

The file is always the truth: an edit rewrites it under a staged name and renames it. The journal
beside it (`.<name>.edits.jsonl`) only remembers how to go back.
"""

import os
import shutil
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from sftplay_ui.engine.data.bytes_in import unreadable
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.errors import DataError

INDEX_CHUNK_BYTES = 8 * 2**20
PAGE_ROWS = 50
MAX_PAGE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the file: its number from 0, and its example."""

    row: int
    example: Example | RenderedExample


@dataclass(frozen=True, slots=True)
class Found:
    """The rows a search found, and the row to go on from (None: the end was reached)."""

    rows: tuple[TableRow, ...]
    next_row: int | None


class Table:
    """Rows of one processed JSON lines file; opening reads it once to know where rows begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begins = _index(path)

    def __len__(self) -> int:
        return len(self._begins) - 1

    @property
    def journal(self) -> Path:
        """The file that remembers edits."""
        return journal_of(self.path)

    @property
    def can_undo(self) -> bool:
        """Tell whether there is an edit to take back."""
        return self.journal.exists() and self.journal.stat().st_size > 0

    def page(self, start: int, size: int = PAGE_ROWS) -> tuple[TableRow, ...]:
        """Read up to `size` rows from `start` on; beyond the end there are none."""
        start = max(0, start)
        stop = min(len(self), start + min(size, MAX_PAGE_ROWS))
        with self._open() as stream:
            stream.seek(self._begins[min(start, len(self))])
            return tuple(self._row(row, stream.readline()) for row in range(start, stop))

    def search(self, text: str, start: int = 0, limit: int = PAGE_ROWS) -> Found:
        """Find rows that hold a text (case does not matter), from `start` on."""
        wanted = text.casefold()
        # in the file quotes, backslashes and control characters are written differently
        written = orjson.dumps(text).decode()[1:-1].casefold()
        found: list[TableRow] = []
        with self._open() as stream:
            stream.seek(self._begins[min(max(0, start), len(self))])
            for row in range(max(0, start), len(self)):
                line = stream.readline()
                if written not in line.decode(errors="replace").casefold():
                    continue
                candidate = self._row(row, line)
                if wanted in _text(candidate.example).casefold():
                    found.append(candidate)
                    if len(found) >= limit:
                        return Found(tuple(found), row + 1 if row + 1 < len(self) else None)
        return Found(tuple(found), None)

    def edit(self, row: int, example: Example) -> None:
        """Replace one row; the change is in the file when this returns."""
        self._change(row, _line(example))

    def delete(self, row: int) -> None:
        """Remove one row; the rows after it move up."""
        self._change(row, b"")

    def append(self, example: Example) -> None:
        """Add a row at the end."""
        self._replace(len(self), b"", _line(example), record=True)

    def undo(self) -> None:
        """Take back the newest edit; raise DataError where the file has changed since."""
        entries = self.journal.read_bytes().splitlines() if self.can_undo else []
        if not entries:
            raise DataError("There is no edit to take back.", "Edit or delete a row first.")
        entry = orjson.loads(entries[-1])
        before, after = entry["before"].encode(), entry["after"].encode()
        is_same = self._begins[-1] == entry["bytes"] and entry["row"] <= len(self)
        if not is_same or not self._line_at(entry["row"]).startswith(after):
            raise DataError(
                f"{self.path.name} was changed by something else since the edit.",
                "Process the raw file again to begin afresh.",
            )
        self._replace(entry["row"], after, before, record=False)
        _write_whole(self.journal, b"".join(entry + b"\n" for entry in entries[:-1]))

    def _change(self, row: int, line: bytes) -> None:
        if not 0 <= row < len(self):
            raise DataError(
                f"{self.path.name} has no row {row + 1} (it has {len(self):,}).",
                "Reload the table.",
            )
        self._replace(row, self._line_at(row), line, record=True)

    def _replace(self, row: int, before: bytes, after: bytes, *, record: bool) -> None:
        """Put `after` in the place of `before` at a row, atomically, and index the file anew."""
        begin = self._begins[row]
        staged = self.path.with_name(f".{self.path.name}.part")
        try:
            with self._open() as old, staged.open("wb") as new:
                _copy(old, new, begin)
                if begin and after and row == len(self) and not _ends_line(old, begin):
                    new.write(b"\n")
                new.write(after)
                old.seek(begin + len(before))
                shutil.copyfileobj(old, new, 2**20)
                new.flush()
                os.fsync(new.fileno())
            if record:
                size = staged.stat().st_size
                change = {"before": before.decode(), "after": after.decode()}
                entry = {"row": row, "bytes": size, **change}
                with self.journal.open("ab") as journal:
                    journal.write(orjson.dumps(entry) + b"\n")
            staged.replace(self.path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise DataError(
                f"{self.path.name} cannot be changed: {error.strerror}.",
                "Free the file, try again.",
            ) from None
        self._begins = _index(self.path)

    def _line_at(self, row: int) -> bytes:
        with self._open() as stream:
            stream.seek(self._begins[row])
            return stream.readline()

    def _row(self, row: int, line: bytes) -> TableRow:
        place = f"{self.path.name}:{row + 1}"
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{place} is not JSON: {error}.", "Process the raw file again."
            ) from None
        if "target" in record and "messages" not in record:
            return TableRow(row, RenderedExample.from_record(record, place=place))
        return TableRow(row, Example.from_record(record, place=place))

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise unreadable(self.path, error) from None


def journal_of(path: Path) -> Path:
    """Name the journal of a processed file; a newly processed set begins without one."""
    return path.with_name(f".{path.name}.edits.jsonl")


def _index(path: Path) -> "array[int]":
    """Find where every row begins; the last entry is the end of the file."""
    begins = array("Q", [0])
    size = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(INDEX_CHUNK_BYTES):
                ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + (size + 1)
                begins.frombytes(ends.astype(np.uint64).tobytes())
                size += len(chunk)
    except OSError as error:
        raise unreadable(path, error) from None
    if begins[-1] != size:
        begins.append(size)
    return begins


def _line(example: Example) -> bytes:
    return orjson.dumps(example.to_record()) + b"\n"


def _text(example: Example | RenderedExample) -> str:
    if isinstance(example, RenderedExample):
        return f"{example.input}\n{example.target}"
    return "\n".join(message.content for message in example.messages)


def _copy(old: BinaryIO, new: BinaryIO, size: int) -> None:
    while size > 0 and (piece := old.read(min(size, 2**20))):
        new.write(piece)
        size -= len(piece)


def _ends_line(stream: BinaryIO, end: int) -> bool:
    stream.seek(end - 1)
    return stream.read(1) == b"\n"


def _write_whole(path: Path, content: bytes) -> None:
    staged = path.with_name(path.name + ".part")
    staged.write_bytes(content)
    staged.replace(path)
