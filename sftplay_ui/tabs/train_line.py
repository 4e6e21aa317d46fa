"""The line of runs that wait for the device: add to it, change its order, take a run out.

What the page shows of it comes with the shell's poll; `assets/train.js` draws it and presses the
buttons here, which nobody sees.
"""

from typing import Any

import gradio as gr

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.run_queue import cancel, move_up
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.parts import live_part, note_box, problem, said

LINE = """
<div class="line" hidden>
  <h2 class="card-title">Waiting in line</h2>
  <ol class="waiting" data-part="line"></ol>
</div>
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class RunLine:
    """The card of the line, and what its buttons do."""

    def __init__(self, live: LiveRuns) -> None:
        self.live = live

    def build(self) -> None:
        """Lay out the card; it shows only while something waits."""
        with gr.Column(elem_classes=["card"], elem_id="train-line-card"):
            live_part(LINE, "SFTPlay.line(element)", "train-line")
            picked = gr.Textbox(visible=False)
            note = note_box("train-line-note")
            for name, handler in (("up", self.up), ("cancel", self.cancel)):
                button = gr.Button(
                    name, elem_id=f"train-line-{name}", elem_classes=["pressed-by-script"]
                )
                button.click(
                    guarded(handler),
                    inputs=[picked],
                    outputs=[note],
                    js="() => [SFTPlay.waiting]",
                    **QUIET,
                ).then(None, js="() => SFTPlay.soon()")

    def add(self, config: RunConfig) -> str:
        """Put a run in line, or start it where nothing is in its way."""
        try:
            run, place = self.live.enqueue(config)
        except SFTPlayError as error:
            return problem(error)
        if place:
            return said(f"{run.name} waits in line, number {place}.")
        return said(f"{run.name} has started.")

    def up(self, name: str) -> str:
        """Let a run go before the one before it."""
        move_up(name, self.live.workspace)
        self.live.look(force=True)
        return ""

    def cancel(self, name: str) -> str:
        """Take a run out of the line."""
        cancel(name, self.live.workspace)
        self.live.look(force=True)
        return said(f"{name} waits no more.")
