"""What the Data tab asks before processing: split, seed, licence, model; and how far it is."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from sftplay_ui.engine.config import DataConfig, RunConfig, SplitConfig
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.data_work import DataWork
from sftplay_ui.tabs.markup import board
from sftplay_ui.tabs.parts import card_title

LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0", "my own, not public")
SIZES = {"train": "Train", "val": "Validation", "test": "Test"}
PANEL = """
<section class="job-panel" aria-label="Progress" hidden>
  <div class="job-line"><span class="pill busy" data-part="what"></span>
    <span data-part="words" role="status"></span></div>
  <div class="bar"><i></i></div>
</section>
"""


class DataPlan:
    """The form beside the data: how it is split, and what is said about it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    # ---- layout ----

    def build(self, work: DataWork) -> None:
        """Lay out split, licence, the button that does it, and how far it is."""
        with gr.Column(elem_classes=["card"]):
            card_title("Process")
            self.build_split()
            self.licence = gr.Dropdown(
                ["", *LICENCES],
                value="",
                allow_custom_value=True,
                label="Licence of the data",
                info="For the data card; your own words are fine.",
                elem_id="data-licence",
            )
            self.keep_edits = gr.Checkbox(
                True,
                label="Keep my edits",
                info="They are made again on the new examples; else they are set aside.",
                visible=False,
                elem_id="data-keep-edits",
            )
            self.process = gr.Button("Process", variant="primary", elem_id="data-process")
            self.build_panel(work)
            self.stop = gr.Button("Stop", size="sm", elem_id="data-stop", elem_classes=["quiet"])
            self.note = board(elem_id="data-process-note", live=True)
            self.keep = gr.Button(
                "Keep these settings", size="sm", elem_id="data-keep", elem_classes=["quiet"]
            )
            self.kept = board(elem_id="data-kept", live=True)
        with gr.Accordion("Counting tokens", open=False, elem_classes=["card"]):
            self.model = gr.Dropdown(
                ["starter"],
                value="starter",
                allow_custom_value=True,
                label="Base model",
                elem_id="data-model",
            )
            self.max_seq_len = gr.Number(
                RunConfig().model.max_seq_len,
                label="Longest example in tokens",
                precision=0,
                minimum=16,
                elem_id="data-max-seq-len",
            )

    def build_split(self) -> None:
        """Lay out the sizes of the splits and the seed."""
        shares = SplitConfig()
        self.by = gr.Radio(
            [("Shares", "shares"), ("Numbers", "numbers")],
            value="shares",
            label="Split by",
            elem_id="data-by",
        )
        with gr.Row(elem_classes=["pair"]):
            self.splits = [
                gr.Number(
                    getattr(shares, name),
                    label=label,
                    minimum=0,
                    min_width=70,
                    elem_id=f"data-{name}",
                )
                for name, label in SIZES.items()
            ]
        self.seed = gr.Number(
            RunConfig().data.seed,
            label="Seed",
            info="The same question never lies in two splits.",
            precision=0,
            minimum=0,
            elem_id="data-seed",
        )

    def build_panel(self, work: DataWork) -> None:
        """Show how far the work is; its event `done` fires when another set lies on the disk."""

        def state(query: dict[str, Any]) -> dict[str, Any]:
            return work.state(query)

        self.panel = gr.HTML(
            html_template=PANEL,
            js_on_load="SFTPlay.dataWork(element, () => trigger('done'), server)",
            server_functions=[state],
            elem_id="data-progress",
            elem_classes=["flush"],
            apply_default_css=False,
        )

    # ---- values ----

    @property
    def settings(self) -> list[Any]:
        """List the controls that `read` reads and `opened` fills."""
        return [self.by, *self.splits, self.seed, self.licence, self.keep_edits]

    def read(self, values: Sequence[Any]) -> dict[str, object]:
        """Read the controls as settings, dots written as double underscores."""
        _, train, val, test, seed, licence, keep_edits = values
        return {
            "data__split__train": float(train or 0),
            "data__split__val": float(val or 0),
            "data__split__test": float(test or 0),
            "data__seed": int(seed or 0),
            "data__licence": (licence or "").strip(),
            "data__keep_edits": bool(keep_edits),
        }

    def opened(self, kept: DataConfig | None) -> list[Any]:
        """Fill the controls with what the project keeps."""
        if kept is None:
            return [gr.skip() for _ in range(4 + len(SIZES))]
        split = kept.split
        by = "numbers" if max(split.train, split.val, split.test) > 1 else "shares"
        licence = kept.licence
        return [by, split.train, split.val, split.test, kept.seed, licence, True]

    def converted(self, by: str, values: Sequence[Any], examples: int) -> list[Any]:
        """Turn shares into numbers of so many examples, or numbers into shares of their sum."""
        sizes = [float(value or 0) for value in values]
        total = sum(sizes)
        if by == "shares" and total > 1:
            return [round(size / total, 3) for size in sizes]
        if by == "numbers" and 0 < total <= 1 + 1e-6 and examples:
            rest = [int(examples * size / total) for size in sizes[1:]]
            return [examples - sum(rest), *rest]
        return [gr.skip() for _ in sizes]
