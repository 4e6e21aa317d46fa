"""What became of a person's rows: the report of `process`, as JSON and as text.

Counting is done where the rows are; this module only carries and words the result.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.atomic_file import finish_swaps
from sftplay_ui.engine.data.findings import Finding
from sftplay_ui.engine.data.tally import Occurrence

REASONS = {
    "blank_lines": "blank lines",
    "truncated_json": "lines cut in the middle",
    "trailing_comma_after_object": "lines with a comma behind their object",
    "python_repr_single_quotes": "lines in Python notation",
    "comment_line": "comment lines",
    "broken_json": "lines that are not JSON",
    "doubled_key": "objects with the same key twice",
    "undecodable": "rows with damaged characters",
    "line_too_long": "rows that are far too long",
    "nested_too_deep": "rows nested too deeply",
    "broken_row": "rows with broken quotation marks",
    "wrong_column_count": "rows with too few or too many columns",
    "above_header": "lines above the table",
    "json_list_not_object": "lists instead of objects",
    "not_an_object": "values that are no object",
    "missing_answer_key": "rows without an answer column",
    "missing_question_key": "rows without a question column",
    "null_answer": "answers that are null",
    "empty_answer": "empty answers",
    "whitespace_answer": "answers of white space",
    "null_question": "questions that are null",
    "empty_question": "empty questions",
    "whitespace_question": "questions of white space",
    "numeric_answer": "numbers as answers, now text",
    "numeric_question": "numbers as questions, now text",
    "empty_turn": "conversations with an empty turn",
    "unknown_role": "conversations with an unknown role",
    "no_assistant_turn": "conversations without an answer",
    "tool_turn_as_text": "tool turns, kept as text",
    "turns_joined": "turns of one role in a row, joined",
    "opening_answer_removed": "answers before the first question, removed",
    "last_question_removed": "last questions without an answer, removed",
    "several_answers": "rows with several answers, one example for each",
    "not_in_split": "examples beyond the sizes the split asks for",
    "lone_surrogate": "half characters, replaced",
    "edited_by_hand": "examples edited by hand",
    "deleted_by_hand": "examples deleted by hand",
}


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One raw file as it was read: enough to read it the same way again."""

    path: str
    sha256: str
    kind: str
    encoding: str | None
    delimiter: str | None
    rows: int
    shape: str
    columns: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class LengthReport:
    """How long the kept examples are, in characters."""

    median: int
    p90: int
    longest: int


@dataclass(frozen=True, slots=True)
class TokenReport:
    """How many tokens the kept examples have for the model they were measured with.

    `cut_answers` counts the examples whose answer loses its end at `max_seq_len`.
    """

    total: int
    learned: int
    median: int
    longest: int
    cut_answers: int


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """The account of one `process`: rows = all that were read; kept = examples written."""

    rows: int
    kept: int
    dropped: dict[str, int]
    changed: dict[str, int]
    examples: dict[str, tuple[Occurrence, ...]]
    findings: tuple[Finding, ...]
    fixes: tuple[str, ...]
    splits: dict[str, int]
    seed: int
    paths: dict[str, str]
    sha256: dict[str, str]
    sources: tuple[SourceReport, ...]
    lengths: LengthReport
    scripts: dict[str, int]
    licence: str
    notes: tuple[str, ...] = ()
    tokens: TokenReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return result

    def to_text(self) -> str:
        """Return the report as lines for a person."""
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        lines = [f"{self.rows:,} rows read, {self.kept:,} examples written ({splits})."]
        for source in self.sources:
            roles = ", ".join(f"{role}: {column}" for role, column in source.columns.items())
            lines.append(f"{source.path}: {source.kind}, {roles} ({source.reason}).")
        lines += self._counted("Left out", self.dropped)
        lines += self._counted("Changed", self.changed)
        for finding in self.findings:
            state = "mended" if finding.fixed else "found, left as it is"
            lines.append(f"{finding.title}: {finding.count:,} ({state})")
            lines += _shown(finding.examples)
        return "\n".join([*lines, *self.notes])

    def _counted(self, title: str, counts: dict[str, int]) -> list[str]:
        lines: list[str] = []
        for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
            lines.append(f"{title}: {count:,} {describe(kind)}")
            lines += _shown(self.examples.get(kind, ()))
        return lines


def read_report(path: Path) -> ProcessReport | None:
    """Read the report of the last `process`; None where there is none of this version."""
    try:
        finish_swaps(path.parent)
        record = json.loads(path.read_text(encoding="utf-8"))
        return ProcessReport(
            **record
            | {
                "examples": {k: _occurrences(cases) for k, cases in record["examples"].items()},
                "findings": tuple(
                    Finding(**found | {"examples": _occurrences(found["examples"])})
                    for found in record["findings"]
                ),
                "fixes": tuple(record["fixes"]),
                "sources": tuple(SourceReport(**source) for source in record["sources"]),
                "lengths": LengthReport(**record["lengths"]),
                "notes": tuple(record["notes"]),
                "tokens": TokenReport(**tokens) if (tokens := record.get("tokens")) else None,
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _occurrences(cases: list[dict[str, str]]) -> tuple[Occurrence, ...]:
    return tuple(Occurrence(**case) for case in cases)


def describe(kind: str) -> str:
    """Say a kind of drop or change in words."""
    return REASONS.get(kind, kind.replace("_", " "))


def _shown(cases: tuple[Occurrence, ...]) -> list[str]:
    return [f"  {case.place}: {case.text}" for case in cases[:3]]
