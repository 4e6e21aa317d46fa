"""Which reader a file needs: by its content first, by its name where the content could be several.

Every reader streams rows with their places; what the rows mean is left to `shapes`.
"""

from dataclasses import replace
from pathlib import Path

import orjson

from sftplay_ui.engine.data import columnar, delimited, json_document, json_lines, question_lines
from sftplay_ui.engine.data.bytes_in import HEAD_BYTES, check_readable, is_gzip, read_head
from sftplay_ui.engine.data.encodings import Encoding, detect_encoding
from sftplay_ui.engine.data.rows import Facts, ReadOptions, Source
from sftplay_ui.engine.errors import DataError

SUPPORTED = "JSON, JSONL, CSV, TSV, Parquet, Arrow and XLSX, as they are or in gzip"
JSON_LINES_NAMES = (".jsonl", ".ndjson", ".jsonlines")
TABLE_NAMES = (".csv", ".tsv", ".tab", ".psv")
SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (.xls, .doc)"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"SQLite format 3", "an SQLite data base"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"GGUF", "model weights"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"\x7fELF", "a program"),
)
UNSUPPORTED_NAMES = {
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
    ".toml": "a TOML file",
    ".xml": "an XML file",
    ".html": "a web page",
    ".htm": "a web page",
    ".md": "a Markdown text",
    ".py": "a program",
    ".pkl": "a Python pickle, which can run code",
    ".pickle": "a Python pickle, which can run code",
    ".pt": "a PyTorch file, which can run code",
    ".bin": "a binary file",
    ".safetensors": "model weights",
    ".zip": "a ZIP archive",
    ".tar": "a TAR archive",
    ".tgz": "a TAR archive",
    ".ods": "an OpenDocument sheet",
    ".docx": "a Word document",
    ".odt": "a text document",
    ".rtf": "a text document",
}


def open_source(path: Path, options: ReadOptions | None = None) -> Source:
    """Open a data file of any supported kind.

    Raises DataError where there is no readable file, or where its kind is not supported.
    """
    options = options or ReadOptions()
    check_readable(path)
    head = read_head(path)
    packed = is_gzip(path)
    binary = _open_binary(path, head, options, packed=packed)
    source = binary or _open_text(path, head, options)
    if packed:
        notes = ("unpacked from gzip", *source.facts.notes)
        source = replace(source, facts=replace(source.facts, notes=notes))
    return source


def _open_binary(path: Path, head: bytes, options: ReadOptions, *, packed: bool) -> Source | None:
    is_parquet, is_zip = head.startswith(b"PAR1"), head.startswith(b"PK\x03\x04")
    is_arrow = head.startswith((b"ARROW1", b"\xff\xff\xff\xff")) and not _is_utf32(head)
    if packed and (is_parquet or is_zip or is_arrow):
        raise DataError(
            f"{path.name} is a binary table inside gzip.", "Unpack it and choose the result."
        )
    if is_parquet:
        return columnar.open_parquet(path)
    if is_arrow:
        return columnar.open_arrow(path)
    if is_zip:
        if b"xl/" in head or path.suffix.lower() in (".xlsx", ".xlsm"):
            return columnar.open_sheet(path, options)
        raise _unsupported(path, UNSUPPORTED_NAMES.get(path.suffix.lower(), "a ZIP archive"))
    if name := _known_by_content(head):
        raise _unsupported(path, name)
    if head.startswith(b"\x80") and path.suffix.lower() in (".pkl", ".pickle", ".pt", ".bin"):
        raise _unsupported(path, UNSUPPORTED_NAMES[".pkl"])
    if path.suffix.lower() in (".parquet", ".arrow", ".feather", ".xlsx"):
        raise DataError(
            f"{path.name} is named {path.suffix} but is not of that kind.",
            "Download or export it again, or rename it to what it is.",
        )
    return None


def _known_by_content(head: bytes) -> str:
    if head[257:262] == b"ustar":
        return "a TAR archive"
    return next((name for signature, name in SIGNATURES if head.startswith(signature)), "")


def _is_utf32(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"))


def _open_text(path: Path, head: bytes, options: ReadOptions) -> Source:
    suffix = _suffix(path)
    if suffix in UNSUPPORTED_NAMES:
        raise _unsupported(path, UNSUPPORTED_NAMES[suffix])
    encoding = detect_encoding(path, options.encoding)
    text = head.decode(encoding.name, errors="replace").lstrip("\ufeff \t\r\n\0")
    if not text and len(head) < HEAD_BYTES:
        raise DataError(
            f"{path.name} holds nothing but white space.", "Choose a file that has rows."
        )
    facts = Facts("", path.stat().st_size, encoding.name, encoding.reason)
    if suffix in JSON_LINES_NAMES and not _is_spread_out(text):
        return _json_lines(path, facts)
    if suffix not in TABLE_NAMES:
        if text[:1] in ("[", "{"):
            return _json(path, facts, text)
        if suffix == ".json":
            return _json_lines(path, facts)
        if question_lines.looks_like_questions(text):
            facts = replace(facts, kind="questions and answers", columns=("question", "answer"))
            return Source(path, facts, lambda: question_lines.read_questions(path, encoding.name))
    return _table(path, encoding, facts, options)


def _suffix(path: Path) -> str:
    """Give the ending that names the kind, looking under a `.gz`."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _json(path: Path, facts: Facts, text: str) -> Source:
    lines = [line for line in text.splitlines()[:200] if line.strip()]
    if len(lines) > 1 and (_is_whole(lines[0]) or _is_whole(lines[1])):
        return _json_lines(path, facts)
    name = facts.encoding or "utf-8"
    facts = replace(facts, kind="JSON")
    return Source(path, facts, lambda: json_document.read_json_document(path, name))


def _json_lines(path: Path, facts: Facts) -> Source:
    name = facts.encoding or "utf-8"
    facts = replace(facts, kind="JSON lines")
    return Source(path, facts, lambda: json_lines.read_json_lines(path, name))


def _is_spread_out(text: str) -> bool:
    """Tell a JSON document that is only named like JSON lines."""
    lines = [line.strip() for line in text.splitlines()[:50] if line.strip()]
    return bool(lines) and lines[0] in ("[", "{") and not any(_is_whole(line) for line in lines[1:])


def _is_whole(line: str) -> bool:
    """Tell whether a line is a JSON object or list by itself."""
    try:
        return isinstance(orjson.loads(line.strip()), (dict, list))
    except orjson.JSONDecodeError:
        return False


def _table(path: Path, encoding: Encoding, facts: Facts, options: ReadOptions) -> Source:
    table = delimited.detect_table(path, encoding.name, options)
    facts = replace(
        facts,
        kind="TSV" if table.delimiter == "\t" else "CSV",
        delimiter=table.delimiter,
        header=table.header,
        columns=table.columns,
        notes=table.notes,
    )
    return Source(path, facts, lambda: delimited.read_table(path, encoding.name, table))


def _unsupported(path: Path, name: str) -> DataError:
    if name.endswith("archive"):
        fix = "Unpack it, and choose the file inside."
    elif name.startswith(("an old Office", "an OpenDocument")):
        fix = "Save it as XLSX or CSV, and choose that."
    else:
        fix = f"Choose one of {SUPPORTED}."
    return DataError(f"{path.name} is {name}: that kind of file is not read.", fix)
