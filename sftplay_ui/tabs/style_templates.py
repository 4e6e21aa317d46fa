"""The chat template in the Style tab: choose one, edit it in place, keep it as an own file."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.project import CurrentData, current_data
from sftplay_ui.engine.text.rendered_files import render_files
from sftplay_ui.engine.text.template_check import check_template, require_learnable
from sftplay_ui.engine.text.templates import template_files
from sftplay_ui.engine.text.token_source import TokenSource, token_source
from sftplay_ui.engine.text.tokens import Tokeniser
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.markup import board, escape, note
from sftplay_ui.tabs.parts import card_title
from sftplay_ui.tabs.style_view import findings
from sftplay_ui.tabs.wiring import wire

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
OWN = "The model's own"
DRAFT = "draft.jinja"


class StyleTemplates:
    """Controls around `chat_templates/*.jinja`; `chosen` holds a path from the root, or nothing.

    What stands in the editor and differs from the chosen template is a draft: it is checked and
    shown at once, and used by training only when it is kept.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def build_choice(self) -> None:
        """Lay out the choice and the rendering to files."""
        with gr.Column(elem_classes=["card"]):
            card_title("Chat template")
            self.chosen = gr.Dropdown(
                self.choices(), value="", label="Render with", elem_id="style-template"
            )
            self.reason = board(elem_id="style-reason")
            with gr.Accordion("Render to text", open=False):
                gr.HTML(
                    "<p class='muted'>Writes input and target as plain text to data/rendered, for "
                    "a look or for other programs. Training does not need it.</p>",
                    elem_classes=["flush"],
                    padding=False,
                )
                self.render_button = gr.Button("Render", size="sm", elem_id="style-render")
                self.rendered = board(elem_id="style-rendered", live=True)

    def build_editor(self) -> None:
        """Lay out the editor, with the check beside it."""
        with gr.Accordion(
            "Edit the chat template", open=False, elem_id="style-edit", elem_classes=["card"]
        ):
            self.editor = gr.Code(
                language="jinja2",
                label="Jinja source",
                lines=12,
                max_lines=24,
                wrap_lines=True,
                buttons=[],
                elem_id="style-editor",
                interactive=True,
            )
            self.checked = board(elem_id="style-checked", live=True)
            with gr.Row(elem_classes=["toolbar"]):
                self.name = gr.Textbox(
                    placeholder="a name for it, such as mine",
                    label="Keep it as",
                    max_lines=1,
                    elem_id="style-name",
                )
                self.save_button = gr.Button(
                    "Keep", size="sm", variant="primary", min_width=90, elem_id="style-save"
                )
            gr.HTML(
                "<p class='muted'>It runs in a sandbox: it sees messages, add_generation_prompt, "
                "bos_token and eos_token, and nothing of this machine.</p>",
                elem_classes=["flush"],
                padding=False,
            )

    def wire_events(self, model: gr.Dropdown, message: gr.HTML) -> None:
        """Connect the editor with the choice."""
        both = [self.chosen, model]
        for event in (self.chosen.change, model.change):
            wire(event, self.source, both, self.filled, note=message)
        drafted = [self.editor, self.chosen, model]
        wire(self.editor.change, self.check, drafted, [self.checked], note=message)
        kept = [self.checked, self.chosen]
        asked = [self.editor, self.name, model]
        wire(self.save_button.click, self.save, asked, kept, note=message)
        wire(self.render_button.click, self.render, both, [self.rendered], note=message, slow=True)

    @property
    def filled(self) -> list[Any]:
        """List what follows from the choice: the editor, and why it is the one."""
        return [self.editor, self.reason]

    def choices(self) -> list[tuple[str, str]]:
        """List the model's own template and the files."""
        files = sorted(template_files(self.workspace.templates).items())
        return [(OWN, ""), *((name, self.workspace.shorten(path)) for name, path in files)]

    def listed(self, chosen: str) -> Any:
        """Offer all templates, with one chosen if it is there."""
        choices = self.choices()
        known = chosen in [path for _, path in choices]
        return gr.Dropdown(choices=choices, value=chosen if known else "")

    def template(self, chosen: str | None, model: str | None, draft: str = "") -> TokenSource:
        """Load the chosen template with the model it is for, or the draft in its place."""
        path = self.workspace.resolve(chosen) if chosen else None
        source = token_source(model or "", self.workspace, path)
        if not draft.strip() or same(draft, source.template.source):
            return source
        template = replace(
            source.template, source=draft, name=DRAFT, reason="being edited, not kept yet"
        )
        return replace(source, template=template)

    def source(self, chosen: str, model: str) -> tuple[str, str]:
        """Give the text of a template for the editor, and why it is the one."""
        try:
            template = self.template(chosen, model).template
        except (ModelError, TemplateError) as error:
            text = self.workspace.resolve(chosen).read_text("utf-8") if chosen else ""
            return text, note(f"{error.what} {error.fix}")
        why = "" if chosen else f"<p class='muted'>Chosen because {escape(template.reason)}.</p>"
        verdict = check_template(template.source, template.name, self.tokeniser(model))
        return template.source, why + findings(verdict, template.source, "")

    def check(self, text: str, chosen: str, model: str) -> str:
        """Judge what stands in the editor while it is being written."""
        if not (text or "").strip():
            return ""
        verdict = check_template(text, DRAFT, self.tokeniser(model))
        return findings(verdict, text, self.standing(text, chosen, model))

    def standing(self, text: str, chosen: str, model: str) -> str:
        """Say whether training would use what stands in the editor."""
        try:
            used = same(text, self.template(chosen, model).template.source)
        except (ModelError, TemplateError):
            used = True
        if used:
            return "This is the template that training uses."
        return "A draft: the view below shows it, training uses it once it is kept."

    def save(self, text: str, name: str, model: str) -> tuple[str, Any]:
        """Check an edited template, and keep it under a name of its own if it is any good."""
        path = self.free_path(name or "")
        verdict = check_template(text or "", path.name, self.tokeniser(model))
        if verdict.verdict == "reject":
            return findings(verdict, text or "", "Not kept."), gr.skip()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
        told = note(f"Kept as {path.name}, and chosen.", "good")
        shown = told + findings(verdict, text, "")
        return shown, self.listed(self.workspace.shorten(path))

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
        if path.name in template_files(self.workspace.templates):
            raise TemplateError(
                f"There is a template called {path.name} already.", "Choose another name."
            )
        return path

    def render(self, chosen: str, model: str) -> str:
        """Write the current examples as text."""
        current = current_data(self.workspace) or CurrentData()
        config = current.apply(RunConfig())
        template = self.template(chosen, model).template
        require_learnable(template)
        report = render_files(config, self.workspace, template)
        return note(report.to_text(), "good")


def same(one: str, other: str) -> bool:
    """Tell whether two sources are the same but for the blanks an editor adds or takes."""
    return one.strip().replace("\r\n", "\n") == other.strip().replace("\r\n", "\n")
