"""Data: from a person's own file to examples that can be learned, with an account of every row."""

from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.config import RunConfig, SplitConfig
from sftplay_ui.engine.data.encodings import CHOICES as ENCODINGS
from sftplay_ui.engine.data.hub_data import fetch_data_set, is_hub_name, parse_hub_name
from sftplay_ui.engine.data.process import examine, process_files
from sftplay_ui.engine.data.raw_files import DEFAULT_SAMPLE, keep_copy, keep_pasted
from sftplay_ui.engine.data.row_checks import Measure
from sftplay_ui.engine.errors import DataError, ModelError, SFTPlayError, TemplateError
from sftplay_ui.engine.project import CurrentData, current_data, set_current_data
from sftplay_ui.engine.text.token_source import model_names, token_source
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.data_files import (
    DATA_KINDS,
    ROLES,
    Look,
    Reading,
    checked_file,
    chosen_file,
    chosen_mapping,
    look_at,
    preview,
    raw_files,
    read_form,
    sample_folder,
)
from sftplay_ui.tabs.data_result import DataResult
from sftplay_ui.tabs.data_view import (
    DELIMITERS,
    EMPTY,
    TRY_IT,
    doctor_board,
    facts_board,
    preview_board,
)
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, note, problem
from sftplay_ui.tabs.parts import card_title, on_load, page_head
from sftplay_ui.tabs.wiring import wire

KINDS = sorted({*DATA_KINDS, ".gz", ".txt", ".arrow"})
MEASURED_BYTES = 20_000_000


class DataTab:
    """Data: drop a file, check what was understood, process it."""

    name = "data"
    title = "Data"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.result = DataResult(workspace)

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out source, checks, processing and result."""
        page_head("Data", "Bring your own questions and answers, and see what will be learned.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.build_source()
                with gr.Column(visible=False, elem_id="data-work") as self.work:
                    self.build_reading()
            with gr.Column(scale=1, min_width=300, visible=False) as self.side:
                self.build_process()
        self.result.build(self.note)
        self.wire_source()
        self.wire_reading()
        self.wire_pages()

    def build_source(self) -> None:
        """Lay out the ways to bring data."""
        with gr.Column(elem_classes=["card"]):
            self.drop = gr.File(
                label="Data file",
                show_label=False,
                file_types=KINDS,
                height=104,
                elem_id="data-drop",
            )
            with gr.Row(elem_classes=["toolbar"]):
                self.file = gr.Dropdown(
                    raw_files(self.workspace),
                    value=None,
                    label="File",
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
                self.hub = gr.Textbox(
                    label="Data set",
                    info="Its files are fetched, never its code.",
                    placeholder="owner/name",
                    max_lines=1,
                    elem_id="data-hub",
                )
                self.fetch = gr.Button("Fetch", size="sm", elem_id="data-fetch")
            self.note = board(elem_id="data-note", live=True)
        self.empty = board(EMPTY, elem_id="data-empty")
        with gr.Row(elem_classes=["card", "first-run"]) as self.first_run:
            gr.HTML(TRY_IT, elem_classes=["flush"], apply_default_css=False, padding=False)
            try_it = gr.Button("Try it now", scale=0, min_width=130, elem_id="data-try-it")
        try_it.click(None, js="() => SFTPlay.startTryIt()", api_visibility="private")

    def build_reading(self) -> None:
        """Lay out what was understood of the file, and what can be set right."""
        with gr.Column(elem_classes=["card"]):
            card_title("What was understood")
            self.facts = board(elem_id="data-facts")
            with gr.Row(elem_classes=["roles"]):
                self.encoding = gr.Dropdown(
                    list(ENCODINGS), value="auto", label="Encoding", elem_id="data-encoding"
                )
                self.delimiter = gr.Dropdown(
                    [("auto", "auto"), *((name, sign) for sign, name in DELIMITERS.items())],
                    value="auto",
                    label="Delimiter",
                    elem_id="data-delimiter",
                )
                self.sheet = gr.Dropdown([], label="Sheet", visible=False, elem_id="data-sheet")
            card_title("Which column is what")
            with gr.Row(elem_classes=["roles"]):
                self.roles = [
                    gr.Dropdown([], label=label, elem_id=f"data-role-{role}")
                    for role, label in ROLES.items()
                ]
            card_title("The first examples")
            self.preview = board(elem_id="data-preview")

    def build_process(self) -> None:
        """Lay out split, doctor and the button that does it."""
        split = SplitConfig()
        with gr.Column(elem_classes=["card"]):
            card_title("Process")
            with gr.Row(elem_classes=["pair"]):
                self.splits = [
                    gr.Number(value, label=label, minimum=0, min_width=70, elem_id=f"data-{name}")
                    for name, label, value in (
                        ("train", "Train", split.train),
                        ("val", "Validation", split.val),
                        ("test", "Test", split.test),
                    )
                ]
            self.seed = gr.Number(
                RunConfig().data.seed,
                label="Seed",
                info="Shares, or numbers of examples. The same question never lies in two splits.",
                precision=0,
                minimum=0,
                elem_id="data-seed",
            )
            self.process_button = gr.Button("Process", variant="primary", elem_id="data-process")
            self.process_note = board(elem_id="data-process-note", live=True)
        with gr.Column(elem_classes=["card"]):
            card_title("Data doctor")
            self.doctor = board(elem_id="data-doctor")
            self.fixes = gr.CheckboxGroup(
                [], label="Mend when processing", visible=False, elem_id="data-fixes"
            )
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

    # ---- events ----

    @property
    def reading(self) -> list[Any]:
        """List the controls that say how the file is read."""
        return [self.file, self.encoding, self.delimiter, self.sheet]

    def wire_source(self) -> None:
        """Connect the ways to bring data; each ends in choosing a file of the list."""
        wire(self.drop.upload, self.take, [self.drop], [self.file, self.drop], note=self.note)
        wire(self.sample.click, self.use_sample, [], [self.file], note=self.note)
        wire(self.paste.click, self.use_text, [self.pasted], [self.file], note=self.note)
        wire(self.fetch.click, self.use_hub, [self.hub], [self.file], note=self.note, slow=True)

    def wire_reading(self) -> None:
        """Connect what changes how the file is understood; the doctor looks again each time."""
        fresh = [self.encoding, self.delimiter, self.sheet]
        shown = [self.facts, self.sheet, *self.roles, self.preview]
        everything = [
            self.work,
            self.side,
            self.first_run,
            self.empty,
            self.process_note,
            *fresh[:2],
            *shown,
        ]
        chosen = wire(self.file.change, self.choose, [self.file], everything, note=self.note)
        asked = [*self.reading, *self.roles, self.fixes, self.model, self.max_seq_len]
        outcome = [self.facts, self.doctor, self.fixes]
        wire(chosen.then, self.examine, asked, outcome, note=self.process_note, slow=True)
        for control in fresh:
            again = wire(control.input, self.reread, self.reading, shown, note=self.note)
            wire(again.then, self.examine, asked, outcome, note=self.process_note, slow=True)
        for role in self.roles:
            mapped = wire(
                role.input, self.remap, [*self.reading, *self.roles], [self.preview], note=self.note
            )
            wire(mapped.then, self.examine, asked, outcome, note=self.process_note, slow=True)
        wire(
            self.process_button.click,
            self.process,
            [*asked, *self.splits, self.seed],
            self.result.outputs,
            note=self.process_note,
            slow=True,
        )

    def wire_pages(self) -> None:
        """Fill a page that was just opened."""
        opened = on_load(guarded(self.opened), [self.file, self.model])
        opened.then(
            guarded(self.result.refresh),
            inputs=[self.model, self.max_seq_len],
            outputs=self.result.outputs,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    # ---- handlers ----

    def opened(self) -> tuple[Any, Any]:
        """Choose the file and the model a page opens with."""
        current = current_data(self.workspace)
        model = (current.model if current else "") or "starter"
        return (
            self.listed(chosen_file(self.workspace)),
            gr.Dropdown(choices=model_names(self.workspace, model), value=model),
        )

    def listed(self, file: str | None) -> Any:
        """Offer all files, with one chosen."""
        return gr.Dropdown(choices=raw_files(self.workspace), value=file)

    def take(self, uploaded: str | None) -> tuple[Any, Any]:
        """Keep a copy of what was dropped, and choose it."""
        if not uploaded:
            return gr.skip(), gr.skip()
        kept = keep_copy(Path(uploaded), self.workspace)
        return self.listed(self.workspace.shorten(kept)), None

    def use_sample(self) -> Any:
        """Choose the bundled sample."""
        return self.listed(self.workspace.shorten(sample_folder(self.workspace) / DEFAULT_SAMPLE))

    def use_text(self, text: str) -> Any:
        """Keep pasted text as a file, and choose it."""
        return self.listed(self.workspace.shorten(keep_pasted(text or "", self.workspace)))

    def use_hub(self, name: str) -> Any:
        """Fetch a data set of the Hub, keep its files, and choose the first."""
        text = (name or "").strip()
        if not is_hub_name(text):
            raise DataError(f"{text!r} names no data set.", "Write it as owner/name.")
        paths = fetch_data_set(parse_hub_name(text), self.workspace)
        kept = [keep_copy(path, self.workspace) for path in paths]
        return self.listed(self.workspace.shorten(kept[0]))

    def choose(self, file: str | None) -> tuple[Any, ...]:
        """Show a newly chosen file; one that cannot be read says so and hides what was there."""
        try:
            shown = self.reread(file, "auto", "auto", "") if file else ()
        except SFTPlayError as error:
            told = problem(error.what, error.fix)
            return (*columns_seen(False), gr.skip(), told, "", *self.untouched())
        if not shown:
            return (*columns_seen(False), gr.Column(visible=True), EMPTY, "", *self.untouched())
        hidden = gr.Column(visible=False)
        return (*columns_seen(True), hidden, "", "", "auto", "auto", *shown)

    def untouched(self) -> list[Any]:
        """Leave the controls of the reading as they are."""
        return [gr.skip() for _ in range(5 + len(ROLES))]

    def reread(
        self, file: str, encoding: str, delimiter: str, sheet: str | None
    ) -> tuple[Any, ...]:
        """Read the file in another way, and guess its columns anew."""
        reading = Reading(file, encoding, delimiter, sheet or "")
        look = look_at(reading, self.workspace)
        return (
            facts_board(look, None),
            gr.Dropdown(
                choices=list(look.facts.sheets),
                value=look.facts.sheet,
                visible=len(look.facts.sheets) > 1,
            ),
            *(role_control(look, role) for role in ROLES),
            preview_board(preview(reading, look, self.workspace)),
        )

    def remap(self, *values: Any) -> str:
        """Show the first examples by the chosen columns."""
        reading = read_form(values)
        look = look_at(reading, self.workspace)
        return preview_board(preview(reading, look, self.workspace))

    def examine(self, *values: Any) -> tuple[Any, Any, Any]:
        """Let the doctor look at the whole file."""
        fixes, model, max_seq_len = values[-3:]
        reading = read_form(values[:-3])
        if not reading.file:
            return gr.skip(), gr.skip(), gr.skip()
        look = look_at(reading, self.workspace)
        if chosen_mapping(reading, look) is None:
            waiting = note("The doctor looks at the examples as soon as the columns are chosen.")
            return facts_board(look, None), waiting, gr.CheckboxGroup(visible=False)
        measure = self.measure(reading.file, model, max_seq_len)
        exam = examine(reading.config(), self.workspace, measure=measure)
        mendable = [(f"{f.title} ({f.count:,}): {f.fix}", f.kind) for f in exam.findings if f.fix]
        kinds = [kind for _, kind in mendable]
        switches = gr.CheckboxGroup(
            choices=mendable,
            value=[fix for fix in fixes or [] if fix in kinds],
            visible=bool(mendable),
        )
        return facts_board(look, exam.rows), doctor_board(exam), switches

    def measure(self, file: str, model: str, max_seq_len: float | None) -> Measure | None:
        """Measure examples in tokens where the model is here and the file is no giant."""
        if checked_file(file, self.workspace).stat().st_size > MEASURED_BYTES:
            return None
        try:
            source = token_source(model, self.workspace)
        except (ModelError, TemplateError):
            return None
        return source.lengths(int(max_seq_len or RunConfig().model.max_seq_len))

    def process(self, *values: Any) -> tuple[Any, ...]:
        """Write train, val and test, and show what became of every row."""
        *form, fixes, model, max_seq_len, train, val, test, seed = values
        reading = read_form(form)
        checked_file(reading.file, self.workspace)
        config = reading.config(
            data__fixes=list(fixes or []),
            data__split__train=float(train or 0),
            data__split__val=float(val or 0),
            data__split__test=float(test or 0),
            data__seed=int(seed or 0),
        )
        measure = self.measure(reading.file, model, max_seq_len)
        process_files(config, self.workspace, measure=measure)
        before = current_data(self.workspace) or CurrentData()
        current = CurrentData(
            template_path=before.template_path, source=reading.file, model=model or ""
        )
        set_current_data(self.workspace, current)
        return self.result.refresh(model, max_seq_len)


def columns_seen(visible: bool) -> tuple[Any, Any]:
    """Show or hide what is about a chosen file."""
    return gr.Column(visible=visible), gr.Column(visible=visible)


def role_control(look: Look, role: str) -> Any:
    """Offer the columns for a role, with the guess chosen."""
    guess = look.guess.columns.get(role) if look.guess.is_usable else None
    return gr.Dropdown(choices=[("(none)", ""), *look.columns], value=guess or "")
