"""An evaluation reads back as it was written, and a damaged file is said to be damaged."""

from pathlib import Path

import pytest

from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.evaluation import (
    AnswerPair,
    Difference,
    Evaluation,
    read_answers,
    read_evaluation,
    write_evaluation,
)

RESULT = Evaluation(
    run="first",
    model="starter",
    split="test",
    data_path="data/processed/test.jsonl",
    rows=1,
    left_out={"no reference": 2},
    trained_on=0,
    before={"rougeL": 0.1},
    after={"rougeL": 0.4},
    differences=(Difference("rougeL", 0.1, 0.4, 0.2, 0.5, 1, 0, 0),),
    judgement="better",
    verdict="Better.",
)
PAIR = AnswerPair(0, "<user>Q", "Q\u2028?", "A", "b", "t", {"rougeL": 0.1}, {"rougeL": 0.4})


def test_an_evaluation_reads_back_as_it_was_written(tmp_path: Path):
    write_evaluation(tmp_path, RESULT, [PAIR, AnswerPair(1, "p", "q", "r")])
    assert read_evaluation(tmp_path) == RESULT
    assert read_answers(tmp_path) == [PAIR, AnswerPair(1, "p", "q", "r")]
    assert not list(tmp_path.glob("*.staged"))


def test_a_run_that_is_not_done_has_no_result_yet(tmp_path: Path):
    assert read_evaluation(tmp_path) is None
    assert read_answers(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"differences": [], "unknown": 1}', "null"])
def test_a_damaged_result_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json"):
        read_evaluation(tmp_path)


def test_damaged_answers_are_refused_by_name(tmp_path: Path):
    (tmp_path / "samples.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl"):
        read_answers(tmp_path)


def test_changes_of_a_pair_need_both_sides():
    assert PAIR.change("rougeL") == pytest.approx(0.3)
    assert AnswerPair(1, "p", "q", "r", "b", None, {"rougeL": 1.0}).change("rougeL") == 0
    assert RESULT.difference("rougeL").change == pytest.approx(0.3)
    assert RESULT.difference("sari") is None
