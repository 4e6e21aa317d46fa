"""The processed set in the Data tab: its report, how long its examples are, and all of them."""

from itertools import islice
from typing import Any

import gradio as gr

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.data.process import REPORT_NAME
from sftplay_ui.engine.data.report import read_report
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.text.token_source import token_source
from sftplay_ui.engine.text.tokens import tokenise_stream
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.data_view import histogram, report_board
from sftplay_ui.tabs.example_rows import columns, open_rows
from sftplay_ui.tabs.markup import board, note
from sftplay_ui.tabs.pager import Pager, place_of
from sftplay_ui.tabs.parts import card_title
from sftplay_ui.tabs.wiring import wire

PAGE_ROWS = 25
CELL_CHARS = 1_000
COUNTED = 2_000
HEADS = ["Row", "System", "Question", "Answer"]
SPLITS = (("Train", "train"), ("Validation", "val"), ("Test", "test"))


class DataResult:
    """What lies in data/processed, as a page shows it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def build(self, message: gr.HTML) -> None:
        """Lay out report, histogram and table; nothing is seen before something was processed."""
        with gr.Column(visible=False, elem_id="data-result") as self.all:
            with gr.Column(elem_classes=["card"]):
                card_title("Processed examples")
                self.report = board(elem_id="data-report")
                with gr.Row(elem_classes=["toolbar"]):
                    style = gr.Button("Give them a style", size="sm", elem_id="data-to-style")
                    train = gr.Button("Train on them", size="sm", elem_id="data-to-train")
            with gr.Column(elem_classes=["card"]):
                card_title("How long they are")
                self.lengths = board(elem_id="data-lengths")
            with gr.Column(elem_classes=["card"]):
                card_title("Look through them")
                self.build_table()
        style.click(None, js="() => SFTPlay.go('style')", api_visibility="private")
        train.click(None, js="() => SFTPlay.go('train')", api_visibility="private")
        asked = [self.split, self.search, self.pager.page]
        shown = [self.table, self.pager.page, self.pager.place]
        for event in (self.split.input, self.search.submit, self.pager.page.submit):
            wire(event, self.leaf, asked, shown, note=message)
        wire(self.pager.back.click, self.back, asked, shown, note=message)
        wire(self.pager.forward.click, self.forward, asked, shown, note=message)

    def build_table(self) -> None:
        """Lay out split, search, table and page controls."""
        with gr.Row(elem_classes=["toolbar"]):
            self.split = gr.Dropdown(
                list(SPLITS), value="train", label="Split", scale=1, elem_id="data-split"
            )
            self.search = gr.Textbox(
                label="Search",
                placeholder="Type and press Enter",
                max_lines=1,
                scale=3,
                elem_id="data-search",
            )
        self.table = gr.Dataframe(
            headers=HEADS,
            datatype=["str"] * len(HEADS),
            column_widths=["70px", "20%", "35%", "40%"],
            interactive=False,
            wrap=True,
            max_height=520,
            show_label=False,
            buttons=[],
            elem_id="data-table",
        )
        self.pager = Pager.lay_out("data", "rows")

    @property
    def outputs(self) -> list[Any]:
        """List what `refresh` fills."""
        pager = self.pager
        return [self.all, self.report, self.lengths, self.table, pager.page, pager.place]

    def refresh(self, model: str, max_seq_len: float | None) -> tuple[Any, ...]:
        """Show what lies in data/processed now."""
        report = read_report(self.workspace.data / "processed" / REPORT_NAME)
        if report is None or not (self.workspace.data / "processed" / "train.jsonl").is_file():
            return gr.Column(visible=False), "", "", gr.skip(), 1, ""
        table, page, place = self.leaf("train", "", 1)
        lengths = self.measured(model, int(max_seq_len or RunConfig().model.max_seq_len))
        return gr.Column(visible=True), report_board(report), lengths, table, page, place

    def measured(self, model: str, limit: int) -> str:
        """Draw the token lengths of the training examples, or say why they cannot be counted."""
        current = current_data(self.workspace)
        path = current.template_path if current else None
        try:
            source = token_source(
                model, self.workspace, self.workspace.resolve(path) if path else None
            )
        except (ModelError, TemplateError) as error:
            return note(f"{error.what} {error.fix}")
        train = read_examples(self.workspace.data / "processed" / "train.jsonl")
        found = tokenise_stream(islice(train, COUNTED), source.template, source.tokeniser, 2**20)
        drawn = histogram([len(example.input_ids) for example in found], limit)
        return drawn + f"<p class='muted'>Counted with the tokenizer of {source.model}.</p>"

    def leaf(self, split: str, query: str, page: float | None) -> tuple[list[list[str]], int, str]:
        """Show one page of a split, or of what a search finds in it."""
        rows = open_rows(self.workspace.data / "processed" / f"{split}.jsonl")
        found = rows.matching(query)
        place = place_of(page, len(found), PAGE_ROWS)
        numbers = found[max(0, place.first - 1) : place.last]
        cells = [
            [f"{number + 1:,}", *(text[:CELL_CHARS] for text in columns(row))]
            for number, row in zip(numbers, rows.rows(numbers), strict=True)
        ]
        return cells, place.page, place.sentence

    def back(self, split: str, query: str, page: float) -> tuple[list[list[str]], int, str]:
        """Leaf back."""
        return self.leaf(split, query, (page or 1) - 1)

    def forward(self, split: str, query: str, page: float) -> tuple[list[list[str]], int, str]:
        """Leaf forward."""
        return self.leaf(split, query, (page or 1) + 1)
