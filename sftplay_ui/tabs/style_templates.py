"""The chat template in the Style tab: choose one, edit it in place, keep it as an own file."""

import re
from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.project import CurrentData, current_data
from sftplay_ui.engine.text.rendered_files import render_files
from sftplay_ui.engine.text.template_check import check_template
from sftplay_ui.engine.text.token_source import TokenSource, token_source
from sftplay_ui.engine.text.tokens import Tokeniser
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.markup import board, note
from sftplay_ui.tabs.parts import card_title
from sftplay_ui.tabs.style_view import messages_list
from sftplay_ui.tabs.wiring import wire

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
OWN = "The model's own"


class StyleTemplates:
    """Controls around `chat_templates/*.jinja`; `chosen` holds a path from the root, or nothing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def build(self) -> None:
        """Lay out choice, editor and rendering."""
        with gr.Column(elem_classes=["card"]):
            card_title("Chat template")
            self.chosen = gr.Dropdown(
                self.choices(), value="", label="Render with", elem_id="style-template"
            )
            with gr.Accordion("Edit", open=False, elem_id="style-edit"):
                self.editor = gr.Textbox(
                    label="Jinja source",
                    info="It runs in a sandbox: it sees messages, and nothing of this machine.",
                    lines=10,
                    max_lines=24,
                    elem_id="style-editor",
                    elem_classes=["mono"],
                )
                self.name = gr.Textbox(
                    label="Keep it as", placeholder="mine", max_lines=1, elem_id="style-name"
                )
                self.save_button = gr.Button("Check and keep", size="sm", elem_id="style-save")
                self.checked = board(elem_id="style-checked", live=True)
            with gr.Accordion("Render to text", open=False):
                self.render_button = gr.Button("Render", size="sm", elem_id="style-render")
                self.rendered = board(
                    "<p class='muted'>Writes input and target as plain text to data/rendered, for "
                    "a look or for other programs. Training does not need it.</p>",
                    elem_id="style-rendered",
                )

    def wire_events(self, model: gr.Dropdown, message: gr.HTML) -> None:
        """Connect the editor with the choice."""
        both = [self.chosen, model]
        wire(self.chosen.change, self.source, both, [self.editor], note=message)
        kept = [self.checked, self.chosen]
        asked = [self.editor, self.name, model]
        wire(self.save_button.click, self.save, asked, kept, note=message)
        wire(self.render_button.click, self.render, both, [self.rendered], note=message, slow=True)

    def choices(self) -> list[tuple[str, str]]:
        """List the model's own template and the files."""
        files = sorted(self.workspace.templates.glob("*.jinja"))
        return [(OWN, ""), *((file.name, self.workspace.shorten(file)) for file in files)]

    def listed(self, chosen: str) -> Any:
        """Offer all templates, with one chosen if it is there."""
        choices = self.choices()
        known = chosen in [path for _, path in choices]
        return gr.Dropdown(choices=choices, value=chosen if known else "")

    def template(self, chosen: str, model: str) -> TokenSource:
        """Load the chosen template with the model it is for."""
        path = self.workspace.resolve(chosen) if chosen else None
        return token_source(model or "", self.workspace, path)

    def source(self, chosen: str, model: str) -> str:
        """Give the text of a template, for the editor."""
        if chosen:
            return self.workspace.resolve(chosen).read_text(encoding="utf-8")
        try:
            return self.template("", model).template.source
        except (ModelError, TemplateError):
            return ""

    def save(self, text: str, name: str, model: str) -> tuple[str, Any]:
        """Check an edited template, and keep it under a name of its own if it is any good."""
        path = self.free_path(name or "")
        verdict = check_template(text or "", path.name, self.tokeniser(model))
        if verdict.verdict == "reject":
            return messages_list(verdict.messages), gr.skip()
        replace_text(path, text)
        told = note(f"Kept as {path.name}, and chosen.", "good")
        return told + messages_list(verdict.messages), self.listed(self.workspace.shorten(path))

    def tokeniser(self, model: str) -> Tokeniser | None:
        """Load the model's tokenizer where it is here; the check says more with it."""
        try:
            return self.template("", model).tokeniser
        except (ModelError, TemplateError):
            return None

    def free_path(self, name: str) -> Path:
        """Make a path of a name; the bundled templates stay as they are."""
        stem = name.strip().removesuffix(".jinja")
        if not NAME.fullmatch(stem):
            raise TemplateError(
                f"{name!r} cannot be the name of a template.",
                "Use letters, digits, dots, dashes and underscores, such as mine.",
            )
        path = self.workspace.templates / f"{stem}.jinja"
        if path.exists():
            raise TemplateError(
                f"There is a template called {path.name} already.", "Choose another name."
            )
        return path

    def render(self, chosen: str, model: str) -> str:
        """Write the current examples as text."""
        current = current_data(self.workspace) or CurrentData()
        config = current.apply(RunConfig())
        report = render_files(config, self.workspace, self.template(chosen, model).template)
        return note(report.to_text(), "good")
