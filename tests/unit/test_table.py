"""The table over a processed file: pages, search, and edits that can be taken back."""

import json
from pathlib import Path

import numpy as np
import pytest

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.data.marks import MARKS, marks_path, write_marks
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
    assert questions(table.rows([50, 51, 7])) == ["Question 50?", "Question 51?", "Question 7?"]
    assert table.row(119).row == 119


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    table = Table(tmp_path / "a.jsonl")
    assert (len(table), table.rows([]), table.find("x").tolist()) == (0, (), [])


def test_rendered_files_are_tables_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"input": "Q:", "target": "A"}')
    assert Table(tmp_path / "a.jsonl").row(0).example == RenderedExample("Q:", "A")


def test_a_search_finds_rows_whatever_their_case(path: Path) -> None:
    table = Table(path)
    assert table.find(" QUESTION 11").tolist() == [
        11,
        110,
        111,
        112,
        113,
        114,
        115,
        116,
        117,
        118,
        119,
    ]
    assert table.find("nowhere").tolist() == []
    assert len(table.find()) == 120


@pytest.mark.parametrize("text", ['say "hi"', "line\nbreak", "back\\slash", "ÜBER", "漢字"])
def test_a_search_finds_text_that_json_writes_differently(path: Path, text: str) -> None:
    table = Table(path)
    table.edit(7, example(f"What is {text.lower()} here?"))
    assert table.find(text).tolist() == [7]
    assert table.find("assistant").tolist() == []


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(example(f"Question {n}?").to_record()) for n in range(3)]
    path.write_text("\n\n\n".join(lines) + "\n\n", encoding="utf-8-sig")
    table = Table(path)
    assert len(table) == 3
    table.delete(1)
    assert questions(table.rows(range(2))) == ["Question 0?", "Question 2?"]


def marked(path: Path) -> Table:
    """Mark the last rows as duplicates, and row 5 as one with a secret too."""
    marks = np.zeros(120, np.uint32)
    marks[[5, 118, 119]] = MARKS["exact_duplicates"]
    marks[5] |= MARKS["secrets"]
    write_marks(marks_path(path), marks)
    return Table(path)


def test_rows_are_found_by_what_the_doctor_found_in_them(path: Path) -> None:
    table = marked(path)
    assert table.kinds() == {"exact_duplicates": 3, "secrets": 1}
    assert table.find(kind="exact_duplicates").tolist() == [5, 118, 119]
    assert table.find("question 5", "exact_duplicates").tolist() == [5]
    assert table.row(5).kinds == ("exact_duplicates", "secrets")


def test_findings_follow_their_rows_through_edits_and_back(path: Path) -> None:
    table = marked(path)
    table.delete(0)
    table.edit(4, example("Clean?"), ["html_remains"])
    assert table.find(kind="exact_duplicates").tolist() == [117, 118]
    assert table.find(kind="edited").tolist() == table.find(kind="html_remains").tolist() == [4]
    table.undo()
    table.undo()
    assert Table(path).find(kind="exact_duplicates").tolist() == [5, 118, 119]
    assert "edited" not in table.kinds()


def test_marks_of_another_file_are_not_believed(path: Path) -> None:
    marked(path)
    path.write_text('{"user": "other", "assistant": "set"}\n')
    assert Table(path).kinds() == {}
    assert Table(path).find(kind="secrets").tolist() == []


def test_an_edit_is_in_the_file_at_once(path: Path) -> None:
    table = Table(path)
    table.edit(3, example("Better?", "Yes.\nMuch."))
    assert questions(Table(path).rows([2, 3, 4])) == ["Question 2?", "Better?", "Question 4?"]
    assert len(Table(path)) == 120


def test_a_deleted_row_lets_the_next_move_up(path: Path) -> None:
    table = Table(path)
    table.delete(0)
    assert len(table) == 119
    assert questions(table.rows([0])) == ["Question 1?"]


def test_edits_are_taken_back_in_order_even_after_reopening(path: Path) -> None:
    before = path.read_bytes()
    table = Table(path)
    table.edit(3, example("Better?"))
    table.delete(119)
    table.edit(3, example("Best?"))
    table.delete(0)
    table = Table(path)
    assert table.edits == 4
    for _ in range(4):
        table.undo()
    assert path.read_bytes() == before
    assert table.edits == 0
    with pytest.raises(DataError, match="no edit to take back"):
        table.undo()


def test_a_file_that_changed_since_is_not_undone_into(path: Path) -> None:
    table = Table(path)
    table.edit(3, example("Better?"))
    path.write_text('{"user": "other", "assistant": "set"}\n')
    with pytest.raises(DataError, match="changed by something else"):
        Table(path).undo()
    assert len(Table(path)) == 1


def test_a_last_line_without_its_end_comes_back_as_a_row_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"user":"a","assistant":"b"}\n{"user":"c","assistant":"d"}')
    table = Table(path)
    table.delete(0)
    table.delete(0)
    table.undo()
    table.undo()
    assert questions(table.rows([0, 1])) == ["a", "c"]


def test_rows_that_are_not_there_and_broken_ones_are_named(path: Path) -> None:
    with pytest.raises(DataError, match="no row 121"):
        Table(path).delete(120)
    path.write_text('{"user": "a", "assistant": "b"}\nbroken\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2 is not JSON"):
        Table(path).row(1)
    with pytest.raises(DataError, match="cannot be read"):
        Table(path.with_name("none.jsonl"))
