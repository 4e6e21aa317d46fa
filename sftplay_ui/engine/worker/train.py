"""Training: the loop, from the first step to the adapter, told as events.

It reads like the story of a run: open, go on where it stopped, step, evaluate, save, leave the
adapter behind. How each is done is left to `opening`, `session`, `learner`, `watch` and `outcome`.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import ConfigError, NotFiniteError
from sftplay_ui.engine.events import (
    EvaluationLogged,
    Event,
    PhaseStarted,
    RunFinished,
    RunStopped,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.resolve import LOSS_METRICS, scored_answers
from sftplay_ui.engine.runs import stop_requested
from sftplay_ui.engine.worker.memory_use import peak_bytes
from sftplay_ui.engine.worker.phases import StopRequested
from sftplay_ui.engine.worker.training.learner import Update
from sftplay_ui.engine.worker.training.opening import open_session
from sftplay_ui.engine.worker.training.outcome import Tuned, leave_adapter, write_figures
from sftplay_ui.engine.worker.training.schedule import learning_rate
from sftplay_ui.engine.worker.training.session import Session
from sftplay_ui.engine.worker.training.sharding import gathered
from sftplay_ui.engine.worker.training.spikes import describe_jump
from sftplay_ui.engine.worker.training.state import learned_weights, read_weights


def train(config: RunConfig, run_dir: Path) -> Iterator[Event]:
    """Fine-tune the base model; yield what happens; leave the adapter behind.

    A run that was stopped, or that died, goes on from its newest whole checkpoint. A stop request
    is honoured in every phase; no complete step is lost by it.
    """
    began = time.monotonic()
    check_metric(config)
    try:
        session = yield from open_session(config, run_dir)
    except StopRequested:
        yield RunStopped(step=0)
        return
    yield from session.resume()
    try:
        yield from learn(session)
    except StopRequested:
        yield from session.save()
        yield RunStopped(step=session.progress.step)
        return
    except NotFiniteError:
        yield from session.save()
        raise
    yield from finish(session, began)


def learn(session: Session) -> Iterator[Event]:
    """Take the steps that are left, with evaluations and checkpoints where they are due.

    Raises StopRequested after a complete step, and NotFiniteError before a broken one.
    """
    train, plan, progress = session.config.train, session.plan, session.progress
    yield PhaseStarted(phase="train", total=plan.steps)
    yield from evaluate(session)
    if train.load_best_model_at_end and progress.best_step == progress.step == 0:
        # should nothing be better than what was there before
        yield from session.save()
        yield PhaseStarted(phase="train", total=plan.steps)
    while progress.step < plan.steps and not ran_dry(session):
        step = progress.step + 1
        rate = learning_rate(train, session.resolved.learning_rate, step, plan.parts)
        update = yield from session.stepper.update(step, rate)
        jump = describe_jump(progress.recent, update.loss)
        progress.count(update)
        if jump:
            yield Warned(code="loss_spike", what=f"At step {step} {jump}.")
        if step % session.config.logging.log_interval == 0 or step == plan.steps:
            yield describe(session, rate, update)
        if asked_to_stop(session):
            raise StopRequested
        best_before = progress.best_step
        yield from evaluate(session)
        if is_due(session, train.save_strategy, train.save_steps) or (
            train.load_best_model_at_end and progress.best_step != best_before
        ):
            yield from session.save()
            yield PhaseStarted(phase="train", total=plan.steps)


def evaluate(session: Session) -> Iterator[Event]:
    """Score the validation examples if that is due at this step and not done yet."""
    train, progress = session.config.train, session.progress
    due = progress.step == 0 or is_due(session, train.eval_strategy, train.eval_steps)
    if train.eval_strategy == "no" or not due or progress.evaluated >= progress.step:
        return
    metrics: Mapping[str, float] = {}
    for event in session.watch.score(session.stepper, progress.step):
        yield event
        if isinstance(event, EvaluationLogged):
            metrics = event.metrics
    # only now: an evaluation that was broken off is done again, and counts once
    metric = train.metric_for_best_model
    progress.rate(metrics, metric, lowest=metric in LOSS_METRICS)
    yield PhaseStarted(phase="train", total=session.plan.steps)


def is_due(session: Session, strategy: str, every: int) -> bool:
    """Tell whether something that happens every so often, and at the end, happens now."""
    step = session.progress.step
    if strategy == "no":
        return False
    if step == session.plan.steps:
        return True
    return session.plan.ends_epoch(step) if strategy == "epoch" else step % every == 0


def ran_dry(session: Session) -> bool:
    """Tell whether so many evaluations brought no gain that the rest is not worth it."""
    patience = session.config.train.early_stopping_patience
    return 0 < patience <= session.progress.evaluations_without_gain


def asked_to_stop(session: Session) -> bool:
    """Ask for a stop request; several processes agree, so that all leave after the same step."""
    accelerator = session.stepper.accelerator
    if accelerator.is_main_process and stop_requested(session.run_dir):
        accelerator.set_trigger()
    return accelerator.check_trigger()


def describe(session: Session, rate: float, update: Update) -> StepLogged:
    """Put a step into the words of the record."""
    step = session.progress.step
    return StepLogged(
        step=step,
        total_steps=session.plan.steps,
        epoch=round(session.plan.epoch(step), 4),
        loss=update.loss,
        learning_rate=rate,
        grad_norm=update.grad_norm,
        tokens=update.tokens,
        learned_tokens=update.learned_tokens,
        tokens_per_second=update.tokens / update.seconds,
        peak_bytes=peak_bytes(session.stepper.accelerator.device),
    )


def finish(session: Session, began: float) -> Iterator[Event]:
    """Take the best or the last weights, write the adapter's folder and the figures."""
    train, progress = session.config.train, session.progress
    prepared, is_main = session.stepper.prepared, session.stepper.accelerator.is_main_process
    yield PhaseStarted(phase="save")
    best = progress.best_step
    if train.load_best_model_at_end and best not in (None, progress.step):
        read_weights(session.checkpoints / f"checkpoint-{best}", prepared.model)
    # the processes may have the weights only together
    weights = gathered(learned_weights(prepared.model), keep=is_main)
    if not is_main:
        return
    figures = session.figures()
    facts = session.adapter_facts()
    adapter = leave_adapter(facts, session.base, Tuned(prepared, weights), figures)
    write_figures(session.run_dir / "metrics.json", figures)
    seconds = round(time.monotonic() - began, 3)
    yield RunFinished(step=progress.step, adapter=str(adapter), seconds=seconds)


def check_metric(config: RunConfig) -> None:
    """Raise ConfigError unless the metric that decides what is best is one that is measured."""
    metric = config.train.metric_for_best_model
    if metric in LOSS_METRICS:
        return
    # only here: it takes longer to import than a small model to load
    from sftplay_ui.engine.worker.scoring.metrics import METRICS

    known = [*LOSS_METRICS, *(scored.title for scored in METRICS)]
    if metric not in known:
        raise ConfigError(
            f"train.metric_for_best_model is {metric!r}, which is not measured during training.",
            f"Use one of: {', '.join(known)}.",
        )
    if not scored_answers(config.train):
        raise ConfigError(
            f"train.metric_for_best_model is {metric}, but train.eval_answers is 0.",
            "Set train.eval_answers: auto.",
        )
