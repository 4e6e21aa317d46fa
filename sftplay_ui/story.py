"""What a run has told so far: its events, folded into append-only series and a few facts.

Feed it events with `add`; read it by index. Where the events come from is left to `live`.
"""

import math
import secrets
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.errors import WorkerLostError
from sftplay_ui.engine.events import (
    CheckpointSaved,
    ConfigResolved,
    EvaluationLogged,
    Event,
    PhaseProgressed,
    PhaseStarted,
    RateSuggested,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleGenerated,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.resolve import LOSS_METRICS
from sftplay_ui.engine.runs import Run, State, derive_state

STEP_COLUMNS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory")
EVAL_COLUMNS = ("loss",)
WARNINGS_KEPT = 50
SAMPLES_KEPT = 200

PHASES = {
    "download": "Downloading",
    "try_backend": "Trying unsloth",
    "load": "Loading the model",
    "tokenise": "Tokenising",
    "probe": "Trying how much fits",
    "train": "Training",
    "evaluate": "Evaluating",
    "generate": "Answering",
    "save": "Saving",
    "merge": "Merging",
}
ENDINGS: dict[State, str] = {
    "running": "Starting",
    "finished": "Finished",
    "stopped": "Stopped",
    "failed": "Failed",
    "lost": "Lost",
}


class Series:
    """Rows of numbers that only grow: a step and some figures; NaN where a figure is missing."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.step = array("q")
        self.columns = {name: array("d") for name in columns}

    def __len__(self) -> int:
        return len(self.step)

    def add(self, step: int, *figures: float) -> None:
        self.step.append(step)
        for column, figure in zip(self.columns.values(), figures, strict=True):
            column.append(figure)

    def since(self, start: int, most: int) -> dict[str, list[int] | list[float | None]]:
        """Give the rows from `start` on, by column; what is no number becomes None (JSON)."""
        part = slice(start, start + most)
        found: dict[str, list[int] | list[float | None]] = {"step": self.step[part].tolist()}
        for name, column in self.columns.items():
            found[name] = [value if math.isfinite(value) else None for value in column[part]]
        return found


@dataclass(frozen=True)
class Pace:
    """Where this session's measuring began: at its first logged step, anew after a resume."""

    step: int
    time: float


@dataclass
class Story:
    """One run as told by its events so far."""

    run: Run
    generation: str = field(default_factory=lambda: secrets.token_hex(4))
    facts: int = 0
    steps: Series = field(default_factory=lambda: Series(STEP_COLUMNS))
    evaluations: Series = field(default_factory=lambda: Series(EVAL_COLUMNS))
    samples: list[SampleGenerated] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    scores: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    choices: tuple[Choice, ...] = ()
    suggested: RateSuggested | None = None
    started: RunStarted | None = None
    phase: PhaseStarted | None = None
    done: int = 0
    pace: Pace | None = None
    last_step: StepLogged | None = None
    checkpoint: CheckpointSaved | None = None
    tokens: int = 0
    learned_tokens: int = 0
    last: Event | None = None
    alive: bool = True

    def add(self, event: Event) -> None:
        """Take in one event."""
        self.last = event
        match event:
            case StepLogged():
                self.add_step(event)
            case PhaseProgressed():
                self.done = event.done
            case PhaseStarted():
                self.phase, self.done = event, 0
            case EvaluationLogged():
                self.evaluations.add(event.step, event.metrics.get("eval_loss", math.nan))
                self.add_scores(event)
            case CheckpointSaved():
                self.checkpoint = event
            case _:
                self.add_fact(event)

    def add_step(self, event: StepLogged) -> None:
        self.steps.add(
            event.step,
            event.loss,
            event.learning_rate,
            event.grad_norm,
            event.tokens_per_second,
            event.peak_bytes,
        )
        self.tokens += event.tokens
        self.learned_tokens += event.learned_tokens
        self.last_step = event
        if self.pace is None:
            self.pace = Pace(event.step, event.time)

    def add_fact(self, event: Event) -> None:
        """Take in what is not a figure; pages ask for these only when `facts` has grown."""
        self.facts += 1
        match event:
            case RunStarted():
                self.started = event
                self.pace = self.phase = None
            case ConfigResolved():
                self.choices = event.choices
            case SampleGenerated():
                self.samples = [*self.samples, event][-SAMPLES_KEPT:]
            case RateSuggested():
                self.suggested = event
            case Warned():
                self.warnings = [*self.warnings, event][-WARNINGS_KEPT:]

    def add_scores(self, event: EvaluationLogged) -> None:
        """Keep the scores of answers, where an evaluation made any; its loss has a curve."""
        scores = {name: value for name, value in event.metrics.items() if name not in LOSS_METRICS}
        if scores:
            self.scores = [*self.scores, (event.step, scores)]
            self.facts += 1

    def end(self) -> None:
        """Take note that the worker is gone."""
        self.alive = False
        self.facts += 1

    @property
    def state(self) -> State:
        return derive_state(self.last, self.alive)

    @property
    def failure(self) -> RunFailed | None:
        """Say what went wrong, if anything did; a worker that died without a word counts."""
        if isinstance(self.last, RunFailed):
            return self.last
        if self.state != "lost":
            return None
        if (self.run.folder / "stop").exists():
            return RunFailed(
                code=WorkerLostError.code,
                what=f"{self.run.name} was ended before it could save, as asked.",
                fix="Resume the run to go on from its newest checkpoint.",
            )
        return self.run.lost()

    @property
    def seconds(self) -> float | None:
        return self.last.seconds if isinstance(self.last, RunFinished) else None

    @property
    def progress(self) -> float | None:
        """Give the share that is done, 0 to 1; by steps once there are any, else by the phase."""
        if self.state == "finished":
            return 1.0
        step = self.last_step
        if step is not None and step.total_steps:
            return min(1.0, step.step / step.total_steps)
        if self.phase is not None and self.phase.total:
            return min(1.0, self.done / self.phase.total)
        return None

    def eta_seconds(self, now: float) -> float | None:
        """Estimate the seconds left from the pace of this session; None until there is a pace."""
        if self.state != "running":
            return None
        step, pace = self.last_step, self.pace
        if step is not None and pace is not None and step.step > pace.step:
            seconds = (step.time - pace.time) / (step.step - pace.step)
            return max(0.0, seconds * (step.total_steps - step.step) - (now - step.time))
        if step is None and self.phase is not None and self.phase.total and self.done:
            return (now - self.phase.time) * (self.phase.total - self.done) / self.done
        return None

    def sentence(self) -> str:
        """Say in a few words what the run is doing, or how it ended."""
        if self.state != "running":
            at = f" at step {self.last_step.step:,}" if self.last_step else ""
            return ENDINGS[self.state] + ("" if self.state == "finished" else at)
        if self.phase is None:
            return ENDINGS["running"]
        text = PHASES.get(self.phase.phase, self.phase.phase)
        if self.phase.phase == "train" and self.last_step:
            return f"{text}, step {self.last_step.step:,} of {self.last_step.total_steps:,}"
        if self.phase.total:
            return f"{text}, {self.done / self.phase.total:.0%}"
        return text

    def resume_step(self) -> int | None:
        """Give the step a resume goes on from (0: from the start); None where it makes no sense."""
        # a worker that said goodbye may still be on its way out
        if self.alive or self.state not in ("stopped", "failed", "lost"):
            return None
        if self.started is not None and self.started.job != "train":
            return None
        return max(checkpoint_steps(self.run.folder), default=0)

    def stop_asked(self) -> bool:
        return self.state == "running" and (self.run.folder / "stop").exists()


def checkpoint_steps(folder: Path) -> Iterator[int]:
    """List the steps of a run's complete checkpoints: their manifest is written last."""
    for manifest in (folder / "checkpoints").glob("checkpoint-*/manifest.json"):
        number = manifest.parent.name.removeprefix("checkpoint-")
        if number.isdecimal():
            yield int(number)
