"""Text tables (CSV, TSV and their cousins): which delimiter, where the header is, and the rows.

Python's own sniffer guesses from letters; here the delimiter is the one that gives most lines the
same number of columns. What the columns mean is left to `shapes`.
"""

import csv
import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.data.encodings import UNDECODED, numbered_lines
from sftplay_ui.engine.data.header_words import is_header_word
from sftplay_ui.engine.data.rows import (
    MAX_CELL_CHARS,
    MAX_LINE_CHARS,
    BrokenRow,
    Place,
    RawRow,
    ReadOptions,
    Row,
    refuse_width,
    unique_names,
)
from sftplay_ui.engine.errors import DataError

DELIMITERS = ("\t", ";", ",", "|", "\x1f", "\x01", "^", "~", ":")
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
SAMPLE_RECORDS = 300
SAMPLE_CELLS = 200_000
# a quotation mark left open swallows rows: beyond this it is taken for a mistake
MAX_SPAN_LINES = 2000
MAX_MISTAKES = 50
EMPTY = ("the line is blank", "every cell is empty")


@dataclass(frozen=True, slots=True)
class Table:
    """How a text table is laid out; `first_line` is where its header (or first row) stands."""

    delimiter: str
    header: bool
    columns: tuple[str, ...]
    first_line: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """The cells that begin on a line, or None and the reason why there are none."""

    line: int
    cells: list[str] | None
    reason: str = ""
    changes: tuple[str, ...] = ()


def detect_table(path: Path, encoding: str, options: ReadOptions) -> Table:
    """Find delimiter, header and columns of a text table; options that are given win."""
    delimiters = _wanted_delimiters(path, encoding, options.delimiter)
    samples = {d: _sample(path, encoding, d) for d in delimiters}
    delimiter = max(delimiters, key=lambda d: _consistency(samples[d]))
    records = [record for record in samples[delimiter] if record.cells is not None]
    if not records:
        raise DataError(f"{path.name} has no readable row.", "Choose another file.")
    width = _usual_width(records)
    refuse_width(path, width)
    start = next(
        n
        for n, record in enumerate(records)
        if len(record.cells or ()) == width and not _is_hint(record)
    )
    first = records[start].cells or []
    rest = [record.cells for record in records[start + 1 :] if record.cells]
    header = _is_header(first, rest) if options.header is None else options.header
    names = first if header else [f"column_{number}" for number in range(1, width + 1)]
    columns, notes = unique_names(names)
    return Table(delimiter, header, columns, records[start].line, notes)


def read_table(path: Path, encoding: str, table: Table) -> Iterator[Row]:
    """Stream the rows of a text table as column -> text."""
    for record in _records(path, encoding, table.delimiter):
        if record.line == table.first_line and table.header:
            continue
        yield _row(path, record, table)


def _row(path: Path, record: Record, table: Table) -> Row:
    place = Place(path, record.line)
    if record.cells is None:
        kind = "blank_lines" if record.reason in EMPTY else "broken_row"
        return BrokenRow(place, kind, record.reason)
    if record.line < table.first_line:
        return BrokenRow(place, "above_header", "the line stands above the table")
    if len(record.cells) != len(table.columns):
        reason = f"the row has {len(record.cells)} columns instead of {len(table.columns)}"
        return BrokenRow(place, "wrong_column_count", reason)
    if any(not cell.isascii() and UNDECODED.search(cell) for cell in record.cells):
        return BrokenRow(place, "undecodable", "the row holds bytes that are not UTF-8")
    value = dict(zip(table.columns, record.cells, strict=True))
    return RawRow(place, value, record.changes)


class _Lines:
    """The lines of a file for a csv reader, with a way back to just after a broken record."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._lines = numbered_lines(path, encoding)
        self._again: deque[tuple[int, str]] = deque()
        self.pulled: list[tuple[int, str]] = []
        self.span = MAX_SPAN_LINES
        self.changes: tuple[str, ...] = ()
        self._chars = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        number, line = self._again.popleft() if self._again else self._next_line()
        self.pulled.append((number, line))
        self._chars += len(line)
        if len(self.pulled) > self.span or self._chars > 4 * MAX_CELL_CHARS:
            raise csv.Error("a quotation mark is never closed")
        return line

    def _next_line(self) -> tuple[int, str]:
        number, line = next(self._lines)
        if line is None:
            self.pulled.append((number, ""))
            raise csv.Error(f"the line is longer than {MAX_LINE_CHARS:,} characters")
        if "\0" in line:
            line, self.changes = line.replace("\0", ""), ("zero_bytes_removed",)
        return number, line

    def begin_record(self) -> None:
        self.pulled.clear()
        self.changes = ()
        self._chars = 0

    def go_back(self) -> None:
        """Offer all lines of the broken record again, but for its first."""
        self._again.extendleft(reversed(self.pulled[1:]))


def _records(path: Path, encoding: str, delimiter: str) -> Iterator[Record]:
    """Split a file into records; one with broken quotes ends with its own first line."""
    csv.field_size_limit(MAX_CELL_CHARS)
    lines = _Lines(path, encoding)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    mistakes = 0
    while True:
        lines.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(lines.pulled[0][0], None, _in_plain_words(str(error)))
            lines.go_back()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            mistakes += 1
            # many mistakes mean that the file does not quote at all: stop looking far ahead
            lines.span = 5 if mistakes > MAX_MISTAKES else lines.span
            continue
        line = lines.pulled[0][0]
        if not any(cell.strip() for cell in cells):
            yield Record(line, None, EMPTY[0] if len(cells) < 2 else EMPTY[1])
        else:
            yield Record(line, cells, changes=lines.changes)


def _in_plain_words(message: str) -> str:
    if message == "unexpected end of data":
        return "a quotation mark is never closed"
    if message.startswith("field larger"):
        return f"a cell is longer than {MAX_CELL_CHARS:,} characters"
    if message.endswith("""expected after '"'"""):
        return "text follows a closing quotation mark"
    return message


def _wanted_delimiters(path: Path, encoding: str, wanted: str) -> tuple[str, ...]:
    if wanted != "auto":
        delimiter = DELIMITER_NAMES.get(wanted.lower(), wanted)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise DataError(
                f'"{wanted}" cannot separate columns.', "Use one character, such as ; or tab."
            )
        return (delimiter,)
    _, first = next(numbered_lines(path, encoding), (0, None))
    # Excel's own hint
    if first and first.lower().startswith("sep=") and len(first.strip("\n")) == 5:
        return (first[4],)
    return DELIMITERS


def _is_hint(record: Record) -> bool:
    return record.line == 1 and record.cells == ["sep=", ""]


def _sample(path: Path, encoding: str, delimiter: str) -> list[Record]:
    # broken ones count too: a wrong delimiter breaks every quoted row to the end of the file
    sample: list[Record] = []
    cells = 0
    for record in itertools.islice(_records(path, encoding, delimiter), SAMPLE_RECORDS):
        if record.reason not in EMPTY:
            sample.append(record)
            cells += len(record.cells or ())
        if cells > SAMPLE_CELLS:
            break
    return sample


def _consistency(records: list[Record]) -> tuple[float, float, float]:
    """Score a delimiter: share of rows of the usual width; then how plausible its first row is."""
    whole = [record for record in records if record.cells is not None]
    if not whole:
        return (0, 0, 0)
    width = _usual_width(whole)
    share = sum(len(record.cells or ()) == width for record in records) / len(records)
    named = any(
        is_header_word(cell) for record in records[:10] for cell in record.cells or () if width > 1
    )
    return (round(share, 1) if width > 1 else 0.05, named, share)


def _usual_width(records: list[Record]) -> int:
    widths = Counter(len(record.cells or ()) for record in records)
    several = {width: count for width, count in widths.items() if width > 1}
    # titles and notes above a small table may be as many as its rows: columns count for more
    if sum(several.values()) * 2 >= len(records):
        return max(several, key=lambda width: (several[width], width))
    return widths.most_common(1)[0][0]


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Tell names from values: a header is short, has no numbers, and differs from what follows."""
    if any(is_header_word(cell) for cell in first):
        return True
    if not rest:
        return False
    if any(_is_number(cell) or not cell.strip() for cell in first):
        return False
    if any(len(cell) > 60 or cell.rstrip().endswith(("?", ".", "!", "？", "。")) for cell in first):
        return False
    columns = list(zip(*(row for row in rest if len(row) == len(first)), strict=True))
    return not any(cell in column for cell, column in zip(first, columns, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True
