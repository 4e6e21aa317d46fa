"""Binary tables: Parquet, Arrow (file and stream) and Excel sheets, row by row in bounded memory.

Whatever the file, a row becomes column -> value; what the columns mean is left to `shapes`.
"""

import itertools
import struct
import warnings
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import openpyxl
import openpyxl.utils.exceptions
import pyarrow
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet

from sftplay_ui.engine.data.bytes_in import BOMB_BYTES, BOMB_RATIO
from sftplay_ui.engine.data.rows import (
    BrokenRow,
    Facts,
    Place,
    RawRow,
    ReadOptions,
    Row,
    Source,
    refuse_width,
    unique_names,
)
from sftplay_ui.engine.errors import DataError

BATCH_ROWS = 1024
MAX_BATCH_BYTES = 128 * 2**20
# a value of Python, without its text
VALUE_BYTES = 64
TOO_LONG = object()
ARROW_FILE_MAGIC = b"ARROW1"
# what Excel allows in a sheet
SHEET_ROWS, SHEET_COLUMNS = 1_048_576, 16_384
MAX_SHEETS = 1000
# real workbooks are packed 5 to 30 times; openpyxl needs seconds and memory for every megabyte
BOOK_BYTES = 32 * 2**20
BOOK_RATIO = 100
# a smaller sheet may hold a single row as long as itself without harm
SCANNED_BYTES = 4 * 2**20
# openpyxl trusts what a workbook says: damage shows as whatever it stumbles over
SHEET_ERRORS = (
    openpyxl.utils.exceptions.InvalidFileException,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def open_parquet(path: Path) -> Source:
    """Open a Parquet file; raise DataError where it is damaged."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_width(path, file.metadata.num_columns)
            columns = tuple(file.schema_arrow.names)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Parquet", error) from None
    facts = Facts("Parquet", path.stat().st_size, columns=columns)
    return Source(path, facts, lambda: _read_parquet(path))


def open_arrow(path: Path) -> Source:
    """Open an Arrow file or stream (the form that `datasets` keeps in its cache)."""
    try:
        with pyarrow.memory_map(str(path)) as file:
            columns = tuple(_open_batches(path, file).schema.names)
            refuse_width(path, len(columns))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Arrow", error) from None
    facts = Facts("Arrow", path.stat().st_size, columns=columns)
    return Source(path, facts, lambda: _read_arrow(path))


def open_sheet(path: Path, options: ReadOptions) -> Source:
    """Open one sheet of an Excel workbook; formulas are read as the text they are."""
    _refuse_bomb(path)
    book = _open_book(path)
    try:
        names = tuple(book.sheetnames)
        sheet = options.sheet or names[0]
        if sheet not in names:
            raise DataError(
                f'{path.name} has no sheet "{sheet}".', f"Choose one of {', '.join(names)}."
            )
        rows = ((n, cells) for n, cells in _cells(path, book[sheet]) if any(_filled(cells)))
        first_line, first = next(rows, (0, ()))
        if options.header is not False:
            # what a sheet says of its size, and formatted cells, make no columns
            first = first[
                : max((n for n, cell in enumerate(first, 1) if _is_filled(cell)), default=0)
            ]
        refuse_width(path, len(first))
    finally:
        book.close()
    if not first:
        raise DataError(f'Sheet "{sheet}" of {path.name} is empty.', "Choose another sheet.")
    header = options.header is not False
    titles = [str(cell) if cell is not None else "" for cell in first]
    columns, notes = unique_names(titles if header else [""] * len(first))
    facts = Facts(
        "XLSX",
        path.stat().st_size,
        header=header,
        columns=columns,
        sheet=sheet,
        sheets=names,
        notes=notes,
    )
    start = first_line + 1 if header else first_line
    return Source(path, facts, lambda: _read_sheet(path, facts, start))


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as plain:
            texts = [
                column.path
                for column in map(plain.schema.column, range(len(plain.schema)))
                if column.physical_type == "BYTE_ARRAY"
            ]
        # a text that is packed once for many rows must not be unpacked for all of them at once
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            yield from _rows(path, file.iter_batches(batch_size=BATCH_ROWS))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Parquet", error) from None


def _read_arrow(path: Path) -> Iterator[Row]:
    try:
        with pyarrow.memory_map(str(path)) as file:
            reader = _open_batches(path, file)
            batches = (
                (reader.get_batch(n) for n in range(reader.num_record_batches))
                if hasattr(reader, "num_record_batches")
                else iter(reader)
            )
            yield from _rows(path, batches)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Arrow", error) from None


def _open_batches(path: Path, file: Any) -> Any:
    with path.open("rb") as head:
        is_file = head.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
    return pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[Row]:
    numbers = itertools.count(1)
    unpacked, limit = 0, max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
    for batch in batches:
        # offsets that point outside the file would end the whole process
        batch.validate(full=True)
        unpacked += sum(map(_unpacked_bytes, batch.columns))
        if unpacked > limit:
            raise DataError(
                f"{path.name} unpacks to more than {limit >> 20} MB, which no real data does.",
                "Export it as JSON lines and choose that.",
            )
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for values in _in_pieces(batch.slice(start, BATCH_ROWS)):
                for value in values:
                    place = Place(path, next(numbers))
                    if value is TOO_LONG:
                        reason = f"the row is longer than {MAX_BATCH_BYTES >> 20} MB"
                        yield BrokenRow(place, "line_too_long", reason)
                    else:
                        yield RawRow(place, value)


def _in_pieces(batch: Any) -> Iterator[list[object]]:
    """Make a batch's rows values of Python, by halves where all of them would take too much."""
    if sum(map(_unpacked_bytes, batch.columns)) <= MAX_BATCH_BYTES:
        yield batch.to_pylist()
    elif batch.num_rows == 1:
        yield [TOO_LONG]
    else:
        middle = batch.num_rows // 2
        yield from _in_pieces(batch.slice(0, middle))
        yield from _in_pieces(batch.slice(middle))


def _unpacked_bytes(column: Any) -> int:
    """Estimate what the values of a column take as values of Python."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        lengths = _text_bytes(column.dictionary)
        lengths = None if lengths is None else lengths.take(column.indices)
    elif pyarrow.types.is_struct(kind):
        return sum(map(_unpacked_bytes, column.flatten())) + VALUE_BYTES * len(column)
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _unpacked_bytes(column.flatten()) + VALUE_BYTES * len(column)
    else:
        lengths = _text_bytes(column)
    # not what lies behind a slice: that is all of the batch it was cut from
    texts = 0 if lengths is None else pyarrow.compute.sum(lengths).as_py() or 0
    return int(texts) + VALUE_BYTES * len(column)


def _text_bytes(column: Any) -> Any:
    """Give the bytes of every text of a column; None where it holds no texts."""
    try:
        return pyarrow.compute.binary_length(column)
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowInvalid):
        return None


def _read_sheet(path: Path, facts: Facts, start: int) -> Iterator[Row]:
    book = _open_book(path)
    width = len(facts.columns)
    blank: list[Place] = []
    try:
        for number, cells in _cells(path, book[facts.sheet], width + 1):
            place = Place(path, number)
            if number < start:
                continue
            if not any(_filled(cells)):
                blank.append(place)
                continue
            # sheets often end in a million rows that are only formatted: those are no rows
            yield from (BrokenRow(one, "blank_lines", "the row is empty") for one in blank)
            blank.clear()
            if any(_filled(cells[width:])):
                reason = f"the row has more columns than the header ({width})"
                yield BrokenRow(place, "wrong_column_count", reason)
            else:
                padded = itertools.chain(cells[:width], itertools.repeat(None))
                yield RawRow(place, dict(zip(facts.columns, padded, strict=False)))
    finally:
        book.close()


def _filled(cells: tuple[object, ...]) -> Iterator[bool]:
    return map(_is_filled, cells)


def _is_filled(cell: object) -> bool:
    return cell is not None and str(cell).strip() != ""


def _cells(
    path: Path, sheet: Any, width: int | None = None
) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Stream (row number, cells), at most `width` of them; what a file says of its size is moot."""
    try:
        rows = sheet.iter_rows(max_row=SHEET_ROWS, max_col=width, values_only=True)
        yield from enumerate(rows, start=1)
    except SHEET_ERRORS as error:
        raise _damaged(path, "XLSX", error) from None


def _open_book(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # openpyxl speaks of styles and extensions that do not matter for the text of the cells
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(path, read_only=True, data_only=False)
    except SHEET_ERRORS as error:
        raise _damaged(path, "XLSX", error) from None


def _refuse_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > max(BOOK_BYTES, BOOK_RATIO * path.stat().st_size):
                raise DataError(
                    f"{path.name} unpacks to {unpacked >> 20} MB, far more than a real workbook.",
                    "Export the sheet as CSV and choose that.",
                )
            for entry in archive.infolist():
                is_big = entry.file_size > SCANNED_BYTES and entry.filename.endswith(".xml")
                if is_big or entry.filename.endswith("workbook.xml"):
                    with archive.open(entry) as part:
                        _refuse_endless_parts(path, part)
    except (*SHEET_ERRORS, xml.parsers.expat.ExpatError) as error:
        raise _damaged(path, "XLSX", error) from None


def _refuse_endless_parts(path: Path, part: IO[bytes]) -> None:
    """Count cells and sheets before openpyxl does, which holds a whole row and opens each sheet."""
    cells = sheets = 0

    def count(name: str, _: object) -> None:
        nonlocal cells, sheets
        tag = name.rpartition(":")[2]
        cells = 0 if tag == "row" else cells + (tag == "c")
        sheets += tag == "sheet"
        if cells > SHEET_COLUMNS or sheets > MAX_SHEETS:
            found = f"a row of more than {SHEET_COLUMNS:,} cells" if cells else "endless sheets"
            raise DataError(
                f"{path.name} has {found}, which no real workbook has.",
                "Export the sheet as CSV and choose that.",
            )

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = count
    parser.ParseFile(part)


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0][:200].rstrip(". ") if str(error) else type(error).__name__
    return DataError(
        f"{path.name} is not a readable {kind} file: {reason}.",
        "Export or download the file again.",
    )
