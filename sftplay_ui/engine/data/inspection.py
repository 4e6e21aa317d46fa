"""A first look at a raw file: what it is, how it is read, and what its first rows become.

The look reads little; `check_data` reads everything, with the same code that processes it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.convert import Rejected, convert
from sftplay_ui.engine.data.doctor import Diagnosis, diagnose
from sftplay_ui.engine.data.examples import Example
from sftplay_ui.engine.data.process import (
    no_rows,
    refuse_nothing,
    sample_values,
    settle_mapping,
    split_staged,
    staging_folder,
)
from sftplay_ui.engine.data.raw_files import read_options
from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.report import describe
from sftplay_ui.engine.data.rows import BrokenRow, Facts, ReadOptions
from sftplay_ui.engine.data.shapes import Column, RoleMapping, describe_columns, guess_mapping
from sftplay_ui.engine.data.split import Sizes
from sftplay_ui.engine.data.staging import Input, Staged, stage
from sftplay_ui.engine.data.tally import Tally
from sftplay_ui.engine.errors import DataError, SFTPlayError
from sftplay_ui.engine.workspace import user_cache

LOOKED_AT_ROWS = 2000
PREVIEW_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Preview:
    """One example as it would be written, and where it is from."""

    place: str
    example: Example


@dataclass(frozen=True, slots=True)
class Inspection:
    """A raw file at a glance; `problems` and `changes` cover the first `rows` rows only."""

    path: Path
    facts: Facts
    columns: tuple[Column, ...]
    mapping: RoleMapping
    preview: tuple[Preview, ...]
    problems: Tally
    changes: Tally
    rows: int
    complete: bool


def inspect_file(
    path: Path,
    options: ReadOptions | None = None,
    *,
    mapping: RoleMapping | None = None,
    previews: int = PREVIEW_EXAMPLES,
) -> Inspection:
    """Look at a raw file: facts, columns, the mapping (guessed unless given), first examples.

    Raises DataError where the file cannot be read at all.
    """
    source = open_source(path, options)
    values = sample_values(source)
    if not values:
        raise DataError(no_rows(source), "Choose a file that has rows, or another encoding.")
    mapping = mapping or guess_mapping(values)
    tables = [value for value in values if isinstance(value, dict)]
    problems, changes = Tally(), Tally()
    preview: list[Preview] = []
    rows = 0
    for row in itertools.islice(source.rows(), LOOKED_AT_ROWS):
        rows += 1
        if isinstance(row, BrokenRow):
            problems.add(row.kind, row.place, row.reason)
            continue
        if not mapping.is_usable:
            continue
        result = convert(row.value, mapping)
        if isinstance(result, Rejected):
            problems.add(result.kind, row.place, result.reason)
            continue
        for change in (*row.changes, *result.changes):
            changes.add(change, row.place, result.examples[0].reference)
        preview += [Preview(str(row.place), e) for e in result.examples][: previews - len(preview)]
    columns = tuple(describe_columns(tables))
    complete = rows < LOOKED_AT_ROWS
    return Inspection(
        path, source.facts, columns, mapping, tuple(preview), problems, changes, rows, complete
    )


def check_data(path: Path, config: RunConfig | None = None) -> CheckResult:
    """Read a whole raw file the way `process` does and say what would become of it.

    Never raises for what is in the file: a file that cannot be used is the verdict `reject`.
    """
    config = config or RunConfig()
    data = config.data
    staged = Staged(path, ())
    try:
        source = open_source(path, read_options(data))
        given = Input(source, settle_mapping(source, config))
        # not beside the file, which may lie where nothing can be written
        with staging_folder(user_cache()) as folder:
            staged = stage([given], folder, fixes=data.fixes)
            refuse_nothing(staged)
            diagnosis = diagnose(staged, data.fixes)
            too_few = _split_problem(staged, diagnosis, config)
    except SFTPlayError as error:
        return CheckResult("reject", (error.what, error.fix), staged.rows)
    messages = [*_counted(staged.dropped, "left out"), *_counted(staged.changed, "changed")]
    found = diagnosis.findings
    messages += [f"{f.title}: {f.count:,}, first at {f.examples[0].place}." for f in found]
    messages += [note for note in source.facts.notes if "called" in note]
    if given.mapping.confidence != "high":
        messages.append(f"The columns are a guess: {given.mapping.reason}.")
    return CheckResult.of(faults=too_few, warnings=messages, rows=staged.rows)


def _split_problem(staged: Staged, diagnosis: Diagnosis, config: RunConfig) -> list[str]:
    """Say where the rows are fine but cannot be split as the configuration asks."""
    split = config.data.split
    sizes = Sizes(split.train, split.val, split.test)
    try:
        split_staged(staged, diagnosis, sizes, seed=config.data.seed)
    except DataError as error:
        return [str(error)]
    return []


def _counted(tally: Tally, what: str) -> Sequence[str]:
    return [
        f"{count:,} {what}: {describe(kind)}, first at {tally.shown[kind][0].place}"
        + (f" ({tally.shown[kind][0].text})." if tally.shown[kind][0].text else ".")
        for kind, count in tally.counts.items()
    ]
