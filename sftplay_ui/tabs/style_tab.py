"""Style: give all examples a rule to follow, see what changes and which tokens are learned."""

from pathlib import Path
from typing import Any, cast

import gradio as gr

from sftplay_ui.engine.config import RunConfig, Split, StyleConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.data.table import open_table
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.project import CurrentData, current_data, set_current_data
from sftplay_ui.engine.style.apply import adherence_of, apply_style, style_files, style_text
from sftplay_ui.engine.style.presets import STYLE_PRESETS
from sftplay_ui.engine.text.token_source import model_names
from sftplay_ui.engine.text.tokens import token_view as view_tokens
from sftplay_ui.engine.text.tokens import tokenise
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, empty, escape, note, problem
from sftplay_ui.tabs.pager import Pager, place_of
from sftplay_ui.tabs.parts import card_title, on_load, page_head
from sftplay_ui.tabs.style_templates import StyleTemplates
from sftplay_ui.tabs.style_view import adherence_view, before_after, token_figures, token_view
from sftplay_ui.tabs.wiring import wire

NOTHING = empty(
    "No examples yet", "Process a file in the Data tab; then each example can be looked at here."
)
OWN = "own"
NONE = ""
HOWS = (
    ("Where there is none", "inject"),
    ("Add to what is there", "append"),
    ("Replace what is there", "override"),
)
SPLITS = (("Train", "train"), ("Validation", "val"), ("Test", "test"))
# Enough to know a share to a percent, and read in a moment.
JUDGED = 5_000
STYLED = {split: f"data/processed_with_style/{split}.jsonl" for split in ("train", "val", "test")}


class StyleTab:
    """Style: a system prompt or rule for all examples, and the learned-token view."""

    name = "style"
    title = "Style"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.templates = StyleTemplates(workspace)

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out rule, template and previews."""
        page_head("Style", "Teach one way of answering, and see exactly what the model will learn.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.build_preview()
                self.templates.build_editor()
                self.build_tokens()
            with gr.Column(scale=1, min_width=310, elem_classes=["form-first"]):
                self.build_rule()
                self.templates.build_choice()
        self.wire_events(page)

    def build_rule(self) -> None:
        """Lay out the rule and the button that writes it into the examples."""
        presets = [(f"{name}: {preset.help}", name) for name, preset in STYLE_PRESETS.items()]
        with gr.Column(elem_classes=["card"]):
            card_title("Rule")
            self.preset = gr.Dropdown(
                [("No rule", NONE), ("My own words", OWN), *presets],
                value=NONE,
                label="Style rule",
                elem_id="style-preset",
            )
            self.rule = gr.Textbox(
                label="In my own words",
                placeholder="Answer in German.",
                lines=2,
                visible=False,
                elem_id="style-rule",
            )
            self.system = gr.Textbox(
                label="System prompt",
                placeholder="You are a helpful tutor.",
                lines=3,
                elem_id="style-system",
            )
            self.how = gr.Radio(list(HOWS), value="inject", label="Put it in", elem_id="style-how")
            self.splits = gr.CheckboxGroup(
                list(SPLITS), value=[*STYLED], label="Splits", elem_id="style-splits"
            )
            self.apply_button = gr.Button("Apply", variant="primary", elem_id="style-apply")
            self.note = board(elem_id="style-note", live=True)
            self.done = board(elem_id="style-done", live=True)
            train = gr.Button("Train on them", size="sm", visible=False, elem_id="style-to-train")
        train.click(None, js="() => SFTPlay.go('train')", api_visibility="private")
        self.to_train = train

    def build_preview(self) -> None:
        """Lay out one example before and after, and how all answers keep to the rule."""
        with gr.Column(elem_classes=["card"]):
            card_title("Before and after")
            self.adherence = board(elem_id="style-adherence", live=True)
            self.split = gr.Radio(
                list(SPLITS),
                value="train",
                show_label=False,
                container=False,
                label="Split to look at",
                elem_id="style-split",
            )
            self.pager = Pager.lay_out("style", "example")
            self.change = board(NOTHING, elem_id="style-change")

    def build_tokens(self) -> None:
        """Lay out the same example token by token."""
        with gr.Column(elem_classes=["card"]):
            card_title("What the model learns")
            with gr.Row(elem_classes=["toolbar"]):
                self.model = gr.Dropdown(
                    ["starter"],
                    value="starter",
                    allow_custom_value=True,
                    label="Base model",
                    elem_id="style-model",
                )
                self.max_seq_len = gr.Number(
                    RunConfig().model.max_seq_len,
                    label="Longest example in tokens",
                    precision=0,
                    minimum=16,
                    elem_id="style-max-seq-len",
                )
            self.tokens = board(elem_id="style-tokens")

    # ---- events ----

    @property
    def style_inputs(self) -> list[Any]:
        """List the controls that make the style."""
        return [self.preset, self.rule, self.system, self.how, self.splits]

    def wire_events(self, page: gr.Tab) -> None:
        """Connect every control with the preview, and the buttons with what they write."""
        number = self.pager.page
        template = self.templates.chosen
        drawn = [self.model, self.max_seq_len, template, self.templates.editor]
        asked = [number, self.split, *self.style_inputs, *drawn]
        shown = [self.change, self.tokens, number, self.pager.place]
        # not `input`: it passes over pasted words and the last letters of fast typing
        seen = (self.rule, self.system, self.splits, *drawn)
        for event in (*(control.change for control in seen), self.how.input, number.submit):
            wire(event, self.preview, asked, shown, note=self.note)
        wire(self.split.input, self.first, asked, shown, note=self.note)
        judged = [self.split, *self.style_inputs]
        for control in (self.rule, self.system, self.preset, self.split, self.splits):
            wire(control.change, self.judge, judged, [self.adherence], note=self.note)
        picked = wire(self.preset.input, self.pick, [self.preset], [self.rule], note=self.note)
        wire(picked.then, self.preview, asked, shown, note=self.note)
        wire(self.pager.back.click, self.back, asked, shown, note=self.note)
        wire(self.pager.forward.click, self.forward, asked, shown, note=self.note)
        wire(
            self.apply_button.click,
            self.apply,
            [*self.style_inputs, template, self.model],
            [self.done, self.to_train],
            note=self.note,
            slow=True,
        )
        self.templates.wire_events(self.model, self.note)
        opened = on_load(guarded(self.opened), [self.model, template, *self.style_inputs])
        looking: dict[str, Any] = {
            "inputs": asked,
            "outputs": shown,
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        opened.then(guarded(self.preview), **looking)
        filling = {"inputs": [template, self.model], "outputs": self.templates.filled}
        opened.then(guarded(self.templates.source), **(looking | filling))
        page.select(guarded(self.preview), **looking)
        judging = looking | {"inputs": judged, "outputs": [self.adherence]}
        page.select(guarded(self.judge), **judging)

    # ---- handlers ----

    def opened(self) -> tuple[Any, ...]:
        """Fill a page that was just opened with what the project works with."""
        current = current_data(self.workspace) or CurrentData()
        model = current.model or "starter"
        rule = current.rule
        preset = rule if rule in STYLE_PRESETS else OWN if rule else NONE
        own = rule if preset == OWN else ""
        models = gr.Dropdown(choices=model_names(self.workspace, model), value=model)
        templates = self.templates.listed(current.template_path or "")
        if not current.system and not rule:
            # nothing to restore: what was typed while this page was loading stays
            return models, templates, *(gr.skip() for _ in self.style_inputs)
        words = gr.Textbox(value=own, visible=preset == OWN)
        splits = [split for split in STYLED if split in current.splits.split(",")]
        return models, templates, preset, words, current.system, current.how, splits

    def pick(self, preset: str) -> Any:
        """Show the field for own words only where they are wanted."""
        return gr.Textbox(visible=preset == OWN)

    def preview(self, number: float | None, split: str, *values: Any) -> tuple[str, str, int, str]:
        """Show one example of a split before and after, and what of it is learned."""
        *style, model, max_seq_len, template, draft = values
        path = self.workspace.data / "processed" / f"{split}.jsonl"
        rows = open_table(path) if path.is_file() else []
        if not len(rows):
            return NOTHING, "", 1, ""
        place = place_of(number, len(rows), 1)
        before = rows.row(place.page - 1).example
        chosen = style_of(*style)
        after = apply_style(before, chosen) if split in chosen.splits else before
        tokens = self.tokens_of(after, int(max_seq_len or 16), (template, model, draft or ""))
        return before_after(before, after), tokens, place.page, place.sentence

    def tokens_of(
        self, example: Example | RenderedExample, max_seq_len: int, look: tuple[str, str, str]
    ) -> str:
        """Colour an example by what is learned, with the code that trains."""
        try:
            source = self.templates.template(*look)
            found = tokenise(example, source.template, source.tokeniser, max_seq_len)
        except (ModelError, TemplateError) as error:
            # there is only this one example, so its number says nothing
            return problem(error.what.removeprefix("Example 1: "), error.fix)
        named = f"Template: {source.template.name} ({source.template.reason})."
        return (
            token_figures(found)
            + token_view(view_tokens(found, source.tokeniser))
            + f"<p class='muted'>{escape(named)}</p>"
        )

    def judge(self, split: str, *style: Any) -> str:
        """Tell how the answers that are there keep to the rule."""
        chosen = style_of(*style)
        path = self.workspace.data / "processed" / f"{split}.jsonl"
        if split not in chosen.splits or not path.is_file():
            return ""
        found = adherence_of(path, chosen, JUDGED)
        rows = min(len(open_table(path)), JUDGED)
        looked = f"Looked at the first {rows:,} examples of {split}."
        return adherence_view(found, style_text(chosen), looked)

    def first(self, _number: float | None, *values: Any) -> tuple[str, str, int, str]:
        """Show the first example of another split."""
        return self.preview(1, *values)

    def back(self, number: float | None, *values: Any) -> tuple[str, str, int, str]:
        """Show the example before."""
        return self.preview((number or 1) - 1, *values)

    def forward(self, number: float | None, *values: Any) -> tuple[str, str, int, str]:
        """Show the next example."""
        return self.preview((number or 1) + 1, *values)

    def apply(self, *values: Any) -> tuple[str, Any]:
        """Write the examples with the style, and let training take them from now on."""
        *form, template, model = values
        style = style_of(*form)
        before = current_data(self.workspace) or CurrentData()
        kept = {"template_path": template or None, "model": model or "", "source": before.source}
        if not style_text(style) and template:
            # only the template was chosen: the examples stay as they are
            set_current_data(self.workspace, CurrentData(**kept))
            text = f"Training will render the examples with {Path(template).name}."
            return note(text, "good"), gr.Button(visible=True)
        report = style_files(RunConfig(style=style), self.workspace)
        paths = {f"{split}_path": path for split, path in STYLED.items()}
        told = {"system": style.system, "rule": style.rule, "how": style.how}
        current = CurrentData(**paths, **kept, **told, splits=",".join(style.splits))
        set_current_data(self.workspace, current)
        return note(report.to_text(), "good"), gr.Button(visible=True)


def style_of(
    preset: str | None, rule: str | None, system: str | None, how: str, splits: list[str]
) -> StyleConfig:
    """Read the controls of the style."""
    named = (rule or "") if preset == OWN else (preset or "")
    return StyleConfig(
        system=(system or "").strip(),
        rule=named.strip(),
        how=cast(Any, how),
        splits=cast(list[Split], splits or []),
    )
