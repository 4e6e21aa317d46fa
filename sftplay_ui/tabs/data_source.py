"""The ways to bring data in the Data tab: drop, choose, paste, fetch; each ends in chosen files."""

import urllib.parse
from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.data.hub_data import fetch_data_set, is_hub_name, parse_hub_name
from sftplay_ui.engine.data.raw_files import DEFAULT_SAMPLE, keep_copy, keep_pasted
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.data_files import DATA_KINDS, raw_files, sample_folder
from sftplay_ui.tabs.data_view import EMPTY, TRY_IT
from sftplay_ui.tabs.markup import board
from sftplay_ui.tabs.wiring import wire

KINDS = sorted({*DATA_KINDS, ".gz", ".txt", ".arrow"})


class DataSource:
    """What data there is to choose from; `files` holds the chosen ones."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    # ---- layout ----

    def build(self) -> None:
        """Lay out the ways to bring data."""
        with gr.Column(elem_classes=["card"]):
            self.drop = gr.File(
                label="Data files",
                show_label=False,
                file_types=KINDS,
                file_count="multiple",
                height=104,
                elem_id="data-drop",
            )
            with gr.Row(elem_classes=["toolbar", "choose"]):
                self.files = gr.Dropdown(
                    raw_files(self.workspace),
                    value=[],
                    multiselect=True,
                    label="Files",
                    scale=3,
                    elem_id="data-file",
                )
                self.sample = gr.Button("Use the sample", scale=1, elem_id="data-sample")
            with gr.Accordion("Paste text", open=False):
                self.pasted = gr.Textbox(
                    label="Questions and answers",
                    info="A table (commas, semicolons, tabs), JSON, JSON lines, or Q: / A: pairs.",
                    lines=6,
                    max_lines=14,
                    elem_id="data-pasted",
                )
                self.paste = gr.Button("Use this text", size="sm", elem_id="data-paste")
            with gr.Accordion("From the Hugging Face Hub", open=False):
                self.build_hub()
            self.note = board(elem_id="data-note", live=True)
        self.empty = board(EMPTY, elem_id="data-empty")
        with gr.Row(elem_classes=["card", "first-run"]) as self.first_run:
            gr.HTML(TRY_IT, elem_classes=["flush"], apply_default_css=False, padding=False)
            try_it = gr.Button(
                "Try it now", variant="primary", scale=0, min_width=130, elem_id="data-try-it"
            )
        try_it.click(None, js="() => SFTPlay.startTryIt()", api_visibility="private")

    def build_hub(self) -> None:
        """Lay out the name of a data set, and which part of it is wanted."""
        self.hub = gr.Textbox(
            label="Data set",
            info="Its files are fetched, never its code.",
            placeholder="owner/name",
            max_lines=1,
            elem_id="data-hub",
        )
        with gr.Row(elem_classes=["roles"]):
            self.config = gr.Textbox(
                label="Configuration", placeholder="its default", elem_id="data-hub-config"
            )
            self.split = gr.Textbox(label="Split", placeholder="train", elem_id="data-hub-split")
            self.rows = gr.Number(
                None,
                label="Rows at most",
                placeholder="all",
                precision=0,
                minimum=1,
                elem_id="data-hub-rows",
            )
        self.fetch = gr.Button("Fetch", size="sm", elem_id="data-fetch")

    def wire_events(self) -> None:
        """Connect the ways to bring data."""
        files, said = [self.files], self.note
        wire(self.drop.upload, self.take, [self.drop], [self.files, self.drop], note=said)
        wire(self.sample.click, self.use_sample, [], files, note=said)
        wire(self.paste.click, self.use_text, [self.pasted], files, note=said)
        asked = [self.hub, self.config, self.split, self.rows]
        wire(self.fetch.click, self.use_hub, asked, files, note=said, slow=True)

    # ---- handlers ----

    def listed(self, files: list[str]) -> Any:
        """Offer all files, with some chosen."""
        return gr.Dropdown(choices=raw_files(self.workspace), value=files, multiselect=True)

    def take(self, uploaded: list[str] | None) -> tuple[Any, Any]:
        """Keep copies of what was dropped, and choose all of them."""
        if not uploaded:
            return gr.skip(), gr.skip()
        kept = [keep_copy(Path(path), self.workspace) for path in uploaded]
        return self.listed(self.shortened(kept)), None

    def use_sample(self) -> Any:
        """Choose the bundled sample."""
        return self.listed(self.shortened([sample_folder(self.workspace) / DEFAULT_SAMPLE]))

    def use_text(self, text: str) -> Any:
        """Keep pasted text as a file, and choose it."""
        return self.listed(self.shortened([keep_pasted(text or "", self.workspace)]))

    def use_hub(self, name: str, config: str, split: str, rows: float | None) -> Any:
        """Fetch a data set of the Hub, keep its files, and choose them."""
        text = (name or "").strip()
        if not is_hub_name(text):
            raise DataError(f"{text!r} names no data set.", "Write it as owner/name.")
        asked = {"config": (config or "").strip(), "split": (split or "").strip()}
        asked["rows"] = str(int(rows)) if rows else ""
        options = urllib.parse.urlencode({key: value for key, value in asked.items() if value})
        joined = f"{text}{'&' if '?' in text else '?'}{options}" if options else text
        paths = fetch_data_set(parse_hub_name(joined), self.workspace)
        return self.listed(self.shortened([keep_copy(path, self.workspace) for path in paths]))

    def shortened(self, paths: list[Path]) -> list[str]:
        """Name files the way the list does."""
        return list(dict.fromkeys(self.workspace.shorten(path) for path in paths))
