"""The raw files to choose from, a first look at the chosen ones, and how they are to be read."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import DataConfig, RunConfig
from sftplay_ui.engine.config_file import config_to_yaml, load_config, make_config
from sftplay_ui.engine.data.convert import Converted, Rejected, convert
from sftplay_ui.engine.data.process import sample_values
from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.rows import BrokenRow, Facts, RawRow, ReadOptions
from sftplay_ui.engine.data.shapes import (
    RoleMapping,
    describe_columns,
    guess_mapping,
    mapping_from_config,
)
from sftplay_ui.engine.errors import DataError, SFTPlayError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

# in the order in which a page asks for them
ROLES = {
    "user": "Question",
    "assistant": "Answer",
    "messages": "Conversation",
    "system": "System prompt",
    "context": "Extra input",
    "options": "Options",
}
BUNDLED = Workspace(PROJECT_ROOT).samples
DATA_KINDS = {".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx"}
PREVIEW_ROWS = 60
HEADERS = {"auto": None, "yes": True, "no": False}
SETTINGS_NAME = "settings.yaml"
# files dropped at once are copied within this time
TOGETHER_SECONDS = 5
# `current.json` holds texts only; no file name holds a line break
BETWEEN_FILES = "\n"


@dataclass(frozen=True)
class Reading:
    """How a person wants raw files read: `auto` and an empty mapping leave it to the guess."""

    files: tuple[str, ...]
    encoding: str = "auto"
    delimiter: str = "auto"
    header: str = "auto"
    sheet: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> ReadOptions:
        return ReadOptions(
            self.encoding or "auto",
            self.delimiter or "auto",
            self.sheet or None,
            HEADERS.get(self.header),
        )

    def settings(self) -> dict[str, object]:
        """Give the settings by dotted path, for `make_config`."""
        header = HEADERS.get(self.header)
        found: dict[str, object] = {
            "data.raw_path": self.files[0] if len(self.files) == 1 else [*self.files],
            "data.encoding": self.encoding or "auto",
            "data.delimiter": self.delimiter or "auto",
            "data.header": "auto" if header is None else header,
        }
        if self.sheet:
            found["data.sheet"] = self.sheet
        if self.columns:
            found["data.mapping"] = dict(self.columns)
        return found

    def config(self, **more: object) -> RunConfig:
        """Check the settings; `more` has dots written as double underscores."""
        extra = {path.replace("__", "."): value for path, value in more.items()}
        return make_config({**self.settings(), **extra})


@dataclass(frozen=True)
class Look:
    """A first look at one raw file: its facts, its columns, and the guessed roles."""

    name: str
    facts: Facts
    columns: tuple[str, ...]
    guess: RoleMapping


@dataclass(frozen=True)
class Looks:
    """A first look at all chosen files; the first one fills the controls."""

    each: tuple[Look, ...]

    @property
    def first(self) -> Look:
        return self.each[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of all files, in the order they come by."""
        return tuple(dict.fromkeys(column for look in self.each for column in look.columns))

    @property
    def agree(self) -> bool:
        """Tell whether all files are guessed to have the same roles in the same columns."""
        return all(look.guess.columns == self.first.guess.columns for look in self.each)

    @property
    def are_usable(self) -> bool:
        return all(look.guess.is_usable for look in self.each)


@dataclass(frozen=True)
class PreviewRow:
    """One row as it will be: where it is, and its examples or why there are none."""

    place: str
    result: Converted | Rejected


def raw_files(workspace: Workspace) -> list[tuple[str, str]]:
    """List the files that were brought and the samples, as label and path from the root."""
    brought = [path for path in (workspace.data / "raw").glob("*") if is_data(path)]
    newest = sorted(brought, key=lambda path: -path.stat().st_mtime)
    samples = sorted(path for path in sample_folder(workspace).glob("*") if is_data(path))
    listed = [(path.name, workspace.shorten(path)) for path in newest]
    return listed + [(f"{path.name} (sample)", workspace.shorten(path)) for path in samples]


def is_data(path: Path) -> bool:
    """Tell a file to choose from a folder, a note or something half written."""
    known = {*DATA_KINDS, ".txt", ".gz", ".arrow"}
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in known


def sample_folder(workspace: Workspace) -> Path:
    """Find the bundled samples: the project's own, else those that come with the app."""
    return workspace.samples if workspace.samples.is_dir() else BUNDLED


def chosen_files(workspace: Workspace) -> list[str]:
    """Name the files a page opens with: what was brought since processing, or its sources."""
    current = current_data(workspace)
    done = workspace.resolve(current.train_path).stat().st_mtime if current else 0.0
    times = {path: path.stat().st_mtime for path in (workspace.data / "raw").glob("*")}
    brought = {path: time for path, time in times.items() if is_data(path)}
    newest = max(brought.values(), default=0.0)
    if newest > done:
        together = [path for path, time in brought.items() if time > newest - TOGETHER_SECONDS]
        return sorted(workspace.shorten(path) for path in together)
    named = current.source.split(BETWEEN_FILES) if current and current.source else []
    return [file for file in named if workspace.resolve(file).is_file()]


def checked_file(file: str | None, workspace: Workspace) -> Path:
    """Give the path of a chosen file; a page only sees the project's data and the samples."""
    if not file:
        raise DataError("No file is chosen.", "Drop a file, paste text, or press Use the sample.")
    path = workspace.resolve(file)
    homes = (workspace.data, BUNDLED)
    if not any(path.is_relative_to(home.resolve()) for home in homes) or not path.is_file():
        raise DataError(
            f"There is no data file {file}.", "Choose one of the list, or drop it again."
        )
    return path


def look_at(reading: Reading, workspace: Workspace) -> Looks:
    """Open the files and guess what their columns mean."""
    if not reading.files:
        checked_file(None, workspace)
    looks: list[Look] = []
    for file in reading.files:
        source = open_source(checked_file(file, workspace), reading.options)
        values = sample_values(source)
        tables = [value for value in values if isinstance(value, dict)]
        columns = tuple(column.name for column in describe_columns(tables))
        known = columns or source.facts.columns
        looks.append(Look(source.path.name, source.facts, known, guess_mapping(values)))
    return Looks(tuple(looks))


def settled(reading: Reading, looks: Looks) -> Reading:
    """Leave the columns to each file's own guess, where a person has not chosen other ones.

    Files of different kinds have no common columns; what was only guessed for the first of them is
    no choice for the others.
    """
    guessed = dict(reading.columns) == looks.first.guess.columns
    if guessed and not looks.agree:
        return dataclasses.replace(reading, columns=())
    return reading


def is_settled(reading: Reading, looks: Looks) -> bool:
    """Tell whether it is known which column is what, for every file."""
    if not reading.columns:
        return looks.are_usable
    roles = dict(reading.columns)
    return "messages" in roles or {"user", "assistant"} <= roles.keys()


def preview(reading: Reading, looks: Looks, workspace: Workspace) -> list[list[PreviewRow]]:
    """Convert the first rows of every file by the chosen roles (or its guess)."""
    reading = settled(reading, looks)
    if not is_settled(reading, looks):
        return []
    found: list[list[PreviewRow]] = []
    for file, look in zip(reading.files, looks.each, strict=True):
        roles = dict(reading.columns)
        mapping = mapping_from_config(roles, look.columns) if roles else look.guess
        rows = open_source(checked_file(file, workspace), reading.options).rows()
        first = itertools.islice(rows, PREVIEW_ROWS)
        found.append([PreviewRow(str(row.place), result_of(row, mapping)) for row in first])
    return found


def result_of(row: RawRow | BrokenRow, mapping: RoleMapping) -> Converted | Rejected:
    """Convert one row; a broken one is refused with the reader's words."""
    if isinstance(row, BrokenRow):
        return Rejected(row.kind, row.reason)
    return convert(row.value, mapping)


def chosen_columns(values: Sequence[str | None]) -> tuple[tuple[str, str], ...]:
    """Pair roles with the columns chosen for them; empty choices are left out."""
    return tuple((role, column) for role, column in zip(ROLES, values, strict=True) if column)


def read_form(values: Sequence[Any]) -> Reading:
    """Read the controls: files, encoding, delimiter, header, sheet, then the roles."""
    files, encoding, delimiter, header, sheet, *roles = values
    columns = chosen_columns(roles) if roles else ()
    return Reading(tuple(files or ()), encoding, delimiter, header, sheet or "", columns)


def settings_file(workspace: Workspace) -> Path:
    """Name the file that keeps how this project's data is read; it need not be there."""
    return workspace.data / SETTINGS_NAME


def keep_settings(config: RunConfig, workspace: Workspace) -> Path:
    """Write down how the data is read, mended and split, as a configuration for the terminal."""
    path = settings_file(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, config_to_yaml(config, changed_only=True))
    return path


def kept_settings(workspace: Workspace) -> DataConfig | None:
    """Read the settings the project keeps; a damaged file counts as none."""
    try:
        return load_config(settings_file(workspace), [], workspace).config.data
    except (SFTPlayError, OSError):
        return None


def reading_of(files: Sequence[str], kept: DataConfig | None) -> Reading:
    """Give the reading kept for exactly these files, else one that leaves all to the guess."""
    named = [kept.raw_path] if kept and isinstance(kept.raw_path, str) else kept and kept.raw_path
    if kept is None or named != [*files]:
        return Reading(tuple(files))
    header = "auto" if kept.header == "auto" else "yes" if kept.header else "no"
    return Reading(
        tuple(files),
        kept.encoding,
        kept.delimiter,
        header,
        kept.sheet or "",
        tuple(kept.mapping.items()),
    )
