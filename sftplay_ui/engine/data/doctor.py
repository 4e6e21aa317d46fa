"""The data doctor: what is wrong with a set of examples as a whole, and what a fix leaves out.

What shows in a single example was counted while it was read (`row_checks`); this module adds
duplicates, contradictions and outliers, and decides by the switches that are on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sftplay_ui.engine.data.findings import FIXES, KINDS, Finding, make_finding
from sftplay_ui.engine.data.marks import MARKS, Marks
from sftplay_ui.engine.data.near import near_groups
from sftplay_ui.engine.data.staging import ROW_DROPS, Staged
from sftplay_ui.engine.data.tally import SHOWN, Occurrence
from sftplay_ui.engine.errors import DataError

# an example is an outlier beyond this many times the length that nine of ten stay below
OUTLIER_FACTOR = 8
OUTLIER_CHARS = 4000
# the column whose names are equal for an example and the one it repeats; "": the groups
REPEATED = {"exact_duplicates": "record", "contradictory_answers": "prompt", "near_duplicates": ""}
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, the groups that must share a split [n], what is left out for which fix.

    `marks` [n] holds the findings of every example as bits.
    """

    findings: tuple[Finding, ...]
    groups: npt.NDArray[np.uint64]
    dropped: dict[str, Mask]
    marks: Marks

    @property
    def keep(self) -> Mask:
        """Mask of the examples that stay."""
        keep = np.ones(len(self.groups), np.bool_)
        for mask in self.dropped.values():
            keep &= ~mask
        return keep


def check_fixes(fixes: Sequence[str]) -> None:
    """Raise DataError for a fix that the doctor does not know."""
    for fix in fixes:
        if fix not in FIXES:
            raise DataError(
                f'data.fixes names "{fix}", which the doctor does not know.',
                f"Use some of {', '.join(FIXES)}.",
            )


def diagnose(staged: Staged, fixes: Collection[str] = ()) -> Diagnosis:
    """Judge a staged set; `fixes` names the kinds whose examples are left out or were mended."""
    questions = staged.numbers("question", np.uint64)
    groups = near_groups(staged.questions(), questions)
    masks = _set_masks(staged, questions, groups)
    marks = staged.numbers("marks", np.uint32).copy()
    for kind, mask in masks.items():
        marks[mask] |= np.uint32(MARKS[kind])
    for kind in ROW_DROPS:
        masks[kind] = (marks & MARKS[kind]) > 0
    findings = [
        make_finding(kind, count, shown, fixed=kind in fixes)
        for kind in KINDS
        for count, shown in [_cases(staged, kind, masks.get(kind), groups)]
        if count
    ]
    dropped: dict[str, Mask] = {}
    taken = np.zeros(len(staged), np.bool_)
    for kind, mask in masks.items():
        if kind in fixes:
            dropped[kind] = mask & ~taken
            taken |= mask
    return Diagnosis(tuple(findings), groups, dropped, marks)


def _cases(
    staged: Staged, kind: str, mask: Mask | None, groups: npt.NDArray[np.uint64]
) -> tuple[int, tuple[Occurrence, ...]]:
    if kind in staged.found.counts:
        return staged.found.counts[kind], tuple(staged.found.shown[kind])
    if mask is None:
        return 0, ()
    rows = np.flatnonzero(mask)
    shown = rows[:SHOWN].tolist()
    if kind in REPEATED:
        column = REPEATED[kind]
        names = staged.numbers(column, np.uint64) if column else groups
        return len(rows), staged.occurrences(
            shown, firsts=[int(np.argmax(names == names[row])) for row in shown]
        )
    return len(rows), staged.occurrences(shown)


def _set_masks(
    staged: Staged, questions: npt.NDArray[np.uint64], groups: npt.NDArray[np.uint64]
) -> dict[str, Mask]:
    """Mark, by kind, the examples that only the whole set shows to be in the way."""
    exact = _repeats(staged.numbers("record", np.uint64))
    contradicting = _contradictions(staged) & ~exact
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    near = (questions != questions[first][group_of]) & ~exact & ~contradicting
    chars = staged.numbers("chars", np.uint32)
    masks = {
        "exact_duplicates": exact,
        "contradictory_answers": contradicting,
        "near_duplicates": near,
    }
    if len(chars):
        limit = max(OUTLIER_CHARS, OUTLIER_FACTOR * float(np.percentile(chars, 90)))
        masks["length_outliers"] = chars > limit
    return masks


def _repeats(names: npt.NDArray[np.uint64]) -> Mask:
    """Mark every entry whose name stood there before."""
    _, first = np.unique(names, return_index=True)
    repeated = np.ones(len(names), np.bool_)
    repeated[first] = False
    return repeated


def _contradictions(staged: Staged) -> Mask:
    """Mark every example whose question was asked before and answered differently then."""
    prompts = staged.numbers("prompt", np.uint64)
    answers = staged.numbers("answer", np.uint64)
    _, first, group_of = np.unique(prompts, return_index=True, return_inverse=True)
    differs: Mask = answers != answers[first][group_of]
    return differs
