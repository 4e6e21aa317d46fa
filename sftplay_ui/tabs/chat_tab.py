"""Chat: talk to the tuned model, the base model, or both with the same question."""

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from sftplay_ui.engine.chat_session import Side
from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.config_file import SETTINGS, make_config
from sftplay_ui.engine.errors import DataError, SFTPlayError
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.form import as_value, control_of
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.chat_room import ChatRoom
from sftplay_ui.tabs.chat_view import NOTHING, conversation, sent_prompts
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, note, problem
from sftplay_ui.tabs.parts import card_title, on_load, page_head
from sftplay_ui.tabs.tuned import follow_up, tuned_runs
from sftplay_ui.tabs.wiring import wire

SIDES: dict[str, tuple[Side, ...]] = {
    "both": ("tuned", "base"),
    "tuned": ("tuned",),
    "base": ("base",),
}
SIDE_NAMES = (("Both", "both"), ("Tuned", "tuned"), ("Base", "base"))
BASE = "base"
SAMPLING = (
    "generate.max_new_tokens",
    "generate.temperature",
    "generate.top_p",
    "generate.top_k",
    "generate.repetition_penalty",
    "generate.seed",
)
FRAME_SECONDS = 0.08
LOADING = "Loading the model. The first question takes a while, the next ones do not."


class ChatTab:
    """Chat: one question, the tuned and the base model's answer side by side."""

    name = "chat"
    title = "Chat"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.room = ChatRoom(workspace, self.configure, live.standby)
        live.make_room.append(self.room.give_way)

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out conversation, input and settings."""
        page_head("Chat", "Ask the tuned model and the base model the same thing.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.build_conversation()
            with gr.Column(scale=1, min_width=290, elem_classes=["form-first"]):
                self.build_settings()
        self.wire_events(page)

    def build_conversation(self) -> None:
        """Lay out what was said, and where to say more."""
        with gr.Column(elem_classes=["card"]):
            self.said = gr.HTML(
                NOTHING,
                elem_id="chat-said",
                elem_classes=["flush", "chat-scroll"],
                apply_default_css=False,
                padding=False,
                max_height=520,
                autoscroll=True,
            )
            self.note = board(elem_id="chat-note", live=True)
            self.text = gr.Textbox(
                label="Your message",
                placeholder="Type a question and press Enter",
                lines=1,
                max_lines=8,
                elem_id="chat-text",
            )
            with gr.Row(elem_classes=["toolbar"]):
                self.send_button = gr.Button("Send", variant="primary", elem_id="chat-send")
                self.stop_button = gr.Button("Stop", variant="stop", elem_id="chat-stop")
                self.retry_button = gr.Button("Retry", elem_id="chat-retry")
                self.edit_button = gr.Button("Edit", elem_id="chat-edit")
                self.clear_button = gr.Button("Clear", elem_id="chat-clear")
            with gr.Accordion("The very prompt that was sent", open=False):
                self.prompts = board(sent_prompts([]), elem_id="chat-prompts")
            with gr.Accordion("Correct the answer and learn from it", open=False):
                self.correction = gr.Textbox(
                    label="What it should have said", lines=3, elem_id="chat-correction"
                )
                self.keep_button = gr.Button("Add to data set", size="sm", elem_id="chat-keep")
                self.kept = board(elem_id="chat-kept", live=True)

    def build_settings(self) -> None:
        """Lay out who answers, and how."""
        with gr.Column(elem_classes=["card"]):
            card_title("Model")
            self.model = gr.Dropdown(
                [("Base model only", BASE)], value=BASE, label="Tuned run", elem_id="chat-model"
            )
            self.side = gr.Radio(
                list(SIDE_NAMES), value="both", label="Who answers", elem_id="chat-side"
            )
            self.system = gr.Textbox(
                label="System prompt",
                info="Empty: the one the model was trained with.",
                lines=2,
                elem_id="chat-system",
            )
            self.close_button = gr.Button("Put the model away", size="sm", elem_id="chat-close")
            self.state = board(elem_id="chat-state", live=True)
        with gr.Accordion("How answers are written", open=False, elem_classes=["card"]):
            self.sampling = [control_of(SETTINGS[path], "chat") for path in SAMPLING]

    # ---- events ----

    def wire_events(self, page: gr.Tab) -> None:
        """Connect the buttons; answers stream, everything else is instant."""
        asked = [self.text, self.model, self.side, self.system, *self.sampling]
        streamed = [self.said, self.text, self.prompts, self.note]
        stream: dict[str, Any] = {
            "inputs": asked,
            "outputs": streamed,
            "concurrency_id": "chat",
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        self.send_button.click(guarded(self.send), **stream)
        self.text.submit(guarded(self.send), **stream)
        self.retry_button.click(guarded(self.retry), **stream)
        shown = [self.said, self.prompts]
        wire(self.stop_button.click, self.stop, [], [], note=self.note)
        wire(self.edit_button.click, self.edit, [], [self.text, *shown], note=self.note)
        wire(self.clear_button.click, self.clear, [], shown, note=self.note)
        wire(self.close_button.click, self.put_away, [], [self.state], note=self.note)
        kept = [self.correction, self.system]
        wire(self.keep_button.click, self.keep, kept, [self.kept], note=self.note)
        opened = [self.model, *shown, self.state]
        on_load(guarded(self.refresh), opened)
        page.select(guarded(self.refresh), outputs=opened, queue=False, api_visibility="private")

    # ---- handlers ----

    def refresh(self) -> tuple[Any, ...]:
        """Show the models there are, and the conversation as it stands."""
        runs = tuned_runs(self.workspace)
        current = self.room.model if self.room.model in (*runs, BASE) else ""
        model = gr.Dropdown(
            choices=[*runs, ("Base model only", BASE)], value=current or (runs or [BASE])[0]
        )
        return model, *self.shown(), self.state_note()

    def shown(self) -> tuple[str, str]:
        """Show the conversation and the last prompts."""
        return conversation(self.room.exchanges), sent_prompts(self.room.exchanges)

    def state_note(self) -> str:
        """Say whether a model is loaded, and why not."""
        if self.room.is_open:
            return note(f"{self.room.model} is loaded and holds the device.")
        return note(self.room.note) if self.room.note else ""

    def configure(self, model: str) -> RunConfig:
        """Give the configuration of a session with a run, or with the base model alone."""
        config = (
            RunConfig(job="chat") if model == BASE else follow_up(model, "chat", self.workspace)
        )
        return config.model_copy(update={"chat": config.chat.model_copy(update={"run": model})})

    def send(self, text: str, model: str, side: str, system: str, *sampling: Any) -> Iterator[Any]:
        """Ask, and show the answers while they are written; a failure leaves the question typed."""
        question = (text or "").strip()
        if not question:
            error = DataError("There is no question.", "Type one first.")
            yield gr.skip(), gr.skip(), gr.skip(), problem(error.what, error.fix)
            return
        try:
            generate = sampled(sampling)
            yield from self.answers(question, model, side, system, generate)
        except SFTPlayError as error:
            said, prompts = self.shown()
            yield said, question, prompts, problem(error.what, error.fix)

    def answers(
        self, question: str, model: str, side: str, system: str, generate: GenerateConfig
    ) -> Iterator[Any]:
        """Load the model if need be, then show what it writes, some frames a second."""
        session = self.room.open(model)
        if not session.ready:
            yield gr.skip(), gr.skip(), gr.skip(), note(LOADING)
            session.wait_ready()
        sides: tuple[Side, ...] = ("base",) if model == BASE else SIDES[side]
        shown = 0.0
        for _ in self.room.ask(question, sides, (system or "").strip(), generate):
            if time.monotonic() - shown < FRAME_SECONDS:
                continue
            shown = time.monotonic()
            yield conversation(self.room.exchanges, writing=True), "", gr.skip(), ""
        said, prompts = self.shown()
        yield said, "", prompts, ""

    def retry(self, text: str, *values: Any) -> Iterator[Any]:
        """Ask the last question again; what is typed meanwhile waits."""
        try:
            question = self.room.take_back()
        except SFTPlayError as error:
            yield gr.skip(), gr.skip(), gr.skip(), problem(error.what, error.fix)
            return
        yield from self.send(question, *values)

    def stop(self) -> None:
        """Stop the answer; what was written stays."""
        self.room.stop()

    def edit(self) -> tuple[str, str, str]:
        """Take the last question back into the input."""
        question = self.room.take_back()
        return (question, *self.shown())

    def clear(self) -> tuple[str, str]:
        """Begin a new conversation with the same model."""
        self.room.stop()
        self.room.exchanges = []
        return self.shown()

    def put_away(self) -> str:
        """Free the device."""
        self.room.stop()
        self.room.close()
        return note("The device is free. The model is loaded again with the next question.")

    def keep(self, answer: str, system: str) -> str:
        """Keep a corrected answer as a row of its own."""
        path = self.room.keep_correction(answer or "", (system or "").strip())
        return note(f"Added to {self.workspace.shorten(path)}: choose it in Data.", "good")


def sampled(values: tuple[Any, ...]) -> GenerateConfig:
    """Read and check the sampling settings."""
    read = {
        path: as_value(SETTINGS[path], value) for path, value in zip(SAMPLING, values, strict=True)
    }
    return make_config(read).generate
