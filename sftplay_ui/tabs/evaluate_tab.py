"""Evaluate: the base model and the tuned one answer the same questions; see whether it helped."""

from pathlib import Path
from typing import Any, cast

import gradio as gr

from sftplay_ui.engine.config import RunConfig, Split
from sftplay_ui.engine.errors import RunNotFoundError
from sftplay_ui.engine.evaluation import read_answers, read_evaluation
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.evaluation_view import (
    ORDERS,
    PAGE_ROWS,
    Order,
    answers_table,
    metric_choices,
    ordered,
    score_cards,
    verdict_card,
)
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, empty, note
from sftplay_ui.tabs.pager import Pager, place_of
from sftplay_ui.tabs.parts import card_title, job_panel, on_load, page_head
from sftplay_ui.tabs.tuned import follow_up, tuned_runs
from sftplay_ui.tabs.wiring import wire

NOTHING = empty(
    "No evaluation yet",
    "Choose a run and press Evaluate: both models answer questions the tuned one has not seen.",
)
SPLITS = (("Test (held back)", "test"), ("Validation", "val"), ("Train (did it learn?)", "train"))


class EvaluateTab:
    """Evaluate: before and after, on the same questions."""

    name = "evaluate"
    title = "Evaluate"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out form, progress and results."""
        page_head("Evaluate", "Did tuning help? Base and tuned model answer the same questions.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.panel = job_panel("evaluate")
                self.build_result()
            with gr.Column(scale=1, min_width=290, elem_classes=["card", "form-first"]):
                self.build_form()
        self.wire_events(page)

    def build_form(self) -> None:
        """Lay out what is asked, of whom, and how much."""
        card_title("New evaluation")
        self.run = gr.Dropdown([], label="Tuned run", elem_id="evaluate-run")
        self.split = gr.Dropdown(
            list(SPLITS), value="test", label="Questions from", elem_id="evaluate-split"
        )
        self.limit = gr.Number(
            RunConfig().evaluate.limit,
            label="Number of questions",
            info="0 asks all of them.",
            precision=0,
            minimum=0,
            elem_id="evaluate-limit",
        )
        self.base = gr.Checkbox(
            True,
            label="Ask the base model too",
            info="For before and after.",
            elem_id="evaluate-base",
        )
        with gr.Row(elem_classes=["toolbar"]):
            self.start_button = gr.Button("Evaluate", variant="primary", elem_id="evaluate-start")
            self.stop_button = gr.Button("Stop", variant="stop", elem_id="evaluate-stop")
        self.started = board(elem_id="evaluate-started", live=True)
        self.note = board(elem_id="evaluate-note", live=True)

    def build_result(self) -> None:
        """Lay out the chosen evaluation: verdict, scores, answers."""
        self.past = gr.Dropdown([], label="Result of", elem_id="evaluate-past", visible=False)
        self.scores = board(NOTHING, elem_id="evaluate-scores")
        with gr.Column(visible=False, elem_classes=["card"]) as self.answers_card:
            card_title("Answers side by side")
            with gr.Row(elem_classes=["toolbar"]):
                self.order = gr.Dropdown(
                    list(ORDERS), value="gains", label="Order", elem_id="evaluate-order"
                )
                self.metric = gr.Dropdown([], label="Change in", elem_id="evaluate-metric")
            self.answers = board(elem_id="evaluate-answers")
            self.pager = Pager.lay_out("evaluate", "answers")

    def wire_events(self, page: gr.Tab) -> None:
        """Connect clicks with handlers."""
        runs = [self.run, self.past]
        result = [self.scores, self.answers_card, self.metric, self.answers]
        shown = [self.past, self.order, self.metric]
        leafed = [self.answers, self.pager.page, self.pager.place]
        on_load(guarded(self.refresh), [*runs])
        page.select(guarded(self.refresh), outputs=runs, queue=False, api_visibility="private")
        form = [self.run, self.split, self.limit, self.base]
        wire(self.start_button.click, self.start, form, [self.started], note=self.note)
        wire(self.stop_button.click, self.stop, [], [], note=self.note)
        self.panel.done(
            guarded(self.newest), outputs=[self.past], queue=False, api_visibility="private"
        )
        wire(self.past.change, self.show, [self.past], [*result, *leafed[1:]], note=self.note)
        for event in (self.order.input, self.metric.input, self.pager.page.submit):
            wire(event, self.leaf, [*shown, self.pager.page], leafed, note=self.note)
        for button, handler in ((self.pager.back, self.back), (self.pager.forward, self.forward)):
            wire(button.click, handler, [*shown, self.pager.page], leafed, note=self.note)

    # ---- handlers ----

    def refresh(self) -> tuple[Any, Any]:
        """List the tuned runs and the finished evaluations."""
        runs = tuned_runs(self.workspace)
        return (
            gr.Dropdown(choices=runs, value=runs[0] if runs else None),
            self.newest(),
        )

    def newest(self) -> Any:
        """List the evaluations with a result and choose the newest."""
        found = self.evaluations()
        return gr.Dropdown(choices=found, value=found[0] if found else None, visible=bool(found))

    def evaluations(self) -> list[str]:
        """Name the evaluations that have a result, newest first."""
        rows = self.live.summaries("evaluate")
        return [r.run for r in rows if (self.workspace.outputs / r.run / "metrics.json").is_file()]

    def start(self, run: str, split: str, limit: float | None, base: bool) -> str:
        """Start the evaluation of a run; every open page sees its progress."""
        config = follow_up(run, "evaluate", self.workspace)
        section = config.evaluate.model_copy(
            update={
                "run": run,
                "split": cast(Split, split),
                "limit": int(limit or 0),
                "base": bool(base),
            }
        )
        started = self.live.start(config.model_copy(update={"evaluate": section}))
        return note(f"Evaluating {run} as {started.name}.")

    def stop(self) -> None:
        """Ask the evaluations that run to stop."""
        alive = [row.run for row in self.live.summaries("evaluate") if row.state == "running"]
        if not alive:
            raise RunNotFoundError("No evaluation is running.", "Press Evaluate to start one.")
        for name in alive:
            Run(self.workspace.outputs / name).request_stop()

    def folder(self, past: str) -> Path:
        """Find the folder of a finished evaluation."""
        if past not in self.evaluations():
            raise RunNotFoundError(
                f"There is no result called {past!r}.", "Choose one of the list."
            )
        return self.workspace.outputs / past

    def show(self, past: str | None) -> tuple[Any, ...]:
        """Show an evaluation: verdict, scores, and the first page of its answers."""
        evaluation = read_evaluation(self.folder(past)) if past else None
        if past is None or evaluation is None:
            return NOTHING, gr.Column(visible=False), gr.skip(), "", 1, ""
        choices = metric_choices(evaluation)
        metric = best_metric([name for _, name in choices])
        table, page, place = self.leaf(past, "gains", metric, 1)
        return (
            verdict_card(evaluation) + score_cards(evaluation),
            gr.Column(visible=True),
            gr.Dropdown(choices=choices, value=metric or None),
            table,
            page,
            place,
        )

    def leaf(
        self, past: str, order: Order, metric: str, page: float | None
    ) -> tuple[str, int, str]:
        """Show one page of the answers in an order."""
        pairs = ordered(read_answers(self.folder(past)), metric, order)
        place = place_of(page, len(pairs), PAGE_ROWS)
        return answers_table(pairs, metric, place.page), place.page, place.sentence

    def back(self, past: str, order: Order, metric: str, page: float) -> tuple[str, int, str]:
        """Leaf back."""
        return self.leaf(past, order, metric, (page or 1) - 1)

    def forward(self, past: str, order: Order, metric: str, page: float) -> tuple[str, int, str]:
        """Leaf forward."""
        return self.leaf(past, order, metric, (page or 1) + 1)


def best_metric(names: list[str]) -> str:
    """Choose the score to sort by: one that moves with every word."""
    return next((name for name in ("rougeL", "token_f1") if name in names), (names or [""])[0])
