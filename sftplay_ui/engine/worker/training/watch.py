"""How the model does while it learns: the loss of the validation examples, and sample answers.

Both go through the very code that trains and that chats. Scores after the training are left to
`evaluate`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.events import (
    EvaluationLogged,
    Event,
    PhaseProgressed,
    PhaseStarted,
    SampleGenerated,
)
from sftplay_ui.engine.runs import stop_requested
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import TokenisedExample, Tokeniser, prompt_text, stop_ids
from sftplay_ui.engine.worker.phases import leave_if_asked
from sftplay_ui.engine.worker.scoring.questions import question_text
from sftplay_ui.engine.worker.training.learner import Stepper, rng_state, set_rng_state
from sftplay_ui.engine.worker.training.material import Material
from sftplay_ui.engine.worker.writing.generate import Limits, generate_batch

# Enough to see form and content; a whole answer would hold up the training.
SAMPLE_TOKENS = 64
EVALUATION_METRICS = ("eval_loss", "eval_perplexity")


@dataclass(frozen=True)
class Watch:
    """The validation examples, tokenised for the loss, and the first of them as questions."""

    examples: Sequence[TokenisedExample]
    questions: Sequence[Example | RenderedExample]
    template: ChatTemplate
    tokeniser: Tokeniser
    generate: GenerateConfig
    run_dir: Path

    @classmethod
    def of(
        cls,
        material: Material,
        template: ChatTemplate,
        tokeniser: Tokeniser,
        *,
        generate: GenerateConfig,
        run_dir: Path,
    ) -> "Watch":
        """Watch the validation examples of a run's material."""
        return cls(material.val, material.questions, template, tokeniser, generate, run_dir)

    def score(self, stepper: Stepper, step: int) -> Iterator[Event]:
        """Yield the validation examples' loss (mean over learned tokens), and sample answers.

        Raises StopRequested between two micro-batches. Leaves model and random numbers as they
        were.
        """
        model = stepper.prepared.model
        rng = rng_state()
        model.eval()
        try:
            if self.examples:
                yield from self.score_loss(stepper, step)
            yield from self.write_samples(stepper, step)
        finally:
            model.train()
            set_rng_state(rng)

    def score_loss(self, stepper: Stepper, step: int) -> Iterator[Event]:
        """Run the training's loss over this process's share, and add up all shares."""
        accelerator = stepper.accelerator
        share = sorted(self.examples, key=lambda example: -len(example.input_ids))
        share = share[accelerator.process_index :: accelerator.num_processes]
        size = stepper.batch_size
        yield PhaseStarted(phase="evaluate", total=len(share))
        total = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(share), size):
            if (
                accelerator.num_processes == 1
            ):  # several must leave together, at the end of the step
                leave_if_asked(self.run_dir)
            batch = stepper.lay(share[start : start + size]).to(accelerator.device)
            with torch.no_grad():
                loss = float(stepper.alone(batch))
            total += torch.tensor([loss, batch.learned_tokens])
            yield PhaseProgressed(done=min(start + size, len(share)))
        loss, learned = accelerator.reduce(total.to(accelerator.device), "sum").tolist()
        mean = loss / learned if learned else math.nan
        # beyond e^700 there is no such number; a loss like that is broken anyway
        values = (mean, math.exp(min(mean, 700)))
        metrics = dict(zip(EVALUATION_METRICS, values, strict=True))
        yield EvaluationLogged(step=step, metrics=metrics)

    def write_samples(self, stepper: Stepper, step: int) -> Iterator[Event]:
        """Answer the sample questions, side by side and greedily."""
        if not self.questions or not stepper.accelerator.is_main_process:
            return
        prompts = [self.prompt(question) for question in self.questions]
        sampling = GenerateConfig(max_new_tokens=min(SAMPLE_TOKENS, self.generate.max_new_tokens))
        limits = Limits(
            stop_ids(self.template, self.tokeniser), sampling, lambda: stop_requested(self.run_dir)
        )
        answers = generate_batch(
            stepper.prepared.model,
            [self.tokeniser.encode(prompt) for prompt in prompts],
            limits=limits,
            pad_id=self.tokeniser.pad_id,
            batch_size=len(prompts),
        )
        leave_if_asked(self.run_dir)
        for question, answer in zip(self.questions, answers, strict=True):
            yield SampleGenerated(
                step=step,
                source="tuned" if step else "base",
                prompt=question_text(question),
                reference=reference(question),
                text=self.tokeniser.decode(answer.ids, skip_special=True),
            )

    def prompt(self, question: Example | RenderedExample) -> str:
        """Give the very text the model is asked with."""
        if isinstance(question, RenderedExample):
            return question.input
        return prompt_text(question.prompt, self.template)


def reference(question: Example | RenderedExample) -> str:
    """Give the answer the example has."""
    return question.target if isinstance(question, RenderedExample) else question.reference
