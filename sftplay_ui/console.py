"""How events look in a terminal: progress bars on stderr, and only where somebody watches.

Results go to stdout, so a pipe gets them alone; with `--json` its last line is one object.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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
    RunStopped,
    SampleGenerated,
    StepLogged,
    Warned,
)

PHASES = {
    "download": "Fetching the base model",
    "try_backend": "Trying whether unsloth works here",
    "load": "Loading the base model",
    "tokenise": "Turning text into tokens",
    "probe": "Trying how much fits",
    "train": "Training",
    "evaluate": "Evaluating",
    "generate": "Writing answers",
    "save": "Saving",
    "merge": "Merging",
    "read": "Reading",
    "compare": "Looking for duplicates",
    "write": "Writing",
}


class Reporter:
    """Show a run's events to a person, and keep the last ones for the answer."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def show(self, events: Iterable[Event]) -> list[Event]:
        """Show events until they end; give them all back."""
        seen = []
        with self.progress:
            for event in events:
                seen.append(event)
                self.show_one(event)
        return seen

    def begin(self, phase: str, total: float) -> None:
        """Start a new bar, in the place of the last one."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(PHASES.get(phase, phase), total=total or None)
        if not self.console.is_terminal:
            self.say(f"{PHASES.get(phase, phase)} ...")

    def advance(self, done: float, total: float | None = None) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line on stderr, unless only the answer was asked for."""
        if not self.quiet:
            self.console.print(escape(text))

    def show_one(self, event: Event) -> None:
        """Show one event as progress or as lines."""
        match event:
            case PhaseStarted():
                self.begin(event.phase, event.total)
            case PhaseProgressed():
                self.advance(event.done)
            case StepLogged():
                self.show_step(event)
            case _:
                for line in lines_of(event):
                    self.say(line)

    def show_step(self, event: StepLogged) -> None:
        """Show a training step: in the bar, or every tenth of the way as a line."""
        self.advance(event.step, event.total_steps)
        every = max(1, event.total_steps // 10)
        if not self.console.is_terminal and event.step % every == 0:
            self.say(
                f"step {event.step}/{event.total_steps}  loss {event.loss:.4f}  "
                f"{event.tokens_per_second:.0f} tokens/s"
            )


def lines_of(event: Event) -> list[str]:
    """Put an event in words; nothing where it is told elsewhere."""
    lines: list[str] = []
    match event:
        case ConfigResolved():
            lines = [f"  {choice}" for choice in event.choices]
        case EvaluationLogged():
            scores = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            lines = [f"evaluation at step {event.step}: {scores}"]
        case SampleGenerated():
            lines = [f"  {event.source}: {one_line(event.prompt)} -> {one_line(event.text)}"]
        case CheckpointSaved():
            lines = [f"checkpoint saved at step {event.step}"]
        case RateSuggested():
            lines = [f"suggested learning rate {event.learning_rate:g}. {event.what}"]
        case Warned():
            lines = [f"warning: {event.what}"]
        case RunStopped():
            lines = [f"stopped at step {event.step}; resume continues from here"]
        case RunFinished():
            lines = [f"done in {event.seconds:.0f} s"]
    return lines


def one_line(text: str, limit: int = 100) -> str:
    """Squeeze a text into one short line."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def failure_of(events: list[Event]) -> RunFailed | None:
    """Give the failure that a run ended with, if it did."""
    last = events[-1] if events else None
    return last if isinstance(last, RunFailed) else None


def print_json(answer: Any) -> None:
    """Print one JSON object as the last line of stdout."""
    sys.stdout.write(storable(json.dumps(answer, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def print_failure(what: str, fix: str) -> None:
    """Print an expected failure the way every command does."""
    sys.stderr.write(storable(f"error: {what}\nfix: {fix}\n"))


def storable(text: str) -> str:
    """Show bytes of a file name that are no UTF-8 as escapes, since they cannot be written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
