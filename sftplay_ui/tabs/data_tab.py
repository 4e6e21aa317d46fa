"""Data: from a person's own file to examples that can be learned, with an account of every row."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gradio as gr

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.edits import read_edits
from sftplay_ui.engine.data.encodings import CHOICES as ENCODINGS
from sftplay_ui.engine.data.process import examine, process_files
from sftplay_ui.engine.data.row_checks import Measure
from sftplay_ui.engine.errors import ModelError, SFTPlayError, TemplateError
from sftplay_ui.engine.project import CurrentData, current_data, set_current_data
from sftplay_ui.engine.text.token_source import model_names, token_source
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.data_files import (
    BETWEEN_FILES,
    ROLES,
    Looks,
    Reading,
    checked_file,
    chosen_files,
    is_settled,
    keep_settings,
    kept_settings,
    look_at,
    preview,
    read_form,
    reading_of,
    settled,
)
from sftplay_ui.tabs.data_plan import DataPlan
from sftplay_ui.tabs.data_result import DataResult
from sftplay_ui.tabs.data_source import DataSource
from sftplay_ui.tabs.data_view import DELIMITERS, EMPTY, doctor_board, facts_board, preview_board
from sftplay_ui.tabs.data_work import DataWork, Superseded
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, note, problem
from sftplay_ui.tabs.parts import card_title, on_load, page_head
from sftplay_ui.tabs.wiring import wire

# counting tokens takes a second for every megabyte or so
EXAMINED_BYTES = 20_000_000
PROCESSED_BYTES = 200_000_000
HEADER_CHOICES = [("auto", "auto"), ("names the columns", "yes"), ("is an example", "no")]


class DataTab:
    """Data: drop a file, check what was understood, process it."""

    name = "data"
    title = "Data"

    def __init__(self, workspace: Workspace, live: LiveRuns) -> None:
        self.workspace = workspace
        self.live = live
        self.source = DataSource(workspace)
        self.plan = DataPlan(workspace)
        self.result = DataResult(workspace)
        self.work = DataWork(lambda: self.result.rows.folder)

    # ---- layout ----

    def build(self, page: gr.Tab) -> None:
        """Lay out source, checks, processing and result."""
        page_head("Data", "Bring your own questions and answers, and see what will be learned.")
        with gr.Row(elem_classes=["split"]):
            with gr.Column(scale=3, min_width=420):
                self.source.build()
                with gr.Column(visible=False, elem_id="data-work") as self.known:
                    self.build_reading()
            with gr.Column(scale=1, min_width=310, visible=False, elem_id="data-side") as self.side:
                self.plan.build(self.work)
        self.result.build()
        self.source.wire_events()
        self.wire_reading()
        self.wire_process()
        self.wire_pages()

    def build_reading(self) -> None:
        """Lay out what was understood of the files, and what can be set right."""
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
                self.header = gr.Dropdown(
                    HEADER_CHOICES, value="auto", label="First row", elem_id="data-header"
                )
                self.sheet = gr.Dropdown([], label="Sheet", visible=False, elem_id="data-sheet")
        with gr.Column(elem_classes=["card"]):
            card_title("Which column is what")
            with gr.Row(elem_classes=["roles"]):
                self.roles = [
                    gr.Dropdown([], label=label, elem_id=f"data-role-{role}")
                    for role, label in ROLES.items()
                ]
            card_title("The first examples")
            self.preview = board(elem_id="data-preview")
        with gr.Column(elem_classes=["card"]):
            card_title("Data doctor")
            self.doctor = gr.HTML(
                js_on_load="SFTPlay.doctor(element)",
                elem_id="data-doctor",
                elem_classes=["flush"],
                apply_default_css=False,
                padding=False,
            )
            # never seen (data.css): the switches beside the findings press these
            self.fixes = gr.CheckboxGroup([], label="Mend", elem_id="data-fixes")

    # ---- events ----

    @property
    def asked(self) -> list[Any]:
        """List the controls that say how the files are read, mended and counted."""
        how = [self.source.files, self.encoding, self.delimiter, self.header, self.sheet]
        return [*how, *self.roles, self.fixes, self.plan.model, self.plan.max_seq_len]

    @property
    def reading(self) -> list[Any]:
        """List the controls that say how the files are read, without the columns."""
        return self.asked[:5]

    def wire_reading(self) -> None:
        """Connect what changes how the files are understood; the doctor looks again each time."""
        ways = [self.encoding, self.delimiter, self.header]
        shown = [self.facts, self.sheet, *self.roles, self.preview]
        seen = [self.known, self.side, self.source.first_run, self.source.empty]
        everything = [*seen, self.fixes, *ways, *shown]
        files, said = self.source.files, self.source.note
        chosen = wire(files.change, self.choose, [files], everything, note=said)
        self.look_again(chosen.then)
        for control in (*ways, self.sheet):
            self.look_again(wire(control.input, self.reread, self.reading, shown, note=said).then)
        mapped = [*self.reading, *self.roles]
        for role in self.roles:
            self.look_again(wire(role.input, self.remap, mapped, [self.preview], note=said).then)
        for event in (self.plan.model.input, self.plan.max_seq_len.submit):
            self.look_again(event)

    def look_again(self, event: Any) -> None:
        """Let the doctor look when an event comes."""
        outcome = [self.facts, self.doctor, self.fixes]
        wire(event, self.examine, self.asked, outcome, note=self.plan.note, slow=True)

    def wire_process(self) -> None:
        """Connect the button that does it, the one that stops it, and what keeps the settings."""
        plan, asked = self.plan, [*self.asked, *self.plan.settings]
        wire(plan.process.click, self.process, asked, [], note=plan.note, slow=True)
        wire(plan.stop.click, self.work.stop, [], [], note=plan.note)
        wire(plan.keep.click, self.keep, asked, [plan.kept], note=plan.note)
        outputs = [*self.result.outputs, plan.keep_edits]
        model = [plan.model, plan.max_seq_len]
        said = self.result.note
        fresh = wire(plan.panel.done, self.refreshed, model, outputs, note=said, slow=True)
        fresh.then(None, js="() => SFTPlay.processed()", api_visibility="private")
        plan.by.input(
            guarded(self.counted),
            [plan.by, *plan.splits],
            plan.splits,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def wire_pages(self) -> None:
        """Fill a page that was just opened."""
        opened = on_load(
            guarded(self.opened), [self.source.files, self.plan.model, *self.plan.settings]
        )
        opened.then(
            guarded(self.refreshed),
            inputs=[self.plan.model, self.plan.max_seq_len],
            outputs=[*self.result.outputs, self.plan.keep_edits],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    # ---- handlers ----

    def opened(self) -> tuple[Any, ...]:
        """Choose the files, the model and the settings a page opens with."""
        current = current_data(self.workspace)
        model = (current.model if current else "") or "starter"
        return (
            self.source.listed(chosen_files(self.workspace)),
            gr.Dropdown(choices=model_names(self.workspace, model), value=model),
            *self.plan.opened(kept_settings(self.workspace)),
        )

    def choose(self, files: list[str] | None) -> tuple[Any, ...]:
        """Show newly chosen files; those that cannot be read say so and hide what was there."""
        untouched = [gr.skip() for _ in range(6 + len(ROLES) + 1)]
        hidden = gr.Column(visible=False)
        if not files:
            return hidden, hidden, gr.Column(visible=True), EMPTY, *untouched
        kept = kept_settings(self.workspace)
        reading = reading_of(files, kept)
        try:
            shown = self.look(reading)
        except SFTPlayError as error:
            return hidden, hidden, gr.skip(), problem(error.what, error.fix), *untouched
        seen = gr.Column(visible=True)
        fixes = kept.fixes if kept and reading != Reading(tuple(files)) else []
        switches = gr.CheckboxGroup(choices=[(kind, kind) for kind in fixes], value=fixes)
        ways = (reading.encoding, reading.delimiter, reading.header)
        return seen, seen, hidden, "", switches, *ways, *shown

    def reread(self, *values: Any) -> tuple[Any, ...]:
        """Read the files in another way, and guess their columns anew."""
        return self.look(read_form(values))

    def look(self, reading: Reading) -> tuple[Any, ...]:
        """Show what is understood of the files, and their first examples."""
        self.work.give_way()
        looks = look_at(reading, self.workspace)
        sheets = looks.first.facts.sheets
        return (
            facts_board(looks, None),
            gr.Dropdown(
                choices=list(sheets), value=looks.first.facts.sheet, visible=len(sheets) > 1
            ),
            *(role_control(reading, looks, role) for role in ROLES),
            preview_board(preview(reading, looks, self.workspace)),
        )

    def remap(self, *values: Any) -> str:
        """Show the first examples by the chosen columns."""
        self.work.give_way()
        reading = read_form(values)
        looks = look_at(reading, self.workspace)
        return preview_board(preview(reading, looks, self.workspace))

    def examine(self, *values: Any) -> tuple[Any, Any, Any]:
        """Let the doctor look at the whole of the files."""
        *form, fixes, model, max_seq_len = values
        reading = read_form(form)
        nothing = gr.CheckboxGroup(choices=[], value=[])
        if not reading.files:
            return gr.skip(), gr.skip(), gr.skip()
        looks = look_at(reading, self.workspace)
        reading = settled(reading, looks)
        if not is_settled(reading, looks):
            waiting = note("The doctor looks at the examples as soon as the columns are chosen.")
            return facts_board(looks, None), waiting, nothing
        measure, why_not = self.measure(model, max_seq_len, reading.files, EXAMINED_BYTES)
        version = self.version(reading, model if measure else "", max_seq_len)
        exam = self.work.known(version)
        try:
            if exam is None:
                with self.work.begin("examine", reading.files) as tell:
                    exam = examine(reading.config(), self.workspace, tell, measure=measure)
        except Superseded:
            return gr.skip(), gr.skip(), gr.skip()
        self.work.examined(reading.files, exam, version)
        kinds = [finding.kind for finding in exam.findings if finding.fix]
        chosen = [kind for kind in fixes or [] if kind in kinds]
        switches = gr.CheckboxGroup(choices=[(kind, kind) for kind in kinds], value=chosen)
        return facts_board(looks, exam.rows), doctor_board(exam, chosen, why_not), switches

    def version(self, reading: Reading, model: str, max_seq_len: float | None) -> object:
        """Name what an examination depends on: files, how they are read and measured, edits."""
        stats = [checked_file(file, self.workspace).stat() for file in reading.files]
        edits = read_edits(self.workspace.data / "processed").to_lines()
        files = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        current = current_data(self.workspace)
        return reading, files, model, max_seq_len, edits, current and current.template_path

    def measure(
        self, model: str, max_seq_len: float | None, files: Sequence[str] = (), most: int = 0
    ) -> tuple[Measure | None, str]:
        """Count tokens where the model is here; else, or above `most` bytes, say why not."""
        sizes = [checked_file(file, self.workspace).stat().st_size for file in files]
        if sum(sizes) > most:
            counted = "when they are processed" if sum(sizes) <= PROCESSED_BYTES else "in training"
            return None, f"The files are large, so their tokens are counted only {counted}."
        current = current_data(self.workspace)
        path = current.template_path if current else None
        template = self.workspace.resolve(path) if path else None
        try:
            source = token_source(model or "", self.workspace, template)
        except (ModelError, TemplateError) as error:
            return None, f"{error.what} {error.fix}"
        limit = int(max_seq_len or RunConfig().model.max_seq_len)
        return source.lengths(limit), ""

    def planned(self, *values: Any) -> tuple[RunConfig, Looks]:
        """Read all of the form as a configuration."""
        form, rest = values[: 5 + len(ROLES)], values[5 + len(ROLES) :]
        fixes, model, max_seq_len, *settings = rest
        reading = read_form(form)
        looks = look_at(reading, self.workspace)
        more = {"data__fixes": list(fixes or []), **self.plan.read(settings)}
        if model:
            more["model__name"] = model
        more["model__max_seq_len"] = int(max_seq_len or RunConfig().model.max_seq_len)
        return settled(reading, looks).config(**more), looks

    def process(self, *values: Any) -> None:
        """Write train, val and test; the page shows them as soon as they lie on the disk."""
        config, _ = self.planned(*values)
        files = read_form(values[: 5 + len(ROLES)]).files
        limit = config.model.max_seq_len
        measure, _ = self.measure(config.model.name, limit, files, PROCESSED_BYTES)
        with self.work.begin("process", files) as tell:
            process_files(config, self.workspace, tell, measure=measure)
        keep_settings(config, self.workspace)
        before = current_data(self.workspace) or CurrentData()
        source = BETWEEN_FILES.join(files)
        fresh = CurrentData(template_path=before.template_path)
        current = dataclasses.replace(fresh, source=source, model=config.model.name)
        set_current_data(self.workspace, current)

    def keep(self, *values: Any) -> str:
        """Keep the settings with the project, and say how a terminal uses them."""
        path = keep_settings(self.planned(*values)[0], self.workspace)
        named = self.workspace.shorten(path)
        return note(
            f"Kept in {named}. In a terminal: python launch.py process --config {named}", "good"
        )

    def refreshed(self, model: str, max_seq_len: float | None) -> tuple[Any, ...]:
        """Show the set that lies on the disk, and whether it has edits to keep."""
        self.result.rows.measure, _ = self.measure(model, max_seq_len)
        edits = len(read_edits(self.workspace.data / "processed"))
        words = f"Keep my {edits:,} edit{'s' * (edits != 1)}"
        switch = gr.Checkbox(label=words, visible=edits > 0)
        return *self.result.refresh(model, max_seq_len), switch

    def counted(self, by: str, *values: Any) -> list[Any]:
        """Turn the shares of the split into numbers of examples, or back."""
        return self.plan.converted(by, values, self.work.found)


def role_control(reading: Reading, looks: Looks, role: str) -> Any:
    """Offer the columns for a role, with what is kept or guessed chosen."""
    guess = looks.first.guess
    guessed = guess.columns if guess.is_usable else {}
    chosen = dict(reading.columns) or guessed
    column = chosen.get(role, "")
    known = looks.columns
    return gr.Dropdown(choices=[("(none)", ""), *known], value=column if column in known else "")
