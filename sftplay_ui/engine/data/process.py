"""From raw files to `data/processed`: read, convert, check, split, write, account for all of it.

Everything is written under staged names first and swapped in as one at the very end, so an earlier
set stays as it was until the new one is whole. Findings are left to `doctor`, words to `report`.
"""

import dataclasses
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sftplay_ui.engine.atomic_file import swap_in
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.card import data_card
from sftplay_ui.engine.data.doctor import Diagnosis, check_fixes, diagnose
from sftplay_ui.engine.data.edits import EDITS_NAME, SET_ASIDE_NAME, Edits, read_edits
from sftplay_ui.engine.data.findings import Finding
from sftplay_ui.engine.data.marks import marks_path, write_marks
from sftplay_ui.engine.data.raw_files import raw_paths, read_options, sha256
from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.report import LengthReport, ProcessReport, SourceReport, TokenReport
from sftplay_ui.engine.data.row_checks import Measure
from sftplay_ui.engine.data.rows import RawRow, Source, refuse_width
from sftplay_ui.engine.data.shapes import (
    SAMPLE_ROWS,
    RoleMapping,
    describe_columns,
    guess_mapping,
    mapping_from_config,
)
from sftplay_ui.engine.data.split import LEFT_OUT, SPLITS, Sizes, assign_splits
from sftplay_ui.engine.data.staging import Input, Staged, stage, staged_lines
from sftplay_ui.engine.data.table import journal_of
from sftplay_ui.engine.data.tally import Occurrence
from sftplay_ui.engine.errors import DataError, DiskFullError
from sftplay_ui.engine.workspace import Workspace

REPORT_NAME = "report.json"
CARD_NAME = "data_card.md"
STALE_SECONDS = 24 * 3600
SEARCHED_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class DataProgress:
    """How far processing is: `phase` is read, compare or write; `total` is None while unknown."""

    phase: str
    done: int
    total: int | None


OnProgress = Callable[[DataProgress], None]


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor saw in raw files: rows read, examples found, rows left out and why."""

    rows: int
    found: int
    dropped: dict[str, int]
    changed: dict[str, int]
    examples: dict[str, tuple[Occurrence, ...]]
    findings: tuple[Finding, ...]


def process_files(
    config: RunConfig,
    workspace: Workspace,
    on_progress: OnProgress | None = None,
    *,
    measure: Measure | None = None,
) -> ProcessReport:
    """Write train, val and test from the raw files of a configuration; return the account.

    `measure` tells the token lengths of an example; without it nothing is said about cuts. Raises
    DataError for input that cannot be used; nothing is written or replaced then.
    """
    data = config.data
    inputs = open_inputs(config, workspace)
    sizes = Sizes(data.split.train, data.split.val, data.split.test)
    tell = on_progress or (lambda progress: None)
    paths = target_paths(config, workspace)
    home = paths["train"].parent
    edits = read_edits(home) if data.keep_edits else Edits()
    with staging_folder(home) as folder:
        staged = stage(
            inputs,
            folder,
            fixes=data.fixes,
            measure=measure,
            on_rows=lambda rows: tell(DataProgress("read", rows, None)),
            edits=edits,
        )
        refuse_nothing(staged)
        tell(DataProgress("compare", 0, len(staged)))
        diagnosis = diagnose(staged, data.fixes)
        splits = split_staged(staged, diagnosis, sizes, seed=data.seed)
        tell(DataProgress("write", 0, len(staged)))
        written = _write_splits(staged, splits, folder)
        for number, path in enumerate(written.values()):
            write_marks(marks_path(path), diagnosis.marks[splits == number])
        report = _report(config, workspace, staged, diagnosis, splits)
        if edits.unused:
            report = dataclasses.replace(report, notes=(*report.notes, _not_made(edits)))
        report = dataclasses.replace(report, sha256={n: sha256(p) for n, p in written.items()})
        _write_account(report, folder)
        _keep_edits(edits, folder, home)
        _move_into_place(folder, written, paths)
    tell(DataProgress("write", len(staged), len(staged)))
    return report


def examine(
    config: RunConfig,
    workspace: Workspace,
    on_progress: OnProgress | None = None,
    *,
    measure: Measure | None = None,
) -> Examination:
    """Run the data doctor over the raw files without writing a set."""
    inputs = open_inputs(config, workspace)
    tell = on_progress or (lambda progress: None)
    with staging_folder(workspace.data / "processed") as folder:
        on_rows: Callable[[int], None] = lambda rows: tell(DataProgress("read", rows, None))  # noqa: E731
        edits = read_edits(folder.parent) if config.data.keep_edits else None
        staged = stage(inputs, folder, measure=measure, on_rows=on_rows, edits=edits)
        refuse_nothing(staged)
        tell(DataProgress("compare", 0, len(staged)))
        return Examination(
            rows=staged.rows,
            found=len(staged),
            dropped=dict(staged.dropped.counts),
            changed=dict(staged.changed.counts),
            examples=staged.changed.examples() | staged.dropped.examples(),
            findings=diagnose(staged).findings,
        )


def open_inputs(config: RunConfig, workspace: Workspace) -> list[Input]:
    """Open the raw files and settle the mapping of each; raise DataError where it is not clear."""
    check_fixes(config.data.fixes)
    options = read_options(config.data)
    sources = [open_source(path, options) for path in raw_paths(config.data, workspace)]
    return [Input(source, settle_mapping(source, config)) for source in sources]


def settle_mapping(source: Source, config: RunConfig) -> RoleMapping:
    """Take the configured mapping, or a guess that is sure enough to act on."""
    values = sample_values(source)
    data = config.data
    if data.mapping or data.format != "auto":
        tables = [value for value in values if isinstance(value, dict)]
        columns = [column.name for column in describe_columns(tables)]
        return mapping_from_config(data.mapping, columns, shape=data.format)
    if not values:
        raise DataError(no_rows(source), "Choose a file that has rows, or another encoding.")
    mapping = guess_mapping(values)
    if mapping.confidence == "low" or not mapping.is_usable:
        raise DataError(
            f"{source.path.name}: {mapping.reason}.",
            "Set data.mapping (such as user: Frage, assistant: Antwort), or choose the columns in "
            "the Data tab.",
        )
    return mapping


def no_rows(source: Source) -> str:
    """Say that a file has nothing that could be read, with its first broken row."""
    broken = next((row for row in source.rows() if not isinstance(row, RawRow)), None)
    first = f": {broken.place} - {broken.reason}" if broken else ""
    return f"{source.path.name} has no readable row{first}."


def sample_values(source: Source) -> list[object]:
    """Read the first readable rows, for a guess; a file that begins with none for long has none."""
    looked_at = itertools.islice(source.rows(), SEARCHED_ROWS)
    rows = (row.value for row in looked_at if isinstance(row, RawRow))
    values = [value for value, _ in zip(rows, range(SAMPLE_ROWS), strict=False)]
    names = {name for value in values if isinstance(value, dict) for name in value}
    refuse_width(source.path, len(names))
    return values


def refuse_nothing(staged: Staged) -> None:
    """Raise DataError where no row became an example, naming the commonest reason and a place."""
    if len(staged):
        return
    counts = staged.dropped.counts
    if not counts:
        raise DataError("The raw files have no rows.", "Choose a file that has rows.")
    kind = max(counts, key=lambda kind: counts[kind])
    first = staged.dropped.shown[kind][0]
    raise DataError(
        f"None of the {staged.rows:,} rows can be used; the first of {counts[kind]:,} like it is "
        f"{first.place}: {first.text}.",
        "Correct the file, or choose other columns in the Data tab.",
    )


def split_staged(
    staged: Staged, diagnosis: Diagnosis, sizes: Sizes, *, seed: int
) -> npt.NDArray[np.uint8]:
    """Give every staged example its split [n]; `LEFT_OUT` for those a fix leaves out."""
    keep = np.flatnonzero(diagnosis.keep)
    result = np.full(len(staged), LEFT_OUT, np.uint8)
    files = staged.numbers("file", np.uint16)
    result[keep] = assign_splits(diagnosis.groups[keep], files[keep], sizes, seed=seed)
    return result


def _write_splits(staged: Staged, splits: npt.NDArray[np.uint8], folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {name: folder / f"{name}.jsonl" for name in SPLITS}
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("wb", 2**20)) for path in paths.values()]
        for line, split in zip(staged_lines(staged), splits.tolist(), strict=True):
            if split != LEFT_OUT:
                streams[split].write(line)
    return paths


def _report(
    config: RunConfig,
    workspace: Workspace,
    staged: Staged,
    diagnosis: Diagnosis,
    splits: npt.NDArray[np.uint8],
) -> ProcessReport:
    dropped = dict(staged.dropped.counts)
    dropped |= {kind: int(mask.sum()) for kind, mask in diagnosis.dropped.items() if mask.any()}
    sizes: dict[str, int] = {
        name: int(np.count_nonzero(splits == n)) for n, name in enumerate(SPLITS)
    }
    kept = sum(sizes.values())
    if left := int(diagnosis.keep.sum()) - kept:
        dropped["not_in_split"] = left
    chars = staged.numbers("chars", np.uint32)[splits != LEFT_OUT]
    return ProcessReport(
        rows=staged.rows,
        kept=kept,
        dropped=dropped,
        changed=dict(staged.changed.counts),
        examples=staged.changed.examples() | staged.dropped.examples(),
        findings=diagnosis.findings,
        fixes=tuple(config.data.fixes),
        splits=sizes,
        seed=config.data.seed,
        paths={n: workspace.shorten(p) for n, p in target_paths(config, workspace).items()},
        sha256={},
        sources=tuple(_source_reports(staged, workspace)),
        lengths=LengthReport(*(int(np.percentile(chars, share)) for share in (50, 90, 100))),
        scripts=dict(staged.scripts.most_common()),
        licence=config.data.licence,
        notes=tuple(note for given in staged.inputs for note in given.source.facts.notes),
        tokens=_token_report(staged, splits),
    )


def _token_report(staged: Staged, splits: npt.NDArray[np.uint8]) -> TokenReport | None:
    kept = splits != LEFT_OUT
    tokens = staged.numbers("tokens", np.uint32)[kept]
    if not tokens.any():
        return None
    learned = staged.numbers("learned", np.uint32)[kept]
    cut = staged.numbers("cut", np.uint8)[kept]
    sums = [int(column.sum(dtype=np.int64)) for column in (tokens, learned, cut)]
    return TokenReport(sums[0], sums[1], int(np.median(tokens)), int(tokens.max()), sums[2])


def _source_reports(staged: Staged, workspace: Workspace) -> Iterator[SourceReport]:
    for number, given in enumerate(staged.inputs):
        facts, mapping = given.source.facts, given.mapping
        yield SourceReport(
            path=workspace.shorten(given.source.path),
            sha256=sha256(given.source.path),
            kind=facts.kind,
            encoding=facts.encoding,
            delimiter=facts.delimiter,
            rows=staged.rows_of_file[number],
            shape=mapping.shape,
            columns=mapping.to_config(),
            reason=mapping.reason,
        )


def target_paths(config: RunConfig, workspace: Workspace) -> dict[str, Path]:
    data = config.data
    named = zip(SPLITS, (data.train_path, data.val_path, data.test_path), strict=True)
    return {name: workspace.resolve(path) for name, path in named}


def _write_account(report: ProcessReport, folder: Path) -> None:
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1)
    (folder / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
    (folder / CARD_NAME).write_text(data_card(report), encoding="utf-8")


def _move_into_place(folder: Path, written: dict[str, Path], paths: dict[str, Path]) -> None:
    """Rename the whole set into place as one, so that a kill leaves the old set or the new one."""
    home = paths["train"].parent
    moves = [(written[name], paths[name]) for name in SPLITS]
    moves += [(marks_path(written[name]), marks_path(paths[name])) for name in SPLITS]
    named = (EDITS_NAME, SET_ASIDE_NAME, CARD_NAME, REPORT_NAME)
    moves += [(folder / name, home / name) for name in named if (folder / name).exists()]
    for _, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise DataError(f"{target} is a folder.", "Choose another name, or remove the folder.")
    # what could be taken back was about the earlier set
    outdated = [journal_of(path) for path in paths.values()]
    outdated += [home / EDITS_NAME] if not (folder / EDITS_NAME).exists() else []
    swap_in({target: staged for staged, target in moves}, outdated)


def _keep_edits(edits: Edits, folder: Path, home: Path) -> None:
    """Stage what was edited by hand so far; edits that are not wanted any more are set aside."""
    if len(edits):
        (folder / EDITS_NAME).write_bytes(edits.to_lines())
    elif len(dropped := read_edits(home)):
        (folder / SET_ASIDE_NAME).write_bytes(dropped.to_lines())


def _not_made(edits: Edits) -> str:
    return (
        f"{edits.unused:,} of {len(edits):,} edits by hand found no example that is still as it "
        f"was before them; they are kept in {EDITS_NAME}."
    )


@contextmanager
def staging_folder(home: Path) -> Iterator[Path]:
    """Give a folder inside the final one (the same disk, so that renaming works)."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        _clear_debris(home)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=home))
    except OSError as error:
        raise _disk_error(home, error) from None
    try:
        yield folder
    except OSError as error:
        # what cannot be read was worded where it was opened: this is about writing
        raise _disk_error(home, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_debris(home: Path) -> None:
    """Remove what a killed process left; a living one is younger than that."""
    for folder in home.glob(".staging-*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _disk_error(folder: Path, error: OSError) -> DataError | DiskFullError:
    if error.errno == 28:
        free = shutil.disk_usage(folder).free
        return DiskFullError(
            f"The disk is full: {free:,} bytes are free in {folder}.", "Free some space."
        )
    return DataError(f"{folder} cannot be written: {error.strerror}.", "Choose another folder.")
