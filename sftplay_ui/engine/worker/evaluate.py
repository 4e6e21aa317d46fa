"""The evaluate job: the same questions to the base model and the tuned one, scored and compared.

Answers are greedy and asked for exactly as in training. Asking and scoring one side is left to
`asking`; what the differences mean to `verdict`.
"""

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.evaluation import AnswerPair, Evaluation, write_evaluation
from sftplay_ui.engine.events import (
    ConfigResolved,
    EvaluationLogged,
    Event,
    PhaseStarted,
    RunFinished,
    RunStopped,
    Warned,
)
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.worker.phases import StopRequested
from sftplay_ui.engine.worker.scoring.asking import Examination, SideResult
from sftplay_ui.engine.worker.scoring.questions import QuestionSet, read_questions
from sftplay_ui.engine.worker.scoring.sides import Pair, Side, Sides, find_pair
from sftplay_ui.engine.worker.scoring.verdict import Verdict, compare, judge


def evaluate(config: RunConfig, run_dir: Path) -> Iterator[Event]:
    """Ask, score, compare; leave `metrics.json` and `samples.jsonl` in the run's folder."""
    started = time.monotonic()
    try:
        evaluation = yield from compare_sides(config, run_dir)
    except StopRequested:
        yield RunStopped(step=0)
        return
    yield EvaluationLogged(step=0, metrics=flat_metrics(evaluation))
    yield RunFinished(step=0, adapter="", seconds=time.monotonic() - started)


def compare_sides(config: RunConfig, run_dir: Path) -> Generator[Event, None, Evaluation]:
    """Do the work of `evaluate`; raises StopRequested where it was asked to stop."""
    pair = yield from find_pair(config.evaluate.run, config, run_dir)
    settings = config.evaluate
    asked = read_questions(pair, settings.split, settings.limit, Run(run_dir).workspace)
    yield from warn_about(asked)
    yield PhaseStarted(phase="load")
    sides = Sides(pair)
    yield ConfigResolved(choices=sides.choices)
    results: dict[Side, SideResult] = {}
    for side in wanted_sides(config, pair):
        examination = Examination(sides, side, asked.questions, run_dir)
        results[side] = yield from examination.run(config)
    evaluation = sum_up(pair, asked, results, config)
    write_evaluation(run_dir, evaluation, answer_pairs(asked, results))
    return evaluation


def wanted_sides(config: RunConfig, pair: Pair) -> list[Side]:
    """Say who is asked: the base model first, so that what was is seen before what became."""
    if pair.adapter is None:
        return ["base"]
    return ["base", "tuned"] if config.evaluate.base else ["tuned"]


def warn_about(asked: QuestionSet) -> Iterator[Event]:
    """Say aloud what makes the questions fewer, or easier than they look."""
    if asked.left_out:
        parts = ", ".join(f"{count} {reason}" for reason, count in asked.left_out.items())
        yield Warned(code="left_out", what=f"Questions of {asked.path.name} left out: {parts}.")
    if asked.trained_on:
        yield Warned(
            code="trained_on",
            what=f"{asked.trained_on} of {len(asked.questions)} questions were trained on, "
            "so the scores say less about new ones.",
        )


def sum_up(
    pair: Pair, asked: QuestionSet, results: Mapping[Side, SideResult], config: RunConfig
) -> Evaluation:
    """Compare the sides and judge; one side alone is not compared."""
    before, after = results.get("base"), results.get("tuned")
    differences = compare(before.scores, after.scores) if before and after else ()
    if differences:
        verdict = judge(differences, len(asked.questions))
    else:
        verdict = Verdict("one side", "Only one side was asked, so nothing is compared.")
    return Evaluation(
        run=pair.name,
        model=pair.base.name,
        split=config.evaluate.split,
        data_path=str(asked.path),
        rows=len(asked.questions),
        left_out=asked.left_out,
        trained_on=asked.trained_on,
        before=before.means if before else {},
        after=after.means if after else {},
        differences=differences,
        judgement=verdict.judgement,
        verdict=verdict.text,
    )


def answer_pairs(asked: QuestionSet, results: Mapping[Side, SideResult]) -> Sequence[AnswerPair]:
    """Lay the answers of both sides beside each other."""
    before, after = results.get("base"), results.get("tuned")
    return [
        AnswerPair(
            id=one.id,
            prompt=one.prompt,
            question=one.question,
            reference=one.reference,
            base=before.texts[place] if before else None,
            tuned=after.texts[place] if after else None,
            base_scores=before.scores[place] if before else {},
            tuned_scores=after.scores[place] if after else {},
        )
        for place, one in enumerate(asked.questions)
    ]


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Give the scores of both sides as one list, such as `before.rougeL`."""
    sides = {"before": evaluation.before, "after": evaluation.after}
    return {
        f"{side}.{name}": value
        for side, scores in sides.items()
        for name, value in scores.items()
        if math.isfinite(value)
    }
