"""The raw files a person can choose from, and a first look at the chosen one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import make_config
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
from sftplay_ui.engine.errors import DataError
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


@dataclass(frozen=True)
class Reading:
    """How a person wants a raw file read: `auto` and an empty mapping leave it to the guess."""

    file: str
    encoding: str = "auto"
    delimiter: str = "auto"
    sheet: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> ReadOptions:
        return ReadOptions(self.encoding or "auto", self.delimiter or "auto", self.sheet or None)

    def settings(self) -> dict[str, object]:
        """Give the settings by dotted path, for `make_config`."""
        found: dict[str, object] = {
            "data.raw_path": self.file,
            "data.encoding": self.encoding or "auto",
            "data.delimiter": self.delimiter or "auto",
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
    """A first look at a raw file: its facts, its columns, and the guessed roles."""

    facts: Facts
    columns: tuple[str, ...]
    guess: RoleMapping


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


def chosen_file(workspace: Workspace) -> str | None:
    """Name the file a page opens with: what was brought since processing, or its source."""
    current = current_data(workspace)
    done = workspace.resolve(current.train_path).stat().st_mtime if current else 0.0
    brought = [path for path in (workspace.data / "raw").glob("*") if is_data(path)]
    newest = max(brought, key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None and newest.stat().st_mtime > done:
        return workspace.shorten(newest)
    return current.source if current and current.source else None


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


def look_at(reading: Reading, workspace: Workspace) -> Look:
    """Open a file and guess what its columns mean."""
    source = open_source(checked_file(reading.file, workspace), reading.options)
    values = sample_values(source)
    tables = [value for value in values if isinstance(value, dict)]
    columns = tuple(column.name for column in describe_columns(tables))
    return Look(source.facts, columns or source.facts.columns, guess_mapping(values))


def preview(reading: Reading, look: Look, workspace: Workspace) -> list[PreviewRow]:
    """Convert the first rows by the chosen roles (or the guess)."""
    mapping = chosen_mapping(reading, look)
    if mapping is None:
        return []
    source = open_source(checked_file(reading.file, workspace), reading.options)
    found: list[PreviewRow] = []
    for row, _ in zip(source.rows(), range(PREVIEW_ROWS), strict=False):
        found.append(PreviewRow(str(row.place), result_of(row, mapping)))
    return found


def result_of(row: RawRow | BrokenRow, mapping: RoleMapping) -> Converted | Rejected:
    """Convert one row; a broken one is refused with the reader's words."""
    if isinstance(row, BrokenRow):
        return Rejected(row.kind, row.reason)
    return convert(row.value, mapping)


def chosen_mapping(reading: Reading, look: Look) -> RoleMapping | None:
    """Take the roles a person chose, else the guess; None where they do not suffice."""
    if not reading.columns:
        return look.guess if look.guess.is_usable else None
    roles = dict(reading.columns)
    if "messages" not in roles and not {"user", "assistant"} <= roles.keys():
        return None
    return mapping_from_config(roles, look.columns)


def chosen_columns(values: Sequence[str | None]) -> tuple[tuple[str, str], ...]:
    """Pair roles with the columns chosen for them; empty choices are left out."""
    return tuple((role, column) for role, column in zip(ROLES, values, strict=True) if column)


def read_form(values: Sequence[Any]) -> Reading:
    """Read the controls of the reading: file, encoding, delimiter, sheet, then the roles."""
    file, encoding, delimiter, sheet, *roles = values
    columns = chosen_columns(roles) if roles else ()
    return Reading(file or "", encoding, delimiter, sheet or "", columns)
