"""The table over a processed file: pages, search, and edits that can be taken back."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.data.table import Table, TableRow
from sftplay_ui.engine.errors import DataError


def example(question: str, answer: str = "So.") -> Example:
    return Example((Message("user", question), Message("assistant", answer)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [example(f"Question {n}?", f"Answer {n}.").to_record() for n in range(120)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "train.jsonl"


def questions(rows: tuple[TableRow, ...]) -> list[str]:
    return [row.example.messages[0].content for row in rows if isinstance(row.example, Example)]


def test_pages_are_read_where_they_are_asked_for(path: Path) -> None:
    table = Table(path)
    assert len(table) == 120
    assert questions(table.page(50, 3)) == ["Question 50?", "Question 51?", "Question 52?"]
    assert [row.row for row in table.page(118, 50)] == [118, 119]
    assert table.page(120) == table.page(9999) == ()


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    table = Table(tmp_path / "a.jsonl")
    assert (len(table), table.page(0), table.search("x").rows) == (0, (), ())


def test_rendered_files_are_tables_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"input": "Q:", "target": "A"}')
    assert Table(tmp_path / "a.jsonl").page(0)[0].example == RenderedExample("Q:", "A")


def test_a_search_goes_on_where_it_ended(path: Path) -> None:
    table = Table(path)
    found = table.search("QUESTION 1", limit=5)
    assert [row.row for row in found.rows] == [1, 10, 11, 12, 13]
    assert found.next_row == 14
    rest = table.search("question 1", start=14, limit=50)
    assert rest.rows[0].row == 14
    assert rest.next_row is None
    assert table.search("nowhere").rows == ()


@pytest.mark.parametrize("text", ['say "hi"', "line\nbreak", "back\\slash", "ÜBER", "漢字"])
def test_a_search_finds_text_that_json_writes_differently(path: Path, text: str) -> None:
    table = Table(path)
    table.append(example(f"What is {text.lower()} here?"))
    assert [row.row for row in table.search(text).rows] == [120]
    assert table.search("assistant").rows == ()


def test_an_edit_is_in_the_file_at_once(path: Path) -> None:
    table = Table(path)
    table.edit(3, example("Better?", "Yes.\nMuch."))
    assert questions(Table(path).page(2, 3)) == ["Question 2?", "Better?", "Question 4?"]
    assert len(Table(path)) == 120


def test_a_deleted_row_lets_the_next_move_up(path: Path) -> None:
    table = Table(path)
    table.delete(0)
    assert len(table) == 119
    assert questions(table.page(0, 1)) == ["Question 1?"]


def test_edits_are_taken_back_in_order_even_after_reopening(path: Path) -> None:
    before = path.read_bytes()
    table = Table(path)
    table.edit(3, example("Better?"))
    table.delete(119)
    table.append(example("New?"))
    table.delete(0)
    table = Table(path)
    for _ in range(4):
        assert table.can_undo
        table.undo()
    assert path.read_bytes() == before
    assert not table.can_undo
    with pytest.raises(DataError, match="no edit to take back"):
        table.undo()


def test_a_file_that_changed_since_is_not_undone_into(path: Path) -> None:
    table = Table(path)
    table.edit(3, example("Better?"))
    path.write_text('{"user": "other", "assistant": "set"}\n')
    with pytest.raises(DataError, match="changed by something else"):
        Table(path).undo()
    assert len(Table(path)) == 1


def test_a_last_line_without_its_end_keeps_its_row_when_one_is_added(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"user": "a", "assistant": "b"}')
    table = Table(path)
    table.append(example("New?"))
    assert questions(table.page(0)) == ["a", "New?"]


def test_rows_that_are_not_there_and_broken_ones_are_named(path: Path) -> None:
    with pytest.raises(DataError, match="no row 121"):
        Table(path).delete(120)
    path.write_text('{"user": "a", "assistant": "b"}\nbroken\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2 is not JSON"):
        Table(path).page(0)
    with pytest.raises(DataError, match="cannot be read"):
        Table(path.with_name("none.jsonl"))
