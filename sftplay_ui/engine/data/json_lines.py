"""JSON lines: one value a line, every broken line kept with its place, its kind and its reason.

Whole JSON documents (arrays, wrapped lists, columns) are left to `json_document`.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from sftplay_ui.engine.data.encodings import UNDECODED, numbered_lines
from sftplay_ui.engine.data.rows import MAX_LINE_CHARS, BrokenRow, Place, RawRow, Row

# Python's own parser is asked about lines in Python's notation; it recurses: only modest ones
MAX_PYTHON_CHARS = 64 * 1024
MAX_PYTHON_DEPTH = 50
# looking for each key in the text is quick only while there are few
FEW_KEYS = 30
COMMENT = re.compile(r"\s*(//|#|/\*)")


def read_json_lines(path: Path, encoding: str) -> Iterator[Row]:
    """Stream one row per line, blank and broken lines included."""
    for number, line in numbered_lines(path, encoding):
        place = Place(path, number)
        if line is None:
            reason = f"the line is longer than {MAX_LINE_CHARS:,} characters"
            yield BrokenRow(place, "line_too_long", reason)
        else:
            yield parse_line(place, line)


def parse_line(place: Place, line: str) -> Row:
    """Turn one line into a row, or say why it is none."""
    if line == "\n":  # asked before any parser: files have been seen to hold millions of them
        return BrokenRow(place, "blank_lines", "the line is blank")
    changes: tuple[str, ...] = ()
    if "\0" in line:
        line, changes = line.replace("\0", ""), ("zero_bytes_removed",)
    try:
        value = orjson.loads(line)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return _parse_strange_line(place, line, changes)
    if isinstance(value, dict) and (key := doubled_key(value, line)):
        return BrokenRow(place, "doubled_key", f'the key "{key}" appears twice')
    return RawRow(place, value, changes)


def doubled_key(value: dict[str, object], line: str) -> str | None:
    """Find a key that the object's text holds twice: parsers keep the last value, silently."""
    if len(value) <= FEW_KEYS:
        for key in value:
            if line.count(f'"{key}"') > 1:
                break
        else:
            return None
    # the name may also stand in a text or deeper down: only now the slow, exact look
    doubled: list[str] = []

    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = Counter(name for name, _ in pairs)
            doubled.append(names.most_common(1)[0][0])
        return found

    json.loads(line, object_pairs_hook=collect)
    return doubled[0] if doubled else None


def _parse_strange_line(place: Place, line: str, changes: tuple[str, ...]) -> Row:
    """Read what only Python's parser accepts (NaN, half characters), classify the rest."""
    text = line.strip()
    if not text:
        return BrokenRow(place, "blank_lines", "the line is blank")
    if UNDECODED.search(text):
        return BrokenRow(place, "undecodable", "the line holds bytes that are not UTF-8")
    try:
        return RawRow(place, json.loads(text), changes)
    except RecursionError:
        return BrokenRow(place, "nested_too_deep", "the value is nested too deeply")
    except ValueError as error:
        return _broken(place, text, error)


def _broken(place: Place, text: str, error: ValueError) -> BrokenRow:
    if COMMENT.match(text):
        return BrokenRow(place, "comment_line", "the line is a comment, not JSON")
    mended = _without_trailing_comma(text)
    if mended is not None:
        kind, reason = "trailing_comma_after_object", "a comma follows the value"
        return BrokenRow(place, kind, reason, mended)
    mended = _python_value(text)
    if mended is not None:
        kind = "python_repr_single_quotes"
        return BrokenRow(place, kind, "the line is Python notation, not JSON", mended)
    if _is_cut(text, error):
        return BrokenRow(place, "truncated_json", "the line ends in the middle of a value")
    where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    message = getattr(error, "msg", str(error))
    return BrokenRow(place, "broken_json", f"not JSON{where}: {message}")


def _without_trailing_comma(text: str) -> object:
    if not text.endswith(","):
        return None
    try:
        return json.loads(text[:-1])
    except (ValueError, RecursionError):
        return None


def _python_value(text: str) -> object:
    """Read a dict or list in Python's notation; nothing in it is ever run."""
    depth = text.count("{") + text.count("[") + text.count("(")
    if text[0] not in "{[" or len(text) > MAX_PYTHON_CHARS or depth > MAX_PYTHON_DEPTH:
        return None
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _is_cut(text: str, error: ValueError) -> bool:
    if not isinstance(error, json.JSONDecodeError) or text[0] not in '{["':
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text)
