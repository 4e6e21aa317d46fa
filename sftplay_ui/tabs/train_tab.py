"""Train: choose a base model and a few settings, start, watch, stop, go on.

The curves and all that moves are filled by `assets/train.js` from the shell's one poll.
"""

import shlex
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.memory.prospect import look_ahead
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.runs import Run, find_run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.form import Form, values_of
from sftplay_ui.live import LiveRuns
from sftplay_ui.presets import PRESETS
from sftplay_ui.tabs.fit import prospect_html
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.parts import card_title, live_part, note_box, page_head, problem, said
from sftplay_ui.tabs.train_board import BoardButtons
from sftplay_ui.tabs.train_compare import RunComparison
from sftplay_ui.tabs.train_line import RunLine
from sftplay_ui.tabs.train_nodes import NodeCommands
from sftplay_ui.tabs.train_parts import CURVES, LIBRARY, RUN_HEAD, TOLD
from sftplay_ui.tabs.train_settings import BASE_MODELS, SECTIONS
from sftplay_ui.tabs.train_unsloth import UnslothCard

GRACE_SECONDS = 2.0
SOURCES = {
    "processed": "Processed",
    "processed_with_style": "Styled",
    "rendered": "Rendered",
}
SPLITS = ("train", "val", "test")


class TrainTab:
    """Train: from settings to an adapter, in a worker that outlives this page."""

    name = "train"
    title = "Train"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.form = Form("train")
        self.line = RunLine(live)
        self.board = BoardButtons(workspace)
        self.unsloth = UnslothCard(live)

    def build(self, page: gr.Tab) -> None:
        """Lay out the page and wire its events."""
        page_head(
            "Train",
            "Teach the base model your examples. The run goes on when you close this page.",
        )
        # the page's selected run: its scripts put the name in when a button is pressed
        self.picked = gr.Textbox(visible=False)
        self.epochs = gr.Textbox(visible=False)
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.build_run(page)
            with gr.Column(scale=1, min_width=320):
                self.build_form()
        for handler, control in (
            (self.newest_source, self.source),
            (self.current_template, self.form.controls["data.template_path"]),
        ):
            page.select(
                guarded(handler),
                outputs=[control],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

    def build_run(self, page: gr.Tab) -> None:
        """Lay out what the selected run does, and what can be done with it."""
        with gr.Column(elem_classes=["card"]):
            live_part(RUN_HEAD, "SFTPlay.runHead(element)", "train-head")
            with gr.Row(elem_classes=["toolbar"]):
                stop = gr.Button("Stop", variant="stop", size="sm", elem_id="train-stop")
                resume = gr.Button("Resume", size="sm", elem_id="train-resume")
                extend = gr.Button("Extend", size="sm", elem_id="train-extend")
                reuse = gr.Button("Use its settings", size="sm", elem_id="train-reuse")
                delete = gr.Button("Delete", size="sm", elem_id="train-delete")
            self.run_note = note_box("train-run-note")
            live_part(CURVES, "SFTPlay.charts(element)", "train-curves")
        with gr.Column(elem_classes=["card"], elem_id="train-told-card"):
            live_part(TOLD, "SFTPlay.told(element)", "train-told")
        self.line.build()
        with gr.Column(elem_classes=["card"]):
            live_part(LIBRARY, "SFTPlay.library(element)", "train-library")
            RunComparison(self.live).build(page)
            self.board.build()
        self.on_run(stop, self.stop)
        self.on_run(resume, self.resume)
        extend.click(
            guarded(self.extend),
            inputs=[self.picked, self.epochs],
            outputs=[self.run_note],
            js="() => SFTPlay.asked('Add how many epochs to {run}?', '1')",
            show_progress="hidden",
            api_visibility="private",
        ).then(None, js="() => SFTPlay.soon()")
        delete.click(
            guarded(self.delete),
            inputs=[self.picked],
            outputs=[self.run_note],
            js="() => [SFTPlay.confirmed('Delete {run} with its checkpoints and adapter?')]",
            show_progress="hidden",
            api_visibility="private",
        )
        self.reuse_button = reuse

    def on_run(self, button: gr.Button, handler: Any) -> None:
        """Let a button do something with the selected run."""
        button.click(
            guarded(handler),
            inputs=[self.picked],
            outputs=[self.run_note],
            js="() => [SFTPlay.selected()]",
            show_progress="hidden",
            api_visibility="private",
        ).then(None, js="() => SFTPlay.soon()")

    def build_form(self) -> None:
        """Lay out the settings: eight in sight, the rest under Advanced."""
        form = self.form
        with gr.Column(elem_classes=["card"]):
            card_title("New run")
            start = gr.Button("Start training", variant="primary", elem_id="train-start")
            self.start_note = note_box("train-start-note")
            with gr.Row(elem_classes=["toolbar"]):
                ahead = {
                    self.look_ahead: gr.Button("Will it fit?", size="sm", elem_id="train-fit-ask"),
                    self.find_lr: gr.Button(
                        "Find learning rate", size="sm", elem_id="train-find-lr"
                    ),
                    self.enqueue: gr.Button("Add to queue", size="sm", elem_id="train-queue"),
                }
            self.fit = note_box("train-fit")
            self.preset = gr.Radio(
                list(PRESETS), value="balanced", label="Preset", elem_id="train-preset"
            )
            form.add("model.name", self.model_choice())
            self.source = gr.Radio(
                [(label, folder) for folder, label in SOURCES.items()],
                value="processed",
                label="Examples",
                elem_id="train-source",
            )
            form.add("tuning.mode")
            for pair in (
                ("train.epochs", "train.learning_rate"),
                ("train.effective_batch", "model.max_seq_len"),
            ):
                with gr.Row(elem_classes=["pair"]):
                    for path in pair:
                        form.add(path)
        self.unsloth.build()
        with gr.Column(elem_classes=["card", "advanced"]):
            card_title("Advanced")
            for title, paths in SECTIONS.items():
                form.section(title, paths)
        self.unsloth.follow(form.controls["tuning.backend"])
        self.wire_form(start, *self.build_shown())
        NodeCommands(self.workspace, self.config).build({self.source, *form.inputs})
        for handler, button in ahead.items():
            button.click(
                guarded(handler),
                inputs={self.source, *self.form.inputs},
                outputs=[self.fit],
                show_progress="minimal",
                api_visibility="private",
            ).then(None, js="() => SFTPlay.soon()")

    def build_shown(self) -> tuple[gr.Button, gr.Textbox]:
        """Lay out where the form is shown as YAML and command; closed until asked for."""
        with gr.Accordion("Show as YAML and command", open=False, elem_classes=["card"]):
            shown = gr.Textbox(
                label="The same run without the window",
                lines=8,
                buttons=["copy"],
                elem_id="train-yaml",
                elem_classes=["mono"],
            )
            show = gr.Button("Show", size="sm", elem_id="train-show")
        return show, shown

    def wire_form(self, start: gr.Button, show: gr.Button, shown: gr.Textbox) -> None:
        """Wire what belongs to the form."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        filled = {self.source, *self.form.inputs}
        start.click(guarded(self.start), inputs=filled, outputs=[self.start_note], **quiet).then(
            None, js="() => SFTPlay.select(null)"
        )
        show.click(guarded(self.show), inputs=filled, outputs=[shown], queue=False, **quiet)
        controls = list(self.form.controls.values())
        self.preset.input(
            guarded(self.use_preset), inputs=[self.preset], outputs=controls, queue=False, **quiet
        )
        reused = self.reuse_button.click(
            guarded(self.reuse),
            inputs=[self.picked],
            outputs=controls,
            js="() => [SFTPlay.selected()]",
            **quiet,
        )
        # a control that was never in sight does not tell that it has changed
        self.unsloth.tell_after(reused.then)

    def model_choice(self) -> gr.Dropdown:
        """Offer the starter, some small models, and the folders that lie in models/."""
        folders = sorted((self.workspace.root / "models").glob("*/config.json"))
        found = [self.workspace.shorten(path.parent) for path in folders]
        return gr.Dropdown(
            [*BASE_MODELS, *((name, name) for name in found)],
            value="starter",
            allow_custom_value=True,
            label="Base model",
            info="Choose one, or type a local folder or a Hub id.",
            elem_id="train-model-name",
        )

    def newest_source(self) -> Any:
        """Choose the examples that were written last."""
        written = {
            name: path.stat().st_mtime
            for name in SOURCES
            if (path := self.workspace.data / name / "train.jsonl").is_file()
        }
        return max(written, key=lambda name: written[name]) if written else gr.skip()

    def current_template(self) -> Any:
        """Take over the chat template that was chosen in Style."""
        current = current_data(self.workspace)
        return gr.skip() if current is None else current.template_path or ""

    def config(self, filled: Mapping[Component, Any], job: str = "train") -> RunConfig:
        """Check the form and the choice of examples; ConfigError lists every problem."""
        folder = filled[self.source]
        paths = {f"data.{split}_path": f"data/{folder}/{split}.jsonl" for split in SPLITS}
        return self.form.config(filled, job=job, **paths)

    def start(self, filled: Mapping[Component, Any]) -> str:
        """Start a run; what is in the way is said beside the button."""
        try:
            run = self.live.start(self.config(filled))
        except SFTPlayError as error:
            return problem(error)
        return said(f"{run.name} has started.")

    def enqueue(self, filled: Mapping[Component, Any]) -> str:
        """Let a run wait in line; with nothing in its way it starts."""
        try:
            return self.line.add(self.config(filled))
        except SFTPlayError as error:
            return problem(error)

    def find_lr(self, filled: Mapping[Component, Any]) -> str:
        """Start a range test with the form's settings; the page shows its curve."""
        try:
            config = self.config(filled, "find_lr")
            run = self.live.start(config.model_copy(update={"run_name": "auto"}))
        except SFTPlayError as error:
            return problem(error)
        return said(f"{run.name} tries rising learning rates on a copy of the model.")

    def look_ahead(self, filled: Mapping[Component, Any]) -> str:
        """Say whether a run would fit and how long it would take, without starting it."""
        try:
            config, device = self.config(filled), detect_device()
            ahead = look_ahead(
                config, device, self.workspace, calibrate=True, simulated="strangers"
            )
            return prospect_html(ahead)
        except SFTPlayError as error:
            return problem(error)

    def stop(self, name: str) -> str:
        """Ask the run to save and leave; asked again, end it."""
        run = find_run(name, self.workspace)
        if not run.is_alive():
            return said(f"{run.name} is not running.")
        again = (run.folder / "stop").exists()
        run.request_stop()
        if not again:
            return said(f"{run.name} saves its work and stops. Press Stop again to end it at once.")
        self.end(run)
        return said(f"{run.name} was ended at once; what it had not saved yet is lost.")

    def end(self, run: Run) -> None:
        """Give the worker a moment to leave by itself, then end it."""
        deadline = time.monotonic() + GRACE_SECONDS
        while run.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        run.kill()

    def resume(self, name: str) -> str:
        """Let a run go on from its newest checkpoint."""
        step = self.live.story(name).resume_step()
        run = self.live.resume(name)
        return said(f"{run.name} goes on from step {step or 0:,}.")

    def extend(self, name: str, epochs: str) -> str:
        """Add epochs to a finished run; none were given where the question was waved away."""
        if not epochs:
            return ""
        try:
            run = self.live.extend(name, float(epochs))
        except ValueError:
            return said(f"{epochs} is no number of epochs above 0.")
        return said(f"{run.name} goes on for {float(epochs):g} more epochs.")

    def delete(self, name: str) -> str:
        """Remove a run, its checkpoints and adapter; an empty name was not confirmed."""
        if not name:
            return ""
        find_run(name, self.workspace).delete()
        self.live.look(force=True)
        return said(f"{name} is deleted.")

    def use_preset(self, name: str) -> dict[Component, Any]:
        """Fill in the few settings of a preset."""
        return self.form.filled(PRESETS[name])

    def reuse(self, name: str) -> dict[Component, Any]:
        """Fill the form with the settings of a run; of a range test with the rate it suggests."""
        config = find_run(name, self.workspace).config()
        values = values_of(config, self.form.controls)
        found = self.live.story(name).suggested
        if found is not None:
            values["train.learning_rate"] = found.learning_rate
        return self.form.filled(values)

    def show(self, filled: Mapping[Component, Any]) -> str:
        """Write the form as a command and as YAML: what differs from the defaults."""
        config = self.config(filled)
        default = RunConfig()
        paths = [*self.form.controls, *(f"data.{split}_path" for split in SPLITS)]
        before = values_of(default, paths)
        changed = {
            path: value for path, value in values_of(config, paths).items() if value != before[path]
        }
        sets = [
            f"--set {shlex.quote(f'{path}={as_text(value)}')}" for path, value in changed.items()
        ]
        command = " \\\n  ".join(["python launch.py train", *sets])
        yaml = config_to_yaml(config, changed_only=True)
        return f"{command}\n\n# or as a file, with --config FILE\n{yaml}"


def as_text(value: Any) -> str:
    """Write a value the way `--set` reads it back."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
