"""How the model does while it learns: the loss of the validation examples, and sample answers.

Both go through the very code that trains and that chats. Scores after the training are left to
`evaluate`.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.events import (
    EvaluationLogged,
    Event,
    PhaseProgressed,
    PhaseStarted,
    SampleGenerated,
)
from sftplay_ui.engine.resolve import LOSS_METRICS, scored_answers
from sftplay_ui.engine.runs import stop_requested
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import (
    TokenisedExample,
    Tokeniser,
    pair_prompt,
    prompt_text,
    stop_ids,
    text_ids,
)
from sftplay_ui.engine.worker.phases import leave_if_asked
from sftplay_ui.engine.worker.scoring.questions import question_text
from sftplay_ui.engine.worker.training.learner import Stepper, rng_state, set_rng_state
from sftplay_ui.engine.worker.training.material import Material
from sftplay_ui.engine.worker.training.sharding import one_voice, part
from sftplay_ui.engine.worker.writing.generate import Limits, generate_batch

# Enough to see form and content; a whole answer would hold up the training.
SAMPLE_TOKENS = 64
ANSWERED_AT_ONCE = 16


@dataclass(frozen=True)
class Watch:
    """The validation examples, tokenised for the loss, and the first of them as questions.

    Of the answers the first `shown` are told as samples, and the first `scored` are scored.
    """

    examples: Sequence[TokenisedExample]
    questions: Sequence[Example | RenderedExample]
    template: ChatTemplate
    tokeniser: Tokeniser
    generate: GenerateConfig
    run_dir: Path
    shown: int
    scored: int

    @classmethod
    def of(
        cls,
        material: Material,
        template: ChatTemplate,
        tokeniser: Tokeniser,
        *,
        config: RunConfig,
        run_dir: Path,
    ) -> "Watch":
        """Watch the validation examples of a run's material."""
        return cls(
            material.val,
            material.questions,
            template,
            tokeniser,
            config.generate,
            run_dir,
            shown=config.train.sample_prompts,
            scored=scored_answers(config.train),
        )

    def score(self, stepper: Stepper, step: int) -> Iterator[Event]:
        """Yield sample answers, and the validation examples' loss (mean over learned tokens).

        Where answers are scored, their mean scores are told with the loss.

        Raises StopRequested between two micro-batches. Leaves model and random numbers as they
        were.
        """
        model = stepper.prepared.model
        rng = rng_state()
        model.eval()
        metrics: dict[str, float] = {}
        try:
            if self.examples:
                metrics = yield from self.score_loss(stepper)
            metrics |= yield from self.write_samples(stepper, step)
        finally:
            part(stepper.alone)
            model.train()
            set_rng_state(rng)
        if metrics:
            yield EvaluationLogged(step=step, metrics=metrics)

    def score_loss(self, stepper: Stepper) -> Generator[Event, None, dict[str, float]]:
        """Run the training's loss over this process's share, and add up all shares."""
        accelerator = stepper.accelerator
        share = sorted(self.examples, key=lambda example: -len(example.input_ids))
        share = share[accelerator.process_index :: accelerator.num_processes]
        size = stepper.batch_size
        yield PhaseStarted(phase="evaluate", total=len(share))
        rounds = [(share[start : start + size], 1) for start in range(0, len(share), size)]
        if stepper.spread:  # all take as many passes as the first process, whose share is largest
            needed = math.ceil(math.ceil(len(self.examples) / accelerator.num_processes) / size)
            rounds += [([self.examples[0]], 0)] * (needed - len(rounds))
        total = torch.zeros(2, dtype=torch.float64)
        for done, (some, counts) in enumerate(rounds, start=1):
            if (
                accelerator.num_processes == 1
            ):  # several must leave together, at the end of the step
                leave_if_asked(self.run_dir)
            each = math.ceil(len(some) / stepper.at_once)
            parts = [some[n : n + each] for n in range(0, len(some), each)]
            batches = [stepper.lay(part).to(accelerator.device) for part in parts]
            learned = sum(batch.learned_tokens for batch in batches)
            total += torch.tensor([sum(stepper.losses(batches)), learned]) * counts
            yield PhaseProgressed(done=min(done * size, len(share)))
        loss, learned = accelerator.reduce(total.to(accelerator.device), "sum").tolist()
        mean = loss / learned if learned else math.nan
        # beyond e^700 there is no such number; a loss like that is broken anyway
        values = (mean, math.exp(min(mean, 700)))
        return dict(zip(LOSS_METRICS, values, strict=True))

    def write_samples(
        self, stepper: Stepper, step: int
    ) -> Generator[Event, None, dict[str, float]]:
        """Answer the sample questions, side by side and greedily; give the mean scores wanted.

        The first process answers, and the others with it where the weights are spread; all get its
        scores, since all have to decide alike.
        """
        accelerator = stepper.accelerator
        scores: dict[str, float] = {}
        if self.questions and (accelerator.is_main_process or stepper.spread):
            texts = self.answer(stepper)
            for question, text in list(zip(self.questions, texts, strict=True))[: self.shown]:
                yield SampleGenerated(
                    step=step,
                    source="tuned" if step else "base",
                    prompt=question_text(question),
                    reference=reference(question),
                    text=text,
                )
            scores = mean_of(self.questions[: self.scored], texts)
        if self.scored and accelerator.num_processes > 1:
            (scores,) = broadcast_object_list([scores])
        return scores

    def answer(self, stepper: Stepper) -> list[str]:
        """Let the model answer the questions; in full only where answers are scored."""
        alone = stepper.accelerator.num_processes == 1
        longest = self.generate.max_new_tokens
        longest = longest if self.scored else min(SAMPLE_TOKENS, longest)
        limits = Limits(
            stop_ids(self.template, self.tokeniser),
            GenerateConfig(max_new_tokens=longest),
            # several processes leave together, at the end of the step
            lambda: alone and stop_requested(self.run_dir),
        )
        write = partial(
            generate_batch,
            prompts=[self.prompt_ids(question) for question in self.questions],
            limits=limits,
            pad_id=self.tokeniser.pad_id,
            batch_size=min(len(self.questions), ANSWERED_AT_ONCE),
        )
        with one_voice(stepper.prepared.base) if stepper.spread else nullcontext():
            answers = stepper.alone.lend(write)
        if alone:
            leave_if_asked(self.run_dir)
        return [self.tokeniser.decode(answer.ids, skip_special=True) for answer in answers]

    def prompt(self, question: Example | RenderedExample) -> str:
        """Give the very text the model is asked with."""
        if isinstance(question, RenderedExample):
            return pair_prompt(question, self.template)
        return prompt_text(question.prompt, self.template)

    def prompt_ids(self, question: Example | RenderedExample) -> list[int]:
        """Give the very tokens the model is asked with."""
        return text_ids(self.prompt(question), self.template, self.tokeniser)


def mean_of(
    questions: Sequence[Example | RenderedExample], texts: Sequence[str]
) -> dict[str, float]:
    """Average the scores of some answers, by the code of Evaluate; none where none are scored."""
    wanted = [(q, text) for q, text in zip(questions, texts, strict=False) if reference(q).strip()]
    if not wanted:
        return {}
    # only here: it takes longer to import than a small model to load
    from sftplay_ui.engine.worker.scoring.metrics import Answer, mean_scores, score_answers

    return mean_scores(
        score_answers([Answer(question_text(q), text.strip(), reference(q)) for q, text in wanted])
    )


def reference(question: Example | RenderedExample) -> str:
    """Give the answer the example has."""
    return question.target if isinstance(question, RenderedExample) else question.reference
