"""What an evaluation found, as it lies in its run's folder: `metrics.json` and `samples.jsonl`.

The worker writes these files, the window and the command line read them. How scores are made is
left to the worker's `metrics`, what they mean to its `verdict`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.errors import DataError

METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.jsonl"

Judgement = Literal["better", "worse", "mixed", "no difference", "too few", "one side"]


@dataclass(frozen=True)
class Difference:
    """How one score changed: means, the 95 % interval of their difference, and rows that changed.

    `better` and `worse` count rows; for a loss, lower is better.
    """

    metric: str
    before: float
    after: float
    low: float
    high: float
    better: int
    worse: int
    equal: int

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; a side that was not asked has no scores."""

    run: str
    model: str
    split: str
    data_path: str
    rows: int
    left_out: Mapping[str, int]
    trained_on: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    differences: tuple[Difference, ...]
    judgement: Judgement
    verdict: str

    def difference(self, metric: str) -> Difference | None:
        """Find the difference of one metric."""
        return next((d for d in self.differences if d.metric == metric), None)

    def to_json(self) -> dict[str, Any]:
        """Give the evaluation as `metrics.json` and `eval --json` hold it."""
        return asdict(self)


@dataclass(frozen=True)
class AnswerPair:
    """One question with the answers of both sides; a side that was not asked has None."""

    id: int
    prompt: str
    question: str
    reference: str
    base: str | None = None
    tuned: str | None = None
    base_scores: Mapping[str, float] = field(default_factory=dict)
    tuned_scores: Mapping[str, float] = field(default_factory=dict)

    def change(self, metric: str) -> float:
        """How much the tuned answer scores above the base's; 0 where one of them is missing."""
        if metric not in self.base_scores or metric not in self.tuned_scores:
            return 0.0
        return self.tuned_scores[metric] - self.base_scores[metric]


def write_evaluation(folder: Path, evaluation: Evaluation, pairs: Sequence[AnswerPair]) -> None:
    """Write both files, each in one move; the result last, so it stands for a whole evaluation."""
    lines = "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    replace_text(folder / SAMPLES_FILE, lines)
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=2)
    replace_text(folder / METRICS_FILE, text + "\n")


def read_evaluation(folder: Path) -> Evaluation | None:
    """Read the result of an evaluation; None while there is none, DataError where it is damaged."""
    path = folder / METRICS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        differences = tuple(Difference(**one) for one in record.pop("differences"))
        return Evaluation(**record, differences=differences)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path) from error


def read_answers(folder: Path) -> list[AnswerPair]:
    """Read the answers, in the order of the questions; empty while there are none."""
    path = folder / SAMPLES_FILE
    try:
        # split("\n"), since splitlines() would also cut at U+2028 inside a text
        lines = path.read_text(encoding="utf-8").split("\n")
        return [AnswerPair(**json.loads(line)) for line in lines if line]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> DataError:
    """Describe a file that is not what this version writes."""
    return DataError(f"{path} is not a whole result of an evaluation.", "Evaluate again.")
