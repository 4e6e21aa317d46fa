"""Merge: fold an adapter into its base model, prove that nothing changed, keep one folder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.adapters import read_adapter
from sftplay_ui.engine.errors import DiskFullError, ModelError, RunNotFoundError
from sftplay_ui.engine.models.store import find_model
from sftplay_ui.engine.resolve import parameter_count
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import Figure, board, bytes_text, empty, escape, figures, note
from sftplay_ui.tabs.parts import card_title, job_panel, on_load, page_head
from sftplay_ui.tabs.tuned import follow_up, tuned_runs
from sftplay_ui.tabs.wiring import wire

NOTHING = empty(
    "No merged model yet",
    "Choose a finished run and press Merge: you get one model folder that other programs load.",
)
DTYPES = (("bf16 (recommended)", "bf16"), ("fp16 (older programs)", "fp16"))
BYTES_PER_WEIGHT = 2
# weights, tokenizer and what is staged beside them
MARGIN = 1.1


class MergeTab:
    """Merge: choose a finished run, get one model folder."""

    name = "merge"
    title = "Merge"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out form, progress and result."""
        page_head("Merge", "Turn base model and adapter into one model folder, with proof.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.panel = job_panel("merge")
                self.past = gr.Dropdown([], label="Result of", visible=False, elem_id="merge-past")
                self.result = board(NOTHING, elem_id="merge-result")
            with gr.Column(scale=1, min_width=290, elem_classes=["card", "form-first"]):
                self.build_form()
        self.wire_events(page)

    def build_form(self) -> None:
        """Lay out what is merged, in which precision, and where it goes."""
        card_title("New merge")
        self.run = gr.Dropdown([], label="Tuned run", elem_id="merge-run")
        self.dtype = gr.Dropdown(
            list(DTYPES), value="bf16", label="Precision", elem_id="merge-dtype"
        )
        self.out = gr.Textbox(
            label="Folder",
            info="Empty: a folder named after the run.",
            max_lines=1,
            elem_id="merge-out",
        )
        self.space = board(elem_id="merge-space", live=True)
        with gr.Row(elem_classes=["toolbar"]):
            self.start_button = gr.Button("Merge", variant="primary", elem_id="merge-start")
            self.stop_button = gr.Button("Stop", variant="stop", elem_id="merge-stop")
        self.started = board(elem_id="merge-started", live=True)
        self.note = board(elem_id="merge-note", live=True)

    def wire_events(self, page: gr.Tab) -> None:
        """Connect clicks with handlers."""
        opened = [self.run, self.past]
        quiet: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        on_load(guarded(self.refresh), opened)
        page.select(guarded(self.refresh), outputs=opened, show_progress="hidden", **quiet)
        self.panel.done(guarded(self.newest), outputs=[self.past], **quiet)
        place = [self.run, self.out]
        wire(self.run.change, self.room, place, [self.space], note=self.note)
        wire(self.out.blur, self.room, place, [self.space], note=self.note)
        form = [self.run, self.dtype, self.out]
        wire(self.start_button.click, self.start, form, [self.started], note=self.note)
        wire(self.stop_button.click, self.stop, [], [], note=self.note)
        wire(self.past.change, self.show, [self.past], [self.result], note=self.note)

    # ---- handlers ----

    def refresh(self) -> tuple[Any, Any]:
        """List the tuned runs and the finished merges."""
        runs = tuned_runs(self.workspace)
        return gr.Dropdown(choices=runs, value=runs[0] if runs else None), self.newest()

    def newest(self) -> Any:
        """List the merges with a result and choose the newest."""
        found = self.merges()
        return gr.Dropdown(choices=found, value=found[0] if found else None, visible=bool(found))

    def merges(self) -> list[str]:
        """Name the merges that have a result, newest first."""
        rows = self.live.summaries("merge")
        return [r.run for r in rows if (self.workspace.outputs / r.run / "metrics.json").is_file()]

    def room(self, run: str | None, out: str | None) -> str:
        """Say how much the merged model takes, and how much is free there."""
        needed = self.needed_bytes(run)
        if needed is None:
            return ""
        free = free_bytes(self.workspace.resolve((out or "").strip() or "."))
        text = f"Takes about {bytes_text(needed)}; {bytes_text(free)} are free on that disk."
        return note(text, "good" if free > needed else "bad")

    def needed_bytes(self, run: str | None) -> float | None:
        """Estimate the merged folder from the base model's weights; None while it is not here."""
        if not run or run not in tuned_runs(self.workspace):
            return None
        adapter = read_adapter(self.workspace.adapters / run)
        try:
            base = find_model(adapter.base_model, adapter.revision, workspace=self.workspace)
            return base and MARGIN * BYTES_PER_WEIGHT * parameter_count(base.path)
        except ModelError:
            return None

    def start(self, run: str, dtype: str, out: str | None) -> str:
        """Start the merge of a run; every open page sees its progress."""
        config = follow_up(run, "merge", self.workspace)
        target = (out or "").strip() or None
        needed = self.needed_bytes(run) or 0
        free = free_bytes(self.workspace.resolve(target or "."))
        if free < needed:
            raise DiskFullError(
                f"The merged model takes about {bytes_text(needed)}; {bytes_text(free)} are free.",
                "Free some space, or name a folder on another disk.",
            )
        section = config.merge.model_copy(update={"adapter": run, "out": target, "dtype": dtype})
        started = self.live.start(config.model_copy(update={"merge": section}))
        return note(f"Merging {run} as {started.name}.")

    def stop(self) -> None:
        """Ask the merges that run to stop; nothing half done stays."""
        alive = [row.run for row in self.live.summaries("merge") if row.state == "running"]
        if not alive:
            raise RunNotFoundError("No merge is running.", "Press Merge to start one.")
        for name in alive:
            Run(self.workspace.outputs / name).request_stop()

    def show(self, past: str | None) -> str:
        """Show what a merge left behind, and the proof that it is the same model."""
        if not past:
            return NOTHING
        if past not in self.merges():
            raise RunNotFoundError(
                f"There is no result called {past!r}.", "Choose one of the list."
            )
        path = self.workspace.outputs / past / "metrics.json"
        return result_board(json.loads(path.read_text(encoding="utf-8")), self.workspace)


def free_bytes(folder: Path) -> int:
    """Ask how much is free where a folder lies or will lie."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def result_board(result: Mapping[str, Any], workspace: Workspace) -> str:
    """Show a merged model: its folder, its size, and what the proof says."""
    parity = result.get("parity") or {}
    tone = "good" if parity.get("same_tokens") else "busy"
    cells = [
        Figure("Size", bytes_text(result.get("bytes", 0)), "on the disk"),
        Figure("Precision", str(result.get("dtype", "")), "weights"),
        Figure("Loaded again", "yes" if result.get("reload") else "no", "from its folder"),
    ]
    if parity:
        largest = f"{parity['largest_logit_difference']:.3g}"
        cells += [
            Figure("Same tokens", "yes" if parity["same_tokens"] else "no", "as base and adapter"),
            Figure("Largest difference", largest, "in a score"),
        ]
    out = workspace.shorten(Path(str(result.get("out", ""))))
    return (
        f"<div class='verdict {tone}'><span class='pill {tone}'>merged</span>"
        f"<p>{escape(proof(parity))}</p><small class='mono'>{escape(out)}</small></div>"
        f"{figures(cells)}"
    )


def proof(parity: Mapping[str, Any]) -> str:
    """Word what the comparison with base and adapter showed."""
    if not parity:
        return "The model is there, but there was not enough memory to compare it with its parts."
    asked = f"{parity['prompts']:,} questions"
    if parity["same_tokens"]:
        return (
            f"Loaded again, the merged model wrote the same {parity['tokens']:,} tokens to {asked} "
            "as base and adapter."
        )
    return (
        f"Over {asked}, {parity['different']:,} of {parity['tokens']:,} tokens came out "
        "differently than with base and adapter, which preferred their own by "
        f"{parity['largest_margin']:.2g} at most: that is what rounding to 16 bit costs here."
    )
