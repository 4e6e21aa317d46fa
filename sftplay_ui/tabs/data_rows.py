"""The table of processed examples: leaf, search, filter by finding, edit, delete, undo.

Only one page of rows is ever in the page, whatever the file holds; `engine.data.table` does the
rest, and `SFTPlay.rows` in assets/data.js the typing.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.row_checks import Measure, check_example
from sftplay_ui.engine.data.table import Change, Table, TableRow, open_table
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.style.edited import follow_change
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.data_view import kind_title, rows_board
from sftplay_ui.tabs.markup import board, note
from sftplay_ui.tabs.pager import Pager, place_of
from sftplay_ui.tabs.wiring import wire

PAGE_ROWS = 25
SPLITS = (("Train", "train"), ("Validation", "val"), ("Test", "test"))
TOKEN_KINDS = ("too_long", "nothing_learned")


class DataRows:
    """The rows of one folder of processed splits, a page at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        # two pages may edit at the same moment; each edit reads and writes the whole file
        self.lock = threading.Lock()
        self.measure: Measure | None = None

    # ---- layout ----

    def build(self) -> None:
        """Lay out split, search, filter, the table and its page controls."""
        with gr.Row(elem_classes=["toolbar", "filters"]):
            self.split = gr.Dropdown(
                list(SPLITS),
                value="train",
                label="Split",
                min_width=130,
                scale=1,
                elem_id="data-split",
            )
            self.search = gr.Textbox(
                label="Search",
                placeholder="Type and press Enter",
                max_lines=1,
                min_width=180,
                scale=3,
                elem_id="data-search",
            )
            self.kind = gr.Dropdown(
                [("All rows", "")],
                value="",
                label="Show",
                min_width=180,
                scale=2,
                elem_id="data-kind",
            )
            self.undo_button = gr.Button(
                "Undo", size="sm", scale=0, min_width=100, elem_id="data-undo"
            )

        def whole_text(query: Mapping[str, Any]) -> dict[str, str]:
            return self.whole_text(query)

        self.table = gr.HTML(
            js_on_load="SFTPlay.rows(element, trigger, server, watch)",
            server_functions=[whole_text],
            elem_id="data-table",
            elem_classes=["flush"],
            apply_default_css=False,
            padding=False,
        )
        self.note = board(elem_id="data-rows-note", live=True)
        self.told = board(elem_id="data-rows-told", live=True)
        self.pager = Pager.lay_out("data", "rows")

    @property
    def asked(self) -> list[Any]:
        """List what decides which rows are seen."""
        return [self.split, self.search, self.kind, self.pager.page]

    @property
    def shown(self) -> list[Any]:
        """List what `leaf` fills."""
        pager = self.pager
        return [self.table, pager.page, pager.place, self.kind, self.undo_button, self.told]

    def wire_events(self) -> None:
        """Connect what leafs and what edits."""
        events = (self.split.input, self.search.submit, self.kind.input, self.pager.page.submit)
        for event in events:
            wire(event, self.leaf, self.asked, self.shown, note=self.note)
        steps = {self.pager.back.click: self.back, self.pager.forward.click: self.forward}
        changes = {self.table.edit: self.edit, self.table.delete: self.delete}
        changes[self.undo_button.click] = self.undo
        for event, handler in (*steps.items(), *changes.items()):
            wire(event, handler, self.asked, self.shown, note=self.note)

    # ---- reading ----

    @property
    def folder(self) -> Path:
        """The folder of the processed splits; *Try it now* has one of its own."""
        own = self.workspace.data / "processed"
        demo = self.workspace.data / "demo"
        has_own = (own / "train.jsonl").is_file()
        return own if has_own or not (demo / "train.jsonl").is_file() else demo

    @property
    def is_demo(self) -> bool:
        """Tell whether the rows are those of *Try it now*, which are shown and not edited."""
        return self.folder.name == "demo"

    def path(self, split: str | None) -> Path:
        """Name the file of a split; DataError for a split there is not."""
        if split not in [name for _, name in SPLITS]:
            raise DataError(f"There is no split {split}.", "Choose one of the list.")
        return self.folder / f"{split}.jsonl"

    def leaf(self, split: str, text: str, kind: str | None, page: float | None) -> tuple[Any, ...]:
        """Show one page of a split, or of the rows that hold a text and have a finding."""
        path = self.path(split)
        if not path.is_file():
            raise DataError(f"{path.name} is not there yet.", "Process a file first.")
        table = open_table(path)
        kinds = table.kinds()
        kind = kind if kind in kinds else ""
        found = table.find(text or "", kind)
        place = place_of(page, len(found), PAGE_ROWS)
        rows = table.rows(found[max(0, place.first - 1) : place.last].tolist())
        edits = table.edits
        return (
            rows_board(rows, split, editable=not self.is_demo),
            place.page,
            place.sentence,
            kind_choice(kinds, kind),
            gr.Button(f"Undo ({edits})" if edits else "Undo", interactive=bool(edits)),
            "",
        )

    def back(self, split: str, text: str, kind: str | None, page: float) -> tuple[Any, ...]:
        """Leaf back."""
        return self.leaf(split, text, kind, (page or 1) - 1)

    def forward(self, split: str, text: str, kind: str | None, page: float) -> tuple[Any, ...]:
        """Leaf forward."""
        return self.leaf(split, text, kind, (page or 1) + 1)

    def whole_text(self, query: Mapping[str, Any]) -> dict[str, str]:
        """Answer a page that begins to edit a text: all of it, or why it cannot be edited."""
        try:
            row = self.same_row(open_table(self.path(query["split"])), query)
            return {"text": turns_of(row)[int(query["turn"])].content}
        except DataError as error:
            return {"problem": f"{error.what} {error.fix}"}

    # ---- editing ----

    def edit(
        self, split: str, text: str, kind: str, page: float, asked: gr.EventData
    ) -> tuple[Any, ...]:
        """Put a typed text in the place of one turn."""
        with self.lock:
            table = self.editable(asked._data["split"])
            row = self.same_row(table, asked._data)
            new = with_turn(row, asked._data)
            told = self.follow(table.edit(row.row, new, self.kinds_after(row, new)), table)
        return *self.leaf(split, text, kind, page)[:-1], told

    def delete(
        self, split: str, text: str, kind: str, page: float, asked: gr.EventData
    ) -> tuple[Any, ...]:
        """Remove one row."""
        with self.lock:
            table = self.editable(asked._data["split"])
            told = self.follow(table.delete(self.same_row(table, asked._data).row), table)
        return *self.leaf(split, text, kind, page)[:-1], told

    def undo(self, split: str, text: str, kind: str, page: float) -> tuple[Any, ...]:
        """Take back the newest edit of the split that is shown."""
        with self.lock:
            table = self.editable(split)
            told = self.follow(table.undo(), table)
        return *self.leaf(split, text, kind, page)[:-1], told

    def editable(self, split: str) -> Table:
        """Open a table of its own to write to."""
        if self.is_demo:
            raise DataError(
                "The examples of Try it now stay as they are.",
                "Press Use the sample and Process to get a set of your own.",
            )
        return Table(self.path(split))

    def same_row(self, table: Table, asked: Mapping[str, Any]) -> TableRow:
        """Find the row a page means; DataError where it is another one by now."""
        row = table.row(int(asked["row"]))
        if row.name != asked["name"]:
            raise DataError(
                f"Row {row.row + 1:,} has changed since this page showed it.",
                "Press Enter in Search to see the rows as they are now, then edit again.",
            )
        return row

    def kinds_after(self, row: TableRow, new: Example) -> set[str]:
        """Find what is wrong with an edited row by itself; tokens count where a model is here."""
        found = {trouble.kind for trouble in check_example(new, (), self.measure).troubles}
        if self.measure is None:
            found |= {kind for kind in row.kinds if kind in TOKEN_KINDS}
        return found

    def follow(self, change: Change, table: Table) -> str:
        """Let the styled files follow an edit; say where they cannot."""
        if follow_change(change, table, self.workspace):
            return ""
        return note(
            "The styled examples, which training reads, do not have this edit: press Apply in "
            "Style once more."
        )


def turns_of(row: TableRow) -> tuple[Message, ...]:
    """Give the turns of an example; DataError for a rendered one, which has none to edit."""
    if isinstance(row.example, Example):
        return row.example.messages
    raise DataError("A rendered example cannot be edited.", "Edit the processed example.")


def with_turn(row: TableRow, asked: Mapping[str, Any]) -> Example:
    """Give an example with the text of one turn replaced; an empty one is refused."""
    turns, number, text = [*turns_of(row)], int(asked["turn"]), str(asked["text"])
    if not 0 <= number < len(turns):
        raise DataError(f"Row {row.row + 1:,} has no turn {number + 1}.", "Edit it once more.")
    role = turns[number].role
    if not text.strip() and role != "system":
        raise DataError(
            f"The {role} turn of row {row.row + 1:,} would be empty, so it stays as it was.",
            "Type a text, or delete the row.",
        )
    if not text.strip():
        del turns[number]
        return Example(tuple(turns))
    # through the record, which refuses what no model can read
    turns[number] = Message(role, text)
    return Example.from_record(Example(tuple(turns)).to_record(), place=f"Row {row.row + 1:,}")


def kind_choice(kinds: Mapping[str, int], chosen: str) -> gr.Dropdown:
    """Offer the findings that rows of this split have."""
    named = [(f"{kind_title(kind)} ({count:,})", kind) for kind, count in kinds.items()]
    return gr.Dropdown(choices=[("All rows", ""), *named], value=chosen)
