"""JSON documents as rows: an array, one object, a list wrapped in an object, or whole columns.

Arrays are read in pieces, so their size is bounded only by the disk. JSON lines are left to
`json_lines`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from sftplay_ui.engine.data.bytes_in import unreadable
from sftplay_ui.engine.data.encodings import UNDECODED, open_text
from sftplay_ui.engine.data.json_lines import doubled_key
from sftplay_ui.engine.data.json_pieces import JsonPieces, PieceError
from sftplay_ui.engine.data.rows import BrokenRow, Place, RawRow, Row
from sftplay_ui.engine.errors import DataError

# columns and single objects are held whole; a list of rows never is
MAX_WHOLE_BYTES = 64 * 2**20
TURN_KEYS = ({"role", "content"}, {"from", "value"}, {"role", "value"}, {"from", "content"})


def read_json_document(path: Path, encoding: str) -> Iterator[Row]:
    """Stream the rows of a JSON document; a broken element of an array is one broken row."""
    try:
        with open_text(path, encoding) as stream:
            pieces = JsonPieces(stream)
            if pieces.peek() == "{" and not _find_list_of_rows(path, pieces):
                rows = _whole(path, encoding)
            else:
                rows = _array(path, pieces)
            yield from rows
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from None


def _array(path: Path, pieces: JsonPieces) -> Iterator[Row]:
    """Stream the elements of the list that the cursor stands at."""
    if pieces.peek() != "[":
        raise DataError(
            f"{path.name}:{pieces.line} is not JSON: it begins with {pieces.peek()!r}.",
            "Choose a file that begins with [ or {, or rename it to what it is.",
        )
    pieces.take("[")
    place = Place(path, 0)
    in_one_line = False
    rows = 0
    while (character := pieces.peek()) != "]":
        rows += 1
        # a document without line breaks has no lines to name: its rows are numbered instead
        in_one_line = in_one_line or (rows == 2 and pieces.line == place.line)
        place = Place(path, rows if in_one_line else pieces.line)
        if character == "":
            yield BrokenRow(place, "truncated_json", "the file ends inside its list")
            return
        if character == ",":
            pieces.take(",")
            yield BrokenRow(place, "broken_json", "a comma with no value before it")
            continue
        try:
            value = pieces.value()
        except PieceError as error:
            yield BrokenRow(place, error.kind, error.reason)
            if not pieces.skip_to_next_object():
                return
            continue
        yield _checked(place, value, pieces.last_text)
        if pieces.peek() == ",":
            pieces.take(",")
            if pieces.peek() == "]":
                comma = Place(path, pieces.line)
                yield BrokenRow(comma, "broken_json", "a comma with no value after it")
    pieces.take("]")
    if pieces.peek() not in ("", ",", "}"):
        place = Place(path, pieces.line)
        reason = "text follows the end of the list; it is not read"
        yield BrokenRow(place, "text_after_json", reason)


def _checked(place: Place, value: object, text: str = "") -> Row:
    texts = value.values() if isinstance(value, dict) else (value,)
    if any(isinstance(text, str) and UNDECODED.search(text) for text in texts):
        return BrokenRow(place, "undecodable", "the value holds bytes that are not UTF-8")
    if isinstance(value, dict) and (key := doubled_key(value, text)):
        return BrokenRow(place, "doubled_key", f'the key "{key}" appears twice')
    return RawRow(place, value)


def _find_list_of_rows(path: Path, pieces: JsonPieces) -> bool:
    """Walk the keys of the opened object up to a list of objects; False: there is none.

    A list of turns is one conversation and not a list of rows, so it does not count.
    """
    pieces.take("{")
    try:
        while pieces.peek() == '"':
            pieces.value()
            if pieces.peek() != ":":
                return False
            pieces.take(":")
            if pieces.peek() == "[" and pieces.peek_second() == "{":
                return not _is_turn(pieces.peek_inside())
            pieces.value()
            if pieces.peek() == ",":
                pieces.take(",")
    except PieceError as error:
        raise DataError(
            f"{path.name}:{pieces.line} cannot be read: {error.reason}.",
            "Correct the file there, or export it again as JSON lines (one object a line).",
        ) from None
    return False


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and any(keys <= value.keys() for keys in TURN_KEYS)


def _whole(path: Path, encoding: str) -> Iterator[Row]:
    """Read a single object, or a table written as columns."""
    with open_text(path, encoding) as stream:
        text = stream.read(MAX_WHOLE_BYTES + 1)
    if len(text) > MAX_WHOLE_BYTES:
        raise DataError(
            f"{path.name} is one JSON object of more than {MAX_WHOLE_BYTES >> 20} MB, "
            "which would have to be held in memory whole.",
            "Export it as JSON lines (one object a line), CSV or Parquet.",
        )
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name}:{error.lineno} is broken JSON: {error.msg} (column {error.colno}).",
            "Correct the file there, or export it again.",
        ) from None
    except RecursionError:
        raise DataError(
            f"{path.name} is nested too deeply to be data.", "Export it as JSON lines."
        ) from None
    for number, row in enumerate(_table_rows(value) or [value], start=1):
        yield _checked(Place(path, number), row)


def _table_rows(value: dict[str, object]) -> list[object]:
    """Turn columns into rows: name to list, name to {index: value}, or columns beside data."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        if all(isinstance(row, list) and len(row) == len(columns) for row in data):
            return [dict(zip(columns, row, strict=True)) for row in data]
        return data
    if isinstance(columns, dict) and len(value) == 1:
        value = columns
    lists = {name: column for name, column in value.items() if isinstance(column, list)}
    lengths = {len(column) for column in lists.values()}
    if len(lists) > 1 and len(lengths) == 1 and not any(map(_holds_turns, lists.values())):
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    tables = {name: column for name, column in value.items() if isinstance(column, dict)}
    if len(tables) == len(value) > 1 and len({tuple(t) for t in tables.values()}) == 1:
        keys = next(iter(tables.values()))
        if all(re.fullmatch(r"\d+", key) for key in keys):
            return [{name: tables[name][key] for name in tables} for key in keys]
        if all(re.fullmatch(r"\d+", key) for key in tables):
            return list(tables.values())
    return []


def _holds_turns(column: list[object]) -> bool:
    return bool(column) and _is_turn(column[0])
