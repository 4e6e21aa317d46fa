"""Binary tables: Parquet, Arrow (file and stream) and Excel sheets, row by row in bounded memory.

Whatever the file, a row becomes column -> value; what the columns mean is left to `shapes`.
"""

import itertools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import openpyxl.utils.exceptions
import pyarrow
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
    unique_names,
)
from sftplay_ui.engine.errors import DataError

BATCH_ROWS = 1024
ARROW_FILE_MAGIC = b"ARROW1"


def open_parquet(path: Path) -> Source:
    """Open a Parquet file; raise DataError where it is damaged."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
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
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Arrow", error) from None
    facts = Facts("Arrow", path.stat().st_size, columns=columns)
    return Source(path, facts, lambda: _read_arrow(path))


def open_sheet(path: Path, options: ReadOptions) -> Source:
    """Open one sheet of an Excel workbook; formulas are read as the text they are."""
    _refuse_zip_bomb(path)
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
        with pyarrow.parquet.ParquetFile(path) as file:
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
            slices = (
                batch.slice(start, BATCH_ROWS)
                for batch in batches
                for start in range(0, batch.num_rows, BATCH_ROWS)
            )
            yield from _rows(path, slices)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, "Arrow", error) from None


def _open_batches(path: Path, file: Any) -> Any:
    with path.open("rb") as head:
        is_file = head.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
    return pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)


def _rows(path: Path, batches: Iterator[Any]) -> Iterator[Row]:
    numbers = itertools.count(1)
    for batch in batches:
        for value in batch.to_pylist():
            yield RawRow(Place(path, next(numbers)), value)


def _read_sheet(path: Path, facts: Facts, start: int) -> Iterator[Row]:
    book = _open_book(path)
    width = len(facts.columns)
    blank: list[Place] = []
    try:
        for number, cells in _cells(path, book[facts.sheet]):
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
    return (cell is not None and str(cell).strip() != "" for cell in cells)


def _cells(path: Path, sheet: Any) -> Iterator[tuple[int, tuple[object, ...]]]:
    try:
        yield from enumerate(sheet.iter_rows(values_only=True), start=1)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, OSError, SyntaxError) as error:
        raise _damaged(path, "XLSX", error) from None


def _open_book(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # openpyxl speaks of styles and extensions that do not matter for the text of the cells
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(path, read_only=True, data_only=False)
    except (
        openpyxl.utils.exceptions.InvalidFileException,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        OSError,
        TypeError,
        SyntaxError,
    ) as error:
        raise _damaged(path, "XLSX", error) from None


def _refuse_zip_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, "XLSX", error) from None
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
        raise DataError(
            f"{path.name} unpacks to {unpacked >> 20} MB, far more than a real workbook.",
            "Export the sheet as CSV and choose that.",
        )


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataError(
        f"{path.name} is not a readable {kind} file: {reason}.",
        "Export or download the file again.",
    )
