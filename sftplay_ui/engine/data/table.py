"""A processed file as a table: pages, search, and edits that can be undone, at a million rows.

The file is always the truth: an edit rewrites it under a staged name and renames it. The journal
beside it (`.<name>.edits.jsonl`) only remembers how to go back, and what to do again when the set
is processed anew (see `edits`).
"""

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from sftplay_ui.engine.data.bytes_in import unreadable
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.data.marks import (
    EDITED,
    MARKS,
    Marks,
    kinds_of,
    mark_of,
    marks_path,
    read_marks,
    write_marks,
)
from sftplay_ui.engine.errors import DataError

INDEX_CHUNK_BYTES = 8 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its number from 0, its example, a name of its content, and its findings."""

    row: int
    example: Example | RenderedExample
    name: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one row: None is a row that was not there before, or is not any more."""

    row: int
    before: Example | None
    after: Example | None


class Table:
    """Rows of one processed JSON lines file; opening reads it once to know where rows begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begins = _index(path)
        self._found: tuple[tuple[str, str], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._begins) - 1

    @property
    def journal(self) -> Path:
        """The file that remembers edits."""
        return journal_of(self.path)

    @property
    def edits(self) -> int:
        """Count the edits that can be taken back."""
        return len(read_journal(self.path))

    @cached_property
    def marks(self) -> Marks | None:
        """The findings of every row as bits [rows]; None where they are not known."""
        return read_marks(self.path, len(self))

    def kinds(self) -> dict[str, int]:
        """Count the rows of every finding there is, in the order of `MARKS`."""
        if self.marks is None:
            return {}
        counts = {kind: int(np.count_nonzero(self.marks & bit)) for kind, bit in MARKS.items()}
        return {kind: count for kind, count in counts.items() if count}

    def row(self, row: int) -> TableRow:
        """Read one row; DataError where there is none."""
        self._check(row)
        return self.rows([row])[0]

    def rows(self, rows: Iterable[int]) -> tuple[TableRow, ...]:
        """Read some rows in the order asked."""
        with self._open() as stream:
            return tuple(self._row(row, _line_from(stream, self._begins[row])) for row in rows)

    def find(self, text: str = "", kind: str = "") -> npt.NDArray[np.int64]:
        """Find the rows that hold a text (case does not matter) and have a finding; in order."""
        wanted = text.casefold().strip()
        if self._found is None or self._found[0] != (wanted, kind):
            rows = np.arange(len(self), dtype=np.int64)
            if kind:
                bit = MARKS.get(kind, 0)
                rows = rows[:0] if self.marks is None else np.flatnonzero(self.marks & bit)
            self._found = (wanted, kind), self._holding(wanted, rows) if wanted else rows
        return self._found[1]

    def edit(self, row: int, example: Example, kinds: Iterable[str] = ()) -> Change:
        """Replace one row; `kinds` are its findings now. The file holds it when this returns."""
        self._check(row)
        before = self._line_at(row)
        self._replace(row, before, _line(example), mark_of([EDITED, *kinds]))
        return Change(row, _example(before), example)

    def delete(self, row: int) -> Change:
        """Remove one row; the rows after it move up."""
        self._check(row)
        before = self._line_at(row)
        self._replace(row, before, b"", 0)
        return Change(row, _example(before), None)

    def undo(self) -> Change:
        """Take back the newest edit; raise DataError where the file has changed since."""
        entries = read_journal(self.path)
        if not entries:
            raise DataError("There is no edit to take back.", "Edit or delete a row first.")
        entry = entries[-1]
        row, before, after = entry.row, entry.before, entry.after
        is_same = self._begins[-1] == entry.size and row <= len(self)
        if not is_same or not self._line_at(row).startswith(after):
            raise DataError(
                f"{self.path.name} was changed by something else since the edit.",
                "Process the raw file again to begin afresh.",
            )
        self._replace(row, after, before, entry.marks, record=False)
        _write_whole(self.journal, b"".join(entry.line for entry in entries[:-1]))
        return Change(row, _example(after), _example(before))

    def mirror(
        self, row: int, example: Example | RenderedExample | None, *, inserts: bool = False
    ) -> None:
        """Replace, remove (None) or insert a row the way another table did; nothing is recorded."""
        after = _line(example) if example is not None else b""
        before = b"" if inserts else self._line_at(row)
        self._replace(row, before, after, 0, record=False)

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise DataError(
                f"{self.path.name} has no row {row + 1} (it has {len(self):,}).",
                "Reload the table.",
            )

    def _holding(self, wanted: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # in the file quotes, backslashes and control characters are written differently
        written = orjson.dumps(wanted).decode()[1:-1]
        if written.isascii():
            rows = np.intersect1d(rows, self._rows_with(written.encode()), assume_unique=True)
        found: list[int] = []
        with self._open() as stream:
            for row in rows.tolist():
                line = _line_from(stream, self._begins[row])
                if not written.isascii() and written not in line.decode().casefold():
                    continue
                if wanted in _text(self._row(row, line).example).casefold():
                    found.append(row)
        return np.array(found, np.int64)

    def _rows_with(self, written: bytes) -> npt.NDArray[np.int64]:
        """Find the rows whose lines hold lower-case ASCII text, many lines at a time."""
        begins = np.frombuffer(self._begins, np.uint64)
        places: list[int] = []
        with self._open() as stream:
            while stream.tell() < begins[-1]:
                start = stream.tell()
                # to the end of a line, so that no match is cut
                chunk = (stream.read(INDEX_CHUNK_BYTES) + stream.readline()).lower()
                at = chunk.find(written)
                while at >= 0:
                    places.append(start + at)
                    # one match is enough for a line
                    end = chunk.find(b"\n", at)
                    at = chunk.find(written, end) if end >= 0 else -1
        return np.searchsorted(begins, np.array(places, np.uint64), side="right") - 1

    def _replace(
        self, row: int, before: bytes, after: bytes, mark: int, *, record: bool = True
    ) -> None:
        """Put `after` in the place of `before` at a row, atomically, and index the file anew."""
        begin = self._begins[row]
        marks = self.marks
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
                known = int(marks[row]) if marks is not None and before else 0
                entry = Entry(row, staged.stat().st_size, before, after, known)
                with self.journal.open("ab") as journal:
                    journal.write(entry.line)
            staged.replace(self.path)
            if marks is not None:
                followed = _followed(marks, row, mark if after else None, inserts=not before)
                write_marks(staged, followed)
                staged.replace(marks_path(self.path))
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise DataError(
                f"{self.path.name} cannot be changed: {error.strerror}.",
                "Free the file, try again.",
            ) from None
        self._begins = _index(self.path)
        self._found = None
        self.__dict__.pop("marks", None)

    def _line_at(self, row: int) -> bytes:
        with self._open() as stream:
            return _line_from(stream, self._begins[row])

    def _row(self, row: int, line: bytes) -> TableRow:
        place = f"{self.path.name}:{row + 1}"
        try:
            record = orjson.loads(line.removeprefix(BYTE_ORDER_MARK))
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{place} is not JSON: {error}.", "Process the raw file again."
            ) from None
        name = hashlib.blake2b(line, digest_size=8).hexdigest()
        kinds = () if self.marks is None else kinds_of(int(self.marks[row]))
        if "target" in record and "messages" not in record:
            return TableRow(row, RenderedExample.from_record(record, place=place), name, kinds)
        return TableRow(row, Example.from_record(record, place=place), name, kinds)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise unreadable(self.path, error) from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One edit of a journal: the row's line before and after, and the file's size after it."""

    row: int
    size: int
    before: bytes
    after: bytes
    marks: int

    @property
    def line(self) -> bytes:
        record = {"row": self.row, "bytes": self.size, "marks": self.marks}
        texts = {"before": self.before.decode(), "after": self.after.decode()}
        return orjson.dumps(record | texts) + b"\n"


def open_table(path: Path) -> Table:
    """Open a table to read from; it is indexed again only when the file has changed."""
    try:
        stat = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return _opened(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _opened(path: Path, _version: int, _size: int) -> Table:
    return Table(path)


def journal_of(path: Path) -> Path:
    """Name the journal of a processed file; a newly processed set begins without one."""
    return path.with_name(f".{path.name}.edits.jsonl")


def read_journal(path: Path) -> list[Entry]:
    """Read the edits of a processed file, the oldest first; a torn last one does not count."""
    try:
        lines = journal_of(path).read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    records = [orjson.loads(line) for line in lines if line.endswith(b"\n")]
    return [
        Entry(r["row"], r["bytes"], r["before"].encode(), r["after"].encode(), r.get("marks", 0))
        for r in records
    ]


def _index(path: Path) -> "array[int]":
    """Find where every row begins, passing over blank lines; the last entry is the file's end."""
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
    places = np.frombuffer(begins, np.uint64)
    lengths = np.diff(places)
    if not (lengths == 1).any():
        return begins
    # a blank line belongs to the row before it
    rows = array("Q")
    rows.frombytes(places[:-1][lengths > 1].tobytes())
    rows.append(size)
    return rows


def _followed(marks: Marks, row: int, mark: int | None, *, inserts: bool) -> Marks:
    """Give the marks after a row was replaced, removed (None) or inserted."""
    if mark is None:
        return np.delete(marks, row)
    if inserts:
        return np.insert(marks, row, np.uint32(mark))
    changed = marks.copy()
    changed[row] = mark
    return changed


def _line(example: Example | RenderedExample) -> bytes:
    return orjson.dumps(example.to_record()) + b"\n"


def _example(line: bytes) -> Example | None:
    return Example.from_record(orjson.loads(line.removeprefix(BYTE_ORDER_MARK))) if line else None


def _line_from(stream: BinaryIO, begin: int) -> bytes:
    if stream.tell() != begin:
        stream.seek(begin)
    return stream.readline()


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
