"""TensorBoard from the window: start it, follow the link, stop it."""

import html

import gradio as gr

from sftplay_ui.engine.tensorboard_server import TensorBoard
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.parts import note_box, said


class BoardButtons:
    """Two buttons and a note with the address."""

    def __init__(self, workspace: Workspace) -> None:
        self.server = TensorBoard(workspace)

    def build(self) -> None:
        """Lay out the buttons."""
        with gr.Row(elem_classes=["toolbar"]):
            start = gr.Button("Open TensorBoard", size="sm", elem_id="train-board")
            stop = gr.Button("Stop TensorBoard", size="sm", elem_id="train-board-stop")
        note = note_box("train-board-note")
        for button, handler in ((start, self.start), (stop, self.stop)):
            button.click(
                guarded(handler),
                outputs=[note],
                show_progress="minimal",
                api_visibility="private",
            )

    def start(self) -> str:
        """Start the server unless it runs, and give its address: it listens on this computer."""
        url = html.escape(self.server.start())
        return (
            '<div class="note" role="status">TensorBoard runs on the computer of this window: '
            f'<a href="{url}" target="_blank" rel="noopener">{url}</a></div>'
        )

    def stop(self) -> str:
        """Stop the server, if there is one."""
        return said("TensorBoard is stopped." if self.server.stop() else "TensorBoard was not on.")
