"""The backend unsloth in Train: what it would take to install it, how that goes, what came of it.

The card shows while unsloth is chosen or being installed; `assets/train.js` fills what moves.
"""

import html
from typing import Any

import gradio as gr

from sftplay_ui.backend_setup import BackendSetup
from sftplay_ui.engine.backends import SETUP
from sftplay_ui.engine.errors import BackendError, SFTPlayError
from sftplay_ui.engine.workspace import PROJECT_ROOT
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.parts import card_title, live_part, note_box, problem

PROGRESS = """
<section class="setup" aria-label="Installing unsloth" hidden>
  <div class="job-line">
    <span class="pill" data-part="state"></span>
    <strong data-part="sentence"></strong>
    <span class="muted" data-part="time"></span>
  </div>
  <div class="bar unknown" role="progressbar" aria-label="Installing unsloth"><i></i></div>
  <div class="problem" role="alert" hidden>
    <strong data-part="what"></strong><span data-part="fix"></span>
  </div>
  <details><summary>What was done so far</summary>
    <pre class="log" tabindex="0" aria-label="Steps of the installation" data-part="lines"></pre>
  </details>
</section>
"""
HOW = f"Run {SETUP} on its computer."
ELSEWHERE = f"Others may use this window, so it installs nothing: {HOW}"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class UnslothCard:
    """A card that says what choosing unsloth means here, with a button to install it."""

    def __init__(self, live: LiveRuns) -> None:
        self.live = live

    def build(self) -> None:
        """Lay out the card."""
        with gr.Column(elem_classes=["card"], elem_id="train-unsloth-card"):
            card_title("Backend unsloth")
            self.note = note_box("train-unsloth-note")
            self.panel = live_part(
                PROGRESS, "SFTPlay.setup(element, () => trigger('done'))", "train-unsloth"
            )
            with gr.Row(elem_classes=["toolbar"], elem_id="train-unsloth-buttons"):
                install = gr.Button("Install unsloth", size="sm", elem_id="train-unsloth-install")
                stop = gr.Button(
                    "Stop installing", variant="stop", size="sm", elem_id="train-unsloth-stop"
                )
        for button, handler in ((install, self.install), (stop, self.stop)):
            button.click(guarded(handler), outputs=[self.note], **QUIET).then(
                None, js="() => SFTPlay.soon()"
            )

    def follow(self, backend: Any) -> None:
        """Let the card say what is true of the backend that this control has chosen."""
        self.backend = backend
        for event in (backend.change, self.panel.done):
            self.tell_after(event)

    def tell_after(self, event: Any) -> None:
        """Tell what is true once an event has happened, `button.click(...).then` for example."""
        event(guarded(self.tell), inputs=[self.backend], outputs=[self.note], **QUIET).then(
            None, js="() => SFTPlay.soon()"
        )

    def tell(self, backend: str) -> str:
        """Say what it means to choose this backend here; nothing where there is nothing to say."""
        if backend != "unsloth":
            return ""
        setup = self.live.setup
        if setup is not None:
            return situation(setup.situation(), can_install=setup.can_install())
        setup = BackendSetup(PROJECT_ROOT)
        hint = "" if setup.is_installed() else f" {ELSEWHERE}"
        return situation(setup.situation() + hint, can_install=False)

    def install(self) -> str:
        """Begin to install; what is in the way is said beside the button."""
        try:
            if self.live.setup is None:
                raise BackendError("Nothing is installed from a window that others may use.", HOW)
            self.live.setup.start()
        except SFTPlayError as error:
            return problem(error)
        return self.tell("unsloth")

    def stop(self) -> str:
        """End the installation at once."""
        if self.live.setup is not None:
            self.live.setup.stop()
        return self.tell("unsloth")


def situation(text: str, *, can_install: bool) -> str:
    """Word it for the note box; the page's script reads whether there is a button to show."""
    offer = " data-offer" if can_install else ""
    return f'<p class="situation" role="status"{offer}>{html.escape(text)}</p>'
