"""Try it now: the bundled sample from Data to Chat, one job after the other, without a click.

A thread of the window starts each job when the one before it is done. How far it is, is read off
the run folders, so a reload, a second page or a new start of the window shows the same.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gradio as gr

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import make_config
from sftplay_ui.engine.data.process import process_files
from sftplay_ui.engine.demo_settings import demo_settings
from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.runs import RunSummary
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.guard import guarded

RUN_NAME = "try-it-now"
OURS = re.compile(rf"{RUN_NAME}(-\d+)?")
POLL_SECONDS = 0.5

StepState = Literal["waiting", "running", "finished", "stopped", "failed", "lost"]

CARD = """
<section class="try-it card" aria-label="Try it now" hidden>
  <header><strong>Try it now</strong><button type="button" class="icon" data-part="hide"
    aria-label="Hide this list">×</button></header>
  <ol data-part="steps"></ol>
  <p class="muted" data-part="words"></p>
</section>
"""


@dataclass(frozen=True)
class TryStep:
    """One line of the checklist."""

    name: str
    state: StepState
    text: str = ""


class TryIt:
    """The walk, at most one at a time in a workspace."""

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()
        self.processing = False
        self.problem = ""

    # ---- the walk ----

    def start(self) -> None:
        """Begin the walk, or go on with one that is not at its end yet."""
        with self.lock:
            if self.thread is not None and self.thread.is_alive():
                return
            self.problem = ""
            again = self.training() is None or self.is_over()
            if again:
                self.processing = True
            self.thread = threading.Thread(target=self.walk, args=[again], daemon=True)
            self.thread.start()

    def go_on(self) -> None:
        """Take up a walk whose training outlived the window it was started from."""
        training = self.training()
        if training is not None and training.state == "running":
            self.start()

    def walk(self, begin: bool) -> None:
        """Do what comes next until there is nothing left, or something went wrong."""
        try:
            if begin:
                self.begin()
            while self.next():
                threading.Event().wait(POLL_SECONDS)
        except SFTPlayError as error:
            self.problem = f"{error.what} {error.fix}"
        finally:
            self.processing = False

    def begin(self) -> None:
        """Process the sample and start the training."""
        config = self.config()
        process_files(config, self.workspace)
        self.live.start(config)
        self.processing = False

    def next(self) -> bool:
        """Start the evaluation once the training is finished; tell whether more is to come."""
        training = self.training()
        if training is None or training.state != "finished":
            return training is not None and training.state == "running"
        evaluation = self.evaluation(training.run)
        if evaluation is not None:
            return evaluation.state == "running"
        config = self.config()
        section = config.evaluate.model_copy(update={"run": training.run})
        update = {"job": "evaluate", "run_name": "auto", "evaluate": section}
        self.live.start(config.model_copy(update=update))
        return True

    def config(self) -> RunConfig:
        """Give the configuration of the walk."""
        return make_config({**demo_settings(), "job": "train", "run_name": RUN_NAME})

    # ---- how far it is ----

    def training(self) -> RunSummary | None:
        """Find the newest training of a walk."""
        rows = self.live.summaries("train")
        return next((row for row in rows if OURS.fullmatch(row.run)), None)

    def evaluation(self, run: str) -> RunSummary | None:
        """Find the newest evaluation of a walk's training."""
        named = re.compile(rf"evaluate-{re.escape(run)}(-\d+)?")
        rows = self.live.summaries("evaluate")
        found = [row for row in rows if named.fullmatch(row.run)]
        training = self.training()
        later = [row for row in found if training is not None and row.started >= training.started]
        return later[0] if later else None

    def is_over(self) -> bool:
        """Tell whether the newest walk came to its end, or was ended."""
        training = self.training()
        if training is None or training.state in ("stopped", "failed", "lost"):
            return True
        if training.state == "running":
            return False
        evaluation = self.evaluation(training.run)
        return evaluation is not None and evaluation.state != "running"

    def steps(self) -> list[TryStep]:
        """Tell each step of the newest walk."""
        if self.processing:
            return [TryStep("Data", "running"), *(TryStep(n, "waiting") for n in STEPS[1:])]
        training = self.training()
        if training is None:
            return [TryStep(name, "waiting") for name in STEPS]
        evaluation = self.evaluation(training.run)
        done = evaluation is not None and evaluation.state == "finished"
        return [
            TryStep("Data", "finished", "210 trivia questions"),
            TryStep("Train", training.state, progress(training)),
            TryStep("Evaluate", evaluation.state if evaluation else "waiting"),
            TryStep("Chat", "finished" if done else "waiting"),
        ]

    def checklist(self, _query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Answer a page: the steps, what went wrong, and which run this is about."""
        training = self.training()
        working = self.thread is not None and self.thread.is_alive()
        return {
            "run": training.run if training else "",
            "shown": self.processing or training is not None or bool(self.problem),
            "working": working,
            "problem": self.problem,
            "steps": [asdict(step) for step in self.steps()],
        }

    # ---- on the page ----

    def build(self) -> None:
        """Lay out the checklist, which floats over all tabs, and the button Data presses."""

        def checklist(query: Mapping[str, Any]) -> dict[str, Any]:
            return self.checklist(query)

        gr.HTML(
            html_template=CARD,
            js_on_load="SFTPlay.tryIt(element, server.checklist)",
            server_functions=[checklist],
            elem_id="try-it",
            elem_classes=["flush"],
            apply_default_css=False,
        )
        begin = gr.Button("Try it now", visible="hidden", elem_id="try-it-begin")
        begin.click(
            guarded(self.start), queue=False, show_progress="hidden", api_visibility="private"
        )


STEPS = ("Data", "Train", "Evaluate", "Chat")


def progress(run: RunSummary) -> str:
    """Say how far a training is."""
    return f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else ""
