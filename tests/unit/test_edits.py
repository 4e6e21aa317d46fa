"""Edits by hand: kept when a set is processed again, and followed by the styled files."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.config import RunConfig, StyleConfig
from sftplay_ui.engine.config_file import make_config
from sftplay_ui.engine.data.edits import read_edits
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.process import examine, process_files
from sftplay_ui.engine.data.table import Table
from sftplay_ui.engine.project import CurrentData, set_current_data
from sftplay_ui.engine.style.apply import style_files
from sftplay_ui.engine.style.edited import follow_change
from sftplay_ui.engine.workspace import Workspace

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(40)]


def config(workspace: Workspace, **settings: object) -> RunConfig:
    raw = workspace.data / "raw" / "rows.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return make_config({"data.raw_path": "data/raw/rows.jsonl", **settings})


@pytest.fixture
def train(workspace: Workspace) -> Path:
    process_files(config(workspace), workspace)
    return workspace.data / "processed" / "train.jsonl"


def with_answer(table: Table, row: int, answer: str) -> Example:
    question = table.row(row).example.messages[0]
    return Example((question, Message("assistant", answer)))


def answers(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["user"]: row["assistant"] for row in rows}


def test_edits_are_made_again_when_the_set_is_processed_again(
    workspace: Workspace, train: Path
) -> None:
    table = Table(train)
    asked, gone = (table.row(n).example.messages[0].content for n in (3, 4))
    table.edit(3, with_answer(table, 3, "Better."))
    table.delete(4)
    report = process_files(config(workspace, **{"data.seed": 7}), workspace)
    written = {}
    for split in ("train", "val", "test"):
        written |= answers(train.with_name(f"{split}.jsonl"))
    assert written[asked] == "Better."
    assert gone not in written
    assert report.changed["edited_by_hand"] == report.dropped["deleted_by_hand"] == 1
    assert (
        sum(
            Table(train.with_name(f"{s}.jsonl")).kinds().get("edited", 0)
            for s in ("train", "val", "test")
        )
        == 1
    )


def test_an_edit_of_an_edit_goes_on_from_what_the_raw_file_says(
    workspace: Workspace, train: Path
) -> None:
    for answer in ("Better.", "Best.", "It was best."):
        table = Table(train)
        asked = table.row(0).example.messages[0].content
        table.edit(0, with_answer(table, 0, answer))
        process_files(config(workspace), workspace)
        assert answers(train)[asked] == answer
    assert len(read_edits(train.parent)) == 1


def test_what_was_undone_is_not_done_again(workspace: Workspace, train: Path) -> None:
    table = Table(train)
    table.delete(0)
    table.undo()
    assert process_files(config(workspace), workspace).kept == 40


def test_edits_whose_rows_are_gone_are_kept_and_told(workspace: Workspace, train: Path) -> None:
    table = Table(train)
    table.edit(0, with_answer(table, 0, "Better."))
    other = workspace.data / "raw" / "other.csv"
    other.write_text("question,answer\n" + "".join(f"Why {n}?,So {n}\n" for n in range(20)))
    settings = {"data.raw_path": "data/raw/other.csv"}
    report = process_files(make_config(settings), workspace)
    assert any("1 of 1 edits by hand found no example" in note for note in report.notes)
    assert process_files(config(workspace), workspace).changed["edited_by_hand"] == 1


def test_edits_that_are_not_wanted_are_set_aside(workspace: Workspace, train: Path) -> None:
    table = Table(train)
    table.edit(0, with_answer(table, 0, "Better."))
    process_files(config(workspace, **{"data.keep_edits": False}), workspace)
    assert "Better." not in train.read_text(encoding="utf-8")
    assert "Better." in (train.parent / "edits.set-aside.jsonl").read_text(encoding="utf-8")


def test_the_doctor_looks_at_examples_as_they_were_edited(
    workspace: Workspace, train: Path
) -> None:
    table = Table(train)
    table.edit(0, with_answer(table, 0, "x"))
    found = {finding.kind for finding in examine(config(workspace), workspace).findings}
    assert "one_character_answers" in found


def styled(workspace: Workspace, splits: list[str]) -> Path:
    style = StyleConfig(system="Be brief.", splits=splits)
    style_files(RunConfig(style=style), workspace)
    folder = workspace.data / "processed_with_style"
    paths = {f"{s}_path": f"data/processed_with_style/{s}.jsonl" for s in ("train", "val", "test")}
    set_current_data(workspace, CurrentData(**paths, system="Be brief."))
    return folder / "train.jsonl"


@pytest.mark.parametrize("splits", [["train"], ["val"]])
def test_styled_files_follow_every_edit_and_its_undoing(
    workspace: Workspace, train: Path, splits: list[str]
) -> None:
    path = styled(workspace, splits)
    before = path.read_text(encoding="utf-8")
    table = Table(train)
    for change in (
        lambda: table.edit(3, with_answer(table, 3, "Better.")),
        lambda: table.delete(0),
    ):
        assert follow_change(change(), table, workspace)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[2]["assistant"] == "Better."
    assert ("system" in rows[2]) == (splits == ["train"])
    for _ in range(2):
        assert follow_change(table.undo(), table, workspace)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        json.loads(line) for line in before.splitlines()
    ]


def test_styled_files_of_other_examples_are_left_alone(workspace: Workspace, train: Path) -> None:
    path = styled(workspace, ["train"])
    path.write_text('{"user": "other", "assistant": "set"}\n', encoding="utf-8")
    table = Table(train)
    assert not follow_change(table.delete(0), table, workspace)
    assert path.read_text(encoding="utf-8") == '{"user": "other", "assistant": "set"}\n'
