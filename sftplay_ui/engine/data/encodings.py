"""Which characters a file's bytes mean: detected, said with a reason, changeable by the person.

Order: a byte order mark, zero bytes (UTF-16/32), valid UTF-8, then `charset-normalizer` over the
code pages that people's spreadsheets still write. Splitting text into rows is left to the readers.
"""

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import charset_normalizer

from sftplay_ui.engine.data.bytes_in import open_bytes, read_head, unreadable
from sftplay_ui.engine.data.rows import MAX_LINE_CHARS
from sftplay_ui.engine.errors import DataError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CODE_PAGES = (
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp874",
    "koi8_r",
    "iso8859_2",
    "iso8859_5",
    "cp866",
    "big5",
    "gb18030",
    "cp932",
    "euc_jp",
    "cp949",
)
# what the person may choose instead of the guess
CHOICES = ("auto", "utf-8", "utf-16", "utf-32", "latin-1", *CODE_PAGES)
SAMPLE_BYTES = 64 * 1024
# letters and marks that French, German, Spanish, Italian, Portuguese and the Nordic languages use
WESTERN = frozenset(
    "àâäáãåæçéèêëíìîïñóòôöõøœúùûüÿßÀÂÄÁÃÅÆÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØŒÚÙÛÜ«»‹›„“”‘’‚…–—€£§°·¿¡ºª\xa0®©™²³½"
)
TURKISH = frozenset("çğıöşüâîûÇĞİÖŞÜÂÎÛ«»“”‘’…–—\xa0")
WESTERN_COUSINS = ("cp1250", "cp1254", "cp1257", "cp1258", "iso8859_2", "cp1252")
# no text holds many of these; tab, line feed, return, form feed and escape are left out
CONTROLS = bytes(code for code in range(32) if code not in (9, 10, 12, 13, 27, 30, 31, 1))
UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name and why it was taken."""

    name: str
    reason: str


def detect_encoding(path: Path, wanted: str = "auto") -> Encoding:
    """Find the encoding of a text file; `wanted` other than auto is checked and taken.

    Raises DataError when the wanted name is unknown or the bytes are no text at all.
    """
    head = read_head(path)
    if wanted != "auto":
        return _chosen(wanted, head)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "the file begins with its byte order mark")
    if b"\0" in head:
        return _with_zero_bytes(path, head)
    _refuse_binary(path, head)
    damaged = _first_bytes_outside_utf8(path)
    if not damaged:
        return Encoding("utf-8", "every byte is valid UTF-8")
    return _legacy(path, damaged)


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a file as text with every line end as "\\n"; undecodable bytes become U+DC80..U+DCFF."""
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors=errors)


def numbered_lines(path: Path, encoding: str) -> Iterator[tuple[int, str | None]]:
    """Stream (line number, text with its line end); None for a line beyond `MAX_LINE_CHARS`."""
    try:
        with open_text(path, encoding) as stream:
            number = 0
            while line := stream.readline(MAX_LINE_CHARS):
                number += 1
                if len(line) < MAX_LINE_CHARS or line.endswith("\n"):
                    yield number, line
                    continue
                yield number, None
                while (rest := stream.readline(MAX_LINE_CHARS)) and not rest.endswith("\n"):
                    pass
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from None


def _chosen(wanted: str, head: bytes) -> Encoding:
    try:
        name = codecs.lookup(wanted).name
        # refuses codecs that are no text, such as zip
        io.TextIOWrapper(io.BytesIO(), encoding=name)
    except (LookupError, ValueError):
        raise DataError(
            f'"{wanted}" is no text encoding.', f"Use one of {', '.join(CHOICES)}."
        ) from None
    if name == "utf-8" and head.startswith(codecs.BOM_UTF8):
        name = "utf-8-sig"
    return Encoding(name, "chosen by you")


def _with_zero_bytes(path: Path, head: bytes) -> Encoding:
    """Tell UTF-32 and UTF-16 without a mark from text with stray zero bytes, and from no text."""
    zeros = [head[n::4].count(0) / max(1, len(head) // 4) for n in range(4)]
    if min(zeros[0], zeros[1]) > 0.9:
        return Encoding("utf-32-be", "the upper two of four bytes are zero")
    if min(zeros[2], zeros[3]) > 0.9:
        return Encoding("utf-32-le", "the upper two of four bytes are zero")
    # in Chinese text the lower half is zero as often as the upper one: only the line ends tell
    ends = {name: _line_ends(head, name) for name in ("utf-16-le", "utf-16-be")}
    likely = max(ends, key=lambda name: ends[name])
    if ends[likely]:
        return Encoding(likely, "its line ends are two bytes wide")
    _refuse_binary(path, head)
    return Encoding("utf-8", "text with stray zero bytes")


def _refuse_binary(path: Path, head: bytes) -> None:
    if len(head) - len(head.translate(None, CONTROLS)) > 0.02 * len(head):
        raise DataError(
            f"{path.name} is not text (it is full of control characters).",
            "Choose a JSON, JSONL, CSV, TSV, Parquet, Arrow or XLSX file.",
        )


def _line_ends(head: bytes, name: str) -> int:
    text = head[: len(head) & ~1].decode(name, errors="replace")
    return 0 if "\0" in text else text.count("\n")


def _first_bytes_outside_utf8(path: Path) -> bytes:
    """Return a sample of what is not UTF-8 (empty: all is), reading the whole file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    good_bytes = 0
    with open_bytes(path) as stream:
        while piece := stream.read(2**20):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                return piece[:SAMPLE_BYTES] if good_bytes == 0 else piece
            good_bytes += len(piece)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return b"\xff"
    return b""


def _legacy(path: Path, sample: bytes) -> Encoding:
    text = sample.decode("utf-8", errors="surrogateescape")
    strange = len(UNDECODED.findall(text))
    if sum(not c.isascii() for c in text) > 5 * strange or len(text) < 2:
        return Encoding("utf-8", "UTF-8 but for a few damaged bytes")
    sample = _lines_with_foreign_bytes(sample)
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(CODE_PAGES))
    best = matches.best()
    if best is None:
        raise DataError(
            f"{path.name} is in no text encoding that could be recognised.",
            "Choose its encoding (data.encoding), or save it as UTF-8.",
        )
    name = best.encoding
    if name in WESTERN_COUSINS and _fits(sample, "cp1252", WESTERN):
        name = "cp1252"
    elif name in WESTERN_COUSINS and _fits(sample, "cp1254", TURKISH):
        name = "cp1254"
    reason = f"its bytes read best as {name}"
    if best.language and best.language != "Unknown":
        reason += ", by the letters it uses"
    return Encoding(name, f"{reason}; check the preview")


def _lines_with_foreign_bytes(sample: bytes) -> bytes:
    """Keep the lines that tell something: English ones would only dilute the guess."""
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    return b"\n".join(lines)[:SAMPLE_BYTES]


def _fits(sample: bytes, name: str, alphabet: frozenset[str]) -> bool:
    """Tell whether the bytes, read by a code page, are the letters of the languages it is for."""
    letters = [c for c in sample.decode(name, errors="replace") if not c.isascii()]
    return sum(c in alphabet for c in letters) >= 0.97 * len(letters)
