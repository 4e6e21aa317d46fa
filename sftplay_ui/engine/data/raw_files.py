"""Raw files as the configuration names them, and the copies kept of what a person brings."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from sftplay_ui.engine.config import DataConfig
from sftplay_ui.engine.data.bytes_in import check_readable, unreadable
from sftplay_ui.engine.data.header_words import ALL_WORDS, plain_name
from sftplay_ui.engine.data.hub_data import fetch_data_set, is_hub_name, parse_hub_name
from sftplay_ui.engine.data.question_lines import looks_like_questions
from sftplay_ui.engine.data.rows import ReadOptions
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import Workspace

DEFAULT_SAMPLE = "trivia.csv"


def raw_paths(config: DataConfig, workspace: Workspace) -> list[Path]:
    """Give the raw files of a configuration as absolute paths, each one checked to be readable."""
    if not config.raw_path:
        raise DataError(
            "No raw file is chosen.",
            "Set data.raw_path, drop a file in the Data tab, or use the sample "
            f"(data/samples/{DEFAULT_SAMPLE}).",
        )
    named = [config.raw_path] if isinstance(config.raw_path, str) else config.raw_path
    paths: list[Path] = []
    for name in named:
        path = workspace.resolve(name)
        if is_hub_name(name) and not path.exists():
            paths += fetch_data_set(parse_hub_name(name), workspace)
        else:
            check_readable(path)
            paths.append(path)
    return paths


def read_options(config: DataConfig) -> ReadOptions:
    """Give the settings that decide how a file is read."""
    header = None if config.header == "auto" else config.header
    return ReadOptions(config.encoding, config.delimiter, config.sheet, header)


def keep_copy(path: Path, workspace: Workspace) -> Path:
    """Copy a file a person brought into `data/raw`; the same content is kept only once."""
    check_readable(path)
    folder = workspace.data / "raw"
    name = re.sub(r"[^\w. ()-]", "_", path.name).strip(". ") or "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in _free_names(folder, name):
            if not target.exists():
                staged = target.with_name(f".{target.name}.part")
                shutil.copyfile(path, staged)
                staged.replace(target)
                return target
            if target.stat().st_size == path.stat().st_size and sha256(target) == sha256(path):
                return target
    except OSError as error:
        raise unreadable(path, error) from None
    raise DataError(f"{name} has too many copies in {folder}.", "Remove some of them.")


def keep_pasted(text: str, workspace: Workspace) -> Path:
    """Write pasted text into `data/raw` under an ending that fits its form."""
    if not text.strip():
        raise DataError("Nothing was pasted.", "Paste JSON, JSON lines, a table, or Q: / A: pairs.")
    folder = workspace.data / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".pasted{_ending(text)}"
    staged.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    named = staged.with_name(f"pasted{_ending(text)}")
    try:
        for target in _free_names(folder, named.name):
            if not target.exists() or sha256(target) == sha256(staged):
                staged.replace(target)
                return target
    finally:
        staged.unlink(missing_ok=True)
    raise DataError("Too many pasted texts are kept.", f"Remove some pasted files from {folder}.")


def sha256(path: Path) -> str:
    """Hash a file's bytes."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise unreadable(path, error) from None
    return digest.hexdigest()


def _free_names(folder: Path, name: str) -> Sequence[Path]:
    stem, dot, ending = name.partition(".")
    copies = [f"{stem}-{number}{dot}{ending}" for number in range(2, 1000)]
    return [folder / name, *(folder / copy for copy in copies)]


def _ending(text: str) -> str:
    start = text.lstrip()
    if start[0] == "{" and "\n" in start.strip() and start.splitlines()[0].rstrip().endswith("}"):
        return ".jsonl"
    if start[0] in "[{":
        return ".json"
    if looks_like_questions(text):
        return ".txt"
    first = start.splitlines()[0]
    known = [plain_name(cell) for cell in first.split("\t")]
    return ".tsv" if len(known) > 1 or (known and known[0] in ALL_WORDS) else ".csv"
