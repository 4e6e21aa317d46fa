"""Scores of answers against references, as `evaluate` metrics that need no network.

Each metric scores one answer between 0 and 1 (SARI: 100) and gives the mean over all. What the
differences mean is left to `verdict`; the loss on the references to `reference_loss`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import evaluate
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.worker.scoring.sari import f1, sari
from sftplay_ui.engine.worker.scoring.words import answer_words, split_words, split_words_and_marks


class AnswerMetric(evaluate.Metric):
    """A score of one answer, and its mean over many.

    `compute(sources=, predictions=, references=)` gives `{name: mean}`; an empty answer scores 0.
    """

    title = ""
    explanation = ""

    def __init__(self) -> None:
        # in memory, since evaluate would otherwise write every answer to the person's cache
        super().__init__(config_name=self.title, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        texts = {name: Value("string") for name in ("sources", "predictions", "references")}
        return evaluate.MetricInfo(
            description=self.explanation,
            citation="",
            inputs_description="The question, the answer, and the wanted answer.",
            features=Features(texts),
        )

    def _compute(
        self, sources: Sequence[str], predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        rows = zip(sources, predictions, references, strict=True)
        return {self.title: fmean(self.score(*row) for row in rows)}

    def score(self, source: str, prediction: str, reference: str) -> float:
        """Score one answer; DataError where there is no reference to score it against."""
        if not reference.strip():
            raise DataError(
                f"The question {source[:60]!r} has no reference answer to score against.",
                "Add the answer, or leave the question out.",
            )
        return self.rate(source, prediction, reference) if prediction.strip() else 0.0

    def rate(self, source: str, prediction: str, reference: str) -> float:
        """Score one answer where neither it nor its reference is empty."""
        raise NotImplementedError


class RougeL(AnswerMetric):
    title = "rougeL"
    explanation = "Longest common sequence of words, F1 (Lin 2004)."

    def rate(self, source: str, prediction: str, reference: str) -> float:
        return (
            RougeScorer(["rougeL"], tokenizer=Words())
            .score(reference, prediction)["rougeL"]
            .fmeasure
        )


class Sari(AnswerMetric):
    title = "sari"
    explanation = "Words kept, added and deleted against the question (Xu et al. 2016)."

    def rate(self, source: str, prediction: str, reference: str) -> float:
        split = split_words_and_marks
        # 0 to 100, as it is published everywhere
        return 100 * sari(split(source), split(prediction), [split(reference)])


class ExactMatch(AnswerMetric):
    title = "exact_match"
    explanation = "Same words, whatever the case, punctuation and articles (Rajpurkar et al. 2016)."

    def rate(self, source: str, prediction: str, reference: str) -> float:
        return float(answer_words(prediction) == answer_words(reference))


class TokenF1(AnswerMetric):
    title = "token_f1"
    explanation = "Words in common, in any order, F1 (Rajpurkar et al. 2016)."

    def rate(self, source: str, prediction: str, reference: str) -> float:
        given, wanted = Counter(answer_words(prediction)), Counter(answer_words(reference))
        common = (given & wanted).total()
        return f1(common / given.total(), common / wanted.total())


class AnswerContained(AnswerMetric):
    title = "answer_contained"
    explanation = "The words of the reference stand, in a row, somewhere in the answer."

    def rate(self, source: str, prediction: str, reference: str) -> float:
        given, wanted = answer_words(prediction), answer_words(reference)
        places = range(len(given) - len(wanted) + 1)
        return float(any(given[place : place + len(wanted)] == wanted for place in places))


METRICS = (RougeL, Sari, ExactMatch, TokenF1, AnswerContained)


class Words(Tokenizer):
    """Words of any script for ROUGE; its own tokenizer knows a to z only, all else scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text) or text.split()


@dataclass(frozen=True)
class Answer:
    """One answer to score: the last question, what the model wrote, and what was wanted."""

    question: str
    text: str
    reference: str


def score_answers(answers: Sequence[Answer]) -> list[dict[str, float]]:
    """Score every answer by every metric; DataError where a reference is empty."""
    metrics = [metric() for metric in METRICS]
    return [
        {metric.title: metric.score(one.question, one.text, one.reference) for metric in metrics}
        for one in answers
    ]


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average the rows' scores metric by metric; DataError where there is no row."""
    if not scores:
        raise DataError("There is no answer to score.", "Choose a split that has examples.")
    return {name: fmean(row[name] for row in scores) for name in scores[0]}
