"""Let one side of a comparison answer all questions, and score what it wrote."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.errors import DeviceMemoryError
from sftplay_ui.engine.events import Event, PhaseProgressed, PhaseStarted, SampleGenerated, Warned
from sftplay_ui.engine.runs import stop_requested
from sftplay_ui.engine.worker.phases import leave_if_asked
from sftplay_ui.engine.worker.scoring.metrics import Answer, mean_scores, score_answers
from sftplay_ui.engine.worker.scoring.questions import Question
from sftplay_ui.engine.worker.scoring.reference_loss import ReferenceLoss, reference_losses
from sftplay_ui.engine.worker.scoring.sides import Side, Sides
from sftplay_ui.engine.worker.writing.generate import Generated, Limits, generate_batch

REFERENCE_LOSS = "reference_loss"
NAMES: Mapping[Side, str] = {"base": "base model", "tuned": "tuned model"}


@dataclass(frozen=True)
class SideResult:
    """What one side wrote: answers and scores in the questions' order, and the means."""

    texts: tuple[str, ...]
    scores: tuple[Mapping[str, float], ...]
    means: Mapping[str, float]


class Examination:
    """One side before all questions; the person may stop it at any batch."""

    def __init__(
        self, sides: Sides, side: Side, questions: Sequence[Question], run_dir: Path
    ) -> None:
        self.sides = sides
        self.side = side
        self.questions = questions
        self.run_dir = run_dir
        self.pad_id = sides.pair.tokeniser.pad_id
        self.answers: dict[int, Generated] = {}
        self.losses: dict[int, ReferenceLoss] = {}

    def run(self, config: RunConfig) -> Generator[Event, None, SideResult]:
        """Load, ask, and score; raises StopRequested where the run is asked to stop."""
        self.sides.load(self.side)
        leave_if_asked(self.run_dir)
        batch_size = config.evaluate.batch_size
        yield PhaseStarted(phase="generate", total=len(self.questions))
        yield from self.write_answers(config.generate.max_new_tokens, batch_size)
        yield PhaseStarted(phase="evaluate", total=len(self.questions))
        yield from self.read_references(batch_size)
        yield from self.warn_about_answers(config.generate.max_new_tokens)
        return self.result()

    def write_answers(self, max_new_tokens: int, batch_size: int) -> Iterator[Event]:
        """Answer greedily, the longest questions first; halve the batch where memory is short."""
        limits = Limits(
            self.sides.pair.eos_ids,
            GenerateConfig(max_new_tokens=max_new_tokens),
            lambda: stop_requested(self.run_dir),
        )
        waiting = sorted(
            range(len(self.questions)), key=lambda n: -len(self.questions[n].prompt_ids)
        )
        while waiting:
            numbers = waiting[:batch_size]
            try:
                written = self.write_batch(numbers, limits)
            except torch.OutOfMemoryError:
                batch_size = smaller(batch_size)
                yield Warned(
                    code="out_of_memory",
                    what=f"Memory ran short; going on with {batch_size} answers side by side.",
                )
                continue
            leave_if_asked(self.run_dir)
            self.answers.update(zip(numbers, written, strict=True))
            waiting = waiting[len(numbers) :]
            yield from (self.tell(number) for number in numbers)
            yield PhaseProgressed(done=len(self.answers))

    def write_batch(self, numbers: Sequence[int], limits: Limits) -> list[Generated]:
        with self.sides.asking(self.side) as model:
            return generate_batch(
                model,
                [self.questions[number].prompt_ids for number in numbers],
                limits=limits,
                pad_id=self.pad_id,
                batch_size=len(numbers),
            )

    def read_references(self, batch_size: int) -> Iterator[Event]:
        """Measure the loss on the wanted answers, by the code that trains."""
        order = sorted(
            range(len(self.questions)), key=lambda n: -len(self.questions[n].tokenised.input_ids)
        )
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            rows = [self.questions[number].tokenised for number in numbers]
            with self.sides.asking(self.side) as model:
                losses = reference_losses(model, rows, pad_id=self.pad_id)
            self.losses.update(zip(numbers, losses, strict=True))
            leave_if_asked(self.run_dir)
            yield PhaseProgressed(done=len(self.losses))

    def text(self, number: int) -> str:
        return self.sides.pair.tokeniser.decode(self.answers[number].ids, skip_special=True).strip()

    def tell(self, number: int) -> SampleGenerated:
        question = self.questions[number]
        return SampleGenerated(
            step=0,
            source=self.side,
            prompt=question.question,
            reference=question.reference,
            text=self.text(number),
        )

    def warn_about_answers(self, max_new_tokens: int) -> Iterator[Event]:
        """Count the answers whose scores say little."""
        name, count = NAMES[self.side], len(self.answers)
        empty = sum(not self.text(number) for number in self.answers)
        cut = sum(answer.stopped == "length" for answer in self.answers.values())
        if empty:
            yield Warned(
                code="empty_answers",
                what=f"The {name} left {empty} of {count} answers empty; they score 0.",
            )
        if cut:
            yield Warned(
                code="cut_answers",
                what=f"The {name} was cut off in {cut} of {count} answers "
                f"(generate.max_new_tokens: {max_new_tokens}).",
            )

    def result(self) -> SideResult:
        """Score every answer, and average."""
        texts = [self.text(number) for number in range(len(self.questions))]
        scores = score_answers(
            [
                Answer(question.question, text, question.reference)
                for question, text in zip(self.questions, texts, strict=True)
            ]
        )
        losses = [self.losses[number] for number in range(len(self.questions))]
        eval_loss = sum(one.total for one in losses) / sum(one.tokens for one in losses)
        means = {
            **mean_scores(scores),
            "eval_loss": eval_loss,
            "perplexity": math.exp(min(eval_loss, 700)),
        }
        with_loss = [
            {**row, REFERENCE_LOSS: loss.mean} for row, loss in zip(scores, losses, strict=True)
        ]
        return SideResult(tuple(texts), tuple(with_loss), means)


def smaller(batch_size: int) -> int:
    """Halve a batch; DeviceMemoryError where it is one answer already."""
    if batch_size == 1:
        raise DeviceMemoryError(
            "The memory does not suffice for a single answer.",
            "Choose a smaller model, shorter questions, or a lower generate.max_new_tokens.",
        )
    return batch_size // 2
