"""The processed set in the Data tab: its report, lengths of its examples, card and rows."""

from itertools import islice
from typing import Any

import gradio as gr

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.data.process import CARD_NAME, REPORT_NAME
from sftplay_ui.engine.data.report import read_report
from sftplay_ui.engine.data.table import open_table
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.text.token_source import token_source
from sftplay_ui.engine.text.tokens import tokenise_stream
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.data_rows import SPLITS, DataRows
from sftplay_ui.tabs.data_view import card_board, histogram, report_board
from sftplay_ui.tabs.data_work import set_version
from sftplay_ui.tabs.markup import board, note
from sftplay_ui.tabs.parts import card_title
from sftplay_ui.tabs.wiring import wire

COUNTED = 2_000


class DataResult:
    """What was processed, as a page shows it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.rows = DataRows(workspace)

    # ---- layout ----

    def build(self) -> None:
        """Lay out report, lengths, card and table; nothing is seen before something is there."""
        with gr.Column(visible=False, elem_id="data-result") as self.all:
            with gr.Column(elem_classes=["card"]):
                card_title("Processed examples")
                self.report = gr.HTML(
                    js_on_load="SFTPlay.report(element, trigger)",
                    elem_id="data-report",
                    elem_classes=["flush"],
                    apply_default_css=False,
                    padding=False,
                )
                with gr.Row(elem_classes=["toolbar"]) as self.next:
                    style = gr.Button("Give them a style", size="sm", elem_id="data-to-style")
                    train = gr.Button("Train on them", size="sm", elem_id="data-to-train")
                self.note = board(elem_id="data-result-note", live=True)
            with gr.Column(elem_classes=["card"]):
                card_title("How long they are")
                self.lengths = board(elem_id="data-lengths")
            with gr.Column(elem_classes=["card"], elem_id="data-rows"):
                card_title("Look through them")
                self.rows.build()
            with gr.Accordion("Data card", open=False, elem_classes=["card"]):
                self.card = board(elem_id="data-card")
        style.click(None, js="() => SFTPlay.go('style')", api_visibility="private")
        train.click(None, js="() => SFTPlay.go('train')", api_visibility="private")
        self.rows.wire_events()
        seen = [self.rows.split, *self.rows.shown]
        shown = wire(self.report.select, self.show_kind, [], seen, note=self.note)
        shown.then(None, js="() => SFTPlay.toRows()", api_visibility="private")

    @property
    def outputs(self) -> list[Any]:
        """List what `refresh` fills."""
        boards = [self.report, self.next, self.lengths, self.card]
        return [self.all, *boards, self.rows.split, *self.rows.shown]

    # ---- handlers ----

    def refresh(self, model: str, max_seq_len: float | None) -> tuple[Any, ...]:
        """Show what lies on the disk now."""
        folder = self.rows.folder
        # asked first: a set that comes while this one is read is noticed as another one
        version = set_version(folder)
        report = read_report(folder / REPORT_NAME)
        if report is None or not (folder / "train.jsonl").is_file():
            return gr.Column(visible=False), *(gr.skip() for _ in self.outputs[1:])
        demo = self.rows.is_demo
        paths = {split: self.rows.path(split) for _, split in SPLITS}
        sizes = {split: len(open_table(path)) for split, path in paths.items() if path.is_file()}
        return (
            gr.Column(visible=True),
            report_board(report, sizes, demo=demo) + f"<i data-set='{version}' hidden></i>",
            gr.Row(visible=not demo),
            self.measured(model, int(max_seq_len or RunConfig().model.max_seq_len)),
            card_board(report, self.workspace.shorten(folder / CARD_NAME)),
            "train",
            *self.rows.leaf("train", "", "", 1),
        )

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
        train = read_examples(self.rows.path("train"))
        found = tokenise_stream(islice(train, COUNTED), source.template, source.tokeniser, 2**20)
        return histogram([len(example.input_ids) for example in found], limit, source.model)

    def show_kind(self, asked: gr.EventData) -> tuple[Any, ...]:
        """Show the rows of one finding, in the first split that has some."""
        kind = str(asked._data["kind"])
        paths = {split: self.rows.path(split) for _, split in SPLITS}
        having = [s for s, p in paths.items() if p.is_file() and kind in open_table(p).kinds()]
        split = having[0] if having else "train"
        return split, *self.rows.leaf(split, "", kind, 1)
