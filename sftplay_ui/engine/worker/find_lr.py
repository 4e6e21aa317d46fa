"""The learning-rate finder: a short range test (Smith 2017), on a copy of the model of its own.

The rate rises step by step over some decades. How hard a step's examples are is measured before
anything is learned and taken off, so what is left of its loss is what the steps before have done:
it falls while the rate is useful, and rises where it is too high. Nothing is kept but the curve.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import DataError, NotFiniteError
from sftplay_ui.engine.events import (
    Event,
    PhaseProgressed,
    PhaseStarted,
    RateSuggested,
    RunFinished,
    RunStopped,
)
from sftplay_ui.engine.resolve import ModelSize, choose_learning_rate, parameter_count
from sftplay_ui.engine.worker.phases import StopRequested, leave_if_asked
from sftplay_ui.engine.worker.train import describe
from sftplay_ui.engine.worker.training.opening import open_session
from sftplay_ui.engine.worker.training.session import Session

STEPS = 48
# around the rate that `auto` would choose
LOWEST, HIGHEST = 1 / 300, 300.0
# no more is learned from a loss that is so many times what it was before anything was learned
HOPELESS = 2.0
SMOOTHING = 0.7
# the lowest point of the curve is already too high for a whole run
BELOW_LOWEST = 10.0
# what a training may be asked for besides its steps
WITHOUT = {
    "max_steps": STEPS,
    "resume": None,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": 0,
    "eval_answers": 0,
    "sample_prompts": 0,
}
# fewer points make no curve
FEWEST = 8


def find_lr(config: RunConfig, run_dir: Path) -> Iterator[Event]:
    """Try rising learning rates and suggest one; yields the steps as a training does.

    Raises DataError where the loss never fell.
    """
    began = time.monotonic()
    quiet = RunConfig.model_validate(
        {**config.model_dump(), "train": config.train.model_dump() | WITHOUT}
    )
    curve = Curve()
    try:
        session = yield from open_session(quiet, run_dir)
        hardness = yield from measure_hardness(session)
        yield from climb(session, hardness, curve)
    except StopRequested:
        yield RunStopped(step=len(curve.rates))
        return
    yield suggest(curve)
    seconds = round(time.monotonic() - began, 3)
    yield RunFinished(step=len(curve.rates), adapter="", seconds=seconds)


@dataclass
class Curve:
    """The rates that were tried, and the loss of each step against that of the untuned model."""

    rates: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)

    def smooth(self) -> list[float]:
        """Average each point with those before it, the nearer ones more."""
        found: list[float] = []
        total = weight = 0.0
        for gain in self.gains:
            total = SMOOTHING * total + gain
            weight = SMOOTHING * weight + 1
            found.append(total / weight)
        return found


def measure_hardness(session: Session) -> Generator[Event, None, list[float]]:
    """Measure the untuned model's mean loss on the examples of each step to come."""
    stepper, device = session.stepper, session.stepper.accelerator.device
    found = []
    yield PhaseStarted(phase="evaluate", total=STEPS)
    stepper.prepared.model.eval()
    for step in range(1, STEPS + 1):
        leave_if_asked(session.run_dir)
        shares = stepper.cut(session.plan.examples(step))
        batches = [stepper.batch(share).to(device) for share in shares]
        total = sum(stepper.losses(batches))
        found.append(total / sum(batch.learned_tokens for batch in batches))
        yield PhaseProgressed(done=step)
    stepper.prepared.model.train()
    return found


def climb(session: Session, hardness: Sequence[float], curve: Curve) -> Iterator[Event]:
    """Learn at a higher rate with every step, until the loss is beyond hope."""
    size = ModelSize.of(session.base.config(), parameter_count(session.base.path))
    train = session.config.train.model_copy(update={"learning_rate": "auto"})
    middle = float(choose_learning_rate(train, session.resolved.mode, size).value)
    growth = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    yield PhaseStarted(phase="train", total=STEPS)
    for step, hard in enumerate(hardness, start=1):
        leave_if_asked(session.run_dir)
        rate = middle * LOWEST * growth ** (step - 1)
        try:
            update = yield from session.stepper.update(step, rate)
        except NotFiniteError:
            return
        session.progress.count(update)
        curve.rates.append(rate)
        curve.gains.append(update.loss - hard)
        yield describe(session, rate, update)
        if update.loss > HOPELESS * hard:
            return


def suggest(curve: Curve) -> RateSuggested:
    """Suggest a rate safely below that of the lowest loss; DataError where it never fell."""
    smooth = curve.smooth()
    lowest = min(range(len(smooth)), key=smooth.__getitem__) if smooth else 0
    if len(smooth) < FEWEST or lowest < 2 or smooth[lowest] >= 0:
        raise DataError(
            "No learning rate that was tried let the loss fall.",
            "Check the examples in Style: is anything learned from them? More of them help too.",
        )
    rate = curve.rates[lowest] / BELOW_LOWEST
    return RateSuggested(
        learning_rate=float(f"{rate:.1g}"),
        what=f"The loss fell until {curve.rates[lowest]:.1g}; a tenth of that is safe.",
        rates=tuple(curve.rates),
        losses=tuple(smooth),
    )
