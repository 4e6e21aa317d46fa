"""Say in one sentence whether tuning helped, and how sure that is.

Every score is compared on the same questions, with a bootstrap interval of the mean difference. No
verdict rests on one score: a gain in wording counts for nothing against right answers that were
lost. A gain has to be proven; a loss of right answers only has to be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from sftplay_ui.engine.evaluation import Difference, Judgement

RESAMPLES = 10_000
BLOCK = 500
SEED = 0
FEWEST_ROWS = 10
LOWER_IS_BETTER = frozenset(("reference_loss",))
# whole answers that are right or wrong, as against how alike two wordings are
RIGHT_ANSWERS = ("exact_match", "answer_contained")
NAMES = {
    "rougeL": "ROUGE-L",
    "sari": "SARI",
    "exact_match": "exactly right answers",
    "token_f1": "words in common",
    "answer_contained": "answers that contain the right one",
    "reference_loss": "surprise at the right answer",
}


@dataclass(frozen=True)
class Verdict:
    """A judgement for sorting and colours, and the sentence for people."""

    judgement: Judgement
    text: str


def compare(
    before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> tuple[Difference, ...]:
    """Compare the scores of the same questions, metric by metric."""
    return tuple(
        difference(name, [row[name] for row in before], [row[name] for row in after])
        for name in (before[0] if before and after else ())
    )


def difference(name: str, before: Sequence[float], after: Sequence[float]) -> Difference:
    """Compare one score over the same questions."""
    changes = np.subtract(after, before)
    gains = -changes if name in LOWER_IS_BETTER else changes
    low, high = bootstrap_interval(changes)
    return Difference(
        metric=name,
        before=fmean(before),
        after=fmean(after),
        low=low,
        high=high,
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
        equal=int((gains == 0).sum()),
    )


def bootstrap_interval(changes: np.ndarray) -> tuple[float, float]:
    """Give the 95 % percentile interval of the mean (Efron and Tibshirani 1993, chapter 13)."""
    random = np.random.default_rng(SEED)
    means = [
        changes[random.integers(0, len(changes), (BLOCK, len(changes)))].mean(axis=1)
        for _ in range(RESAMPLES // BLOCK)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def judge(differences: Sequence[Difference], rows: int) -> Verdict:
    """Weigh all differences and say what they mean together."""
    gains = [d for d in differences if sign(d) > 0]
    losses = [d for d in differences if sign(d) < 0]
    lost_answers = [d for d in differences if d.metric in RIGHT_ANSWERS and d.worse > d.better]
    against = unique([*lost_answers, *losses])
    if rows < FEWEST_ROWS:
        text = f"Only {rows} questions: too few to tell. {list_changes(differences, rows)}"
        return Verdict("too few", text)
    if gains and against:
        gains = [d for d in gains if d not in against]
    if gains and against:
        text = (
            f"Mixed: {describe(gains, rows)}, but {describe(against, rows)}. "
            "Read the answers that got worse before you use this."
        )
        return Verdict("mixed", text)
    if losses:
        return Verdict("worse", f"Worse after tuning: {describe(against, rows)}.")
    if gains:
        return Verdict(
            "better", f"Better after tuning: {describe(gains, rows)}; nothing got worse."
        )
    text = f"No difference that {rows} questions can show. {list_changes(differences, rows)}"
    if lost_answers:
        text = f"No proven difference, though {describe(lost_answers, rows)} of {rows} questions."
    return Verdict("no difference", text)


def sign(one: Difference) -> int:
    """Tell whether a score got better (1), worse (-1), or may be unchanged (0)."""
    direction = -1 if one.metric in LOWER_IS_BETTER else 1
    if one.low > 0:
        return direction
    return -direction if one.high < 0 else 0


def describe(differences: Sequence[Difference], rows: int) -> str:
    """Put changes in words, joined to one phrase."""
    parts = [describe_one(one, rows) for one in differences]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def describe_one(one: Difference, rows: int) -> str:
    """Put one change in words; right answers are counted, since people count them too."""
    verb = "rose" if one.change > 0 else "fell"
    name = NAMES.get(one.metric, one.metric)
    if one.metric in RIGHT_ANSWERS:
        return f"{name} {verb} from {one.before * rows:.0f} to {one.after * rows:.0f} of {rows}"
    digits = 1 if max(one.before, one.after) >= 10 else 2
    return f"{name} {verb} from {one.before:.{digits}f} to {one.after:.{digits}f}"


def list_changes(differences: Sequence[Difference], rows: int) -> str:
    """List what changed at all, without judging it."""
    changed = [one for one in differences if one.change]
    if not changed:
        return "Every score is the same on both sides."
    text = describe(changed, rows)
    return f"Seen: {text}."


def unique(differences: Sequence[Difference]) -> list[Difference]:
    """Drop repeats, keep the order."""
    return list(dict.fromkeys(differences))
