"""SARI: how well a text was changed, judged by what was kept, added and deleted.

Xu et al. 2016, "Optimizing Statistical Machine Translation for Text Simplification", equations 1 to
7, as their published scorer counts: grams that are added count once, and a gram's share of what was
kept or deleted counts once for each different gram.
"""

from collections import Counter
from collections.abc import Sequence

LONGEST_GRAM = 4
Grams = Counter[tuple[str, ...]]


def sari(
    source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    """Score one output against its source and references, all split into words; 0 to 1."""
    parts = [score_grams(source, output, references, n) for n in range(1, LONGEST_GRAM + 1)]
    return sum(sum(part) / LONGEST_GRAM for part in zip(*parts, strict=True)) / 3


def score_grams(
    source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]], n: int
) -> tuple[float, float, float]:
    """Score kept, added and deleted grams of one length."""
    wanted = sum((grams(reference, n) for reference in references), Counter())
    # every reference votes once, so source and output count as often as there are references
    had = scale(grams(source, n), len(references))
    has = scale(grams(output, n), len(references))
    return (
        kept_score(had, has, wanted),
        added_score(had, has, wanted),
        deleted_score(had, has, wanted),
    )


def kept_score(had: Grams, has: Grams, wanted: Grams) -> float:
    """F1 of the grams that stayed."""
    kept, should = had & has, had & wanted
    good = kept & wanted
    precision = sum(good[g] / kept[g] for g in good) / len(kept) if kept else 1.0
    recall = good.total() / should.total() if should else 1.0
    return f1(precision, recall)


def added_score(had: Grams, has: Grams, wanted: Grams) -> float:
    """F1 of the grams that are new."""
    added, should = has.keys() - had.keys(), wanted.keys() - had.keys()
    good = added & should
    precision = len(good) / len(added) if added else 1.0
    recall = len(good) / len(should) if should else 1.0
    return f1(precision, recall)


def deleted_score(had: Grams, has: Grams, wanted: Grams) -> float:
    """Precision of the grams that went; recall would reward deleting everything."""
    deleted = had - has
    good = deleted - wanted
    return sum(good[g] / deleted[g] for g in good) / len(deleted) if deleted else 1.0


def grams(words: Sequence[str], n: int) -> Grams:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def scale(counts: Grams, times: int) -> Grams:
    return Counter({gram: count * times for gram, count in counts.items()})


def f1(precision: float, recall: float) -> float:
    """Give the harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
