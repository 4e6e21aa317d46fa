"""Evaluate's handlers, called without a browser."""

from pathlib import Path

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.errors import RunNotFoundError
from sftplay_ui.engine.evaluation import AnswerPair, Difference, Evaluation, write_evaluation
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.evaluate_tab import EvaluateTab
from sftplay_ui.tabs.evaluation_view import ordered, score_cards, tone_of, verdict_card

PAIRS = [
    AnswerPair(1, "p", "First?", "a", "b", "a", {"rougeL": 0.2}, {"rougeL": 0.9}),
    AnswerPair(2, "p", "Second?", "a", "a", "b", {"rougeL": 0.8}, {"rougeL": 0.1}),
    AnswerPair(3, "p", "<img src=x>", "a", "", None, {"rougeL": 0.5}, {}),
]


def difference(metric: str, low: float, high: float) -> Difference:
    return Difference(metric, 0.2, 0.4, low, high, better=2, worse=1, equal=0)


EVALUATION = Evaluation(
    run="capitals",
    model="starter",
    split="test",
    data_path="data/processed/test.jsonl",
    rows=3,
    left_out={},
    trained_on=0,
    before={"rougeL": 0.2, "eval_loss": 3.0},
    after={"rougeL": 0.4, "eval_loss": 2.0},
    differences=(difference("rougeL", 0.05, 0.3), difference("reference_loss", -1.5, -0.5)),
    judgement="better",
    verdict="Better: <b>yes</b>.",
)


@pytest.fixture
def tab(workspace: Workspace) -> EvaluateTab:
    folder = workspace.outputs / "evaluate-capitals"
    folder.mkdir()
    config = RunConfig.model_validate({"job": "evaluate", "run_name": folder.name})
    (folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    (folder / "worker.json").write_text("{}", encoding="utf-8")
    write_evaluation(folder, EVALUATION, PAIRS)
    return EvaluateTab(workspace, LiveRuns(workspace))


def test_the_newest_evaluation_is_chosen(tab: EvaluateTab) -> None:
    assert tab.newest().value == "evaluate-capitals"


def test_an_evaluation_shows_its_verdict_scores_and_answers(tab: EvaluateTab) -> None:
    scores, _, metric, table, page, place = tab.show("evaluate-capitals")
    assert "Better: &lt;b&gt;yes&lt;/b&gt;." in scores
    assert metric.value == "rougeL"
    assert table.index("First?") < table.index("Second?")
    assert (page, "1 to 3 of 3" in place) == (1, True)


def test_answers_never_become_markup(tab: EvaluateTab) -> None:
    table, _, _ = tab.leaf("evaluate-capitals", "asked", "rougeL", 1)
    assert "<img" not in table
    assert "&lt;img src=x&gt;" in table


def test_a_side_that_was_not_asked_differs_from_an_empty_answer(tab: EvaluateTab) -> None:
    table, _, _ = tab.leaf("evaluate-capitals", "asked", "rougeL", 1)
    assert "not asked" in table
    assert "(empty answer)" in table


def test_answers_are_sorted_by_gain_loss_or_as_asked() -> None:
    assert [pair.id for pair in ordered(PAIRS, "rougeL", "gains")] == [1, 3, 2]
    assert [pair.id for pair in ordered(PAIRS, "rougeL", "losses")] == [2, 3, 1]
    assert [pair.id for pair in ordered(PAIRS, "rougeL", "asked")] == [1, 2, 3]


def test_a_page_beyond_the_end_is_the_last_one(tab: EvaluateTab) -> None:
    assert tab.leaf("evaluate-capitals", "asked", "rougeL", 99)[1] == 1


def test_a_score_is_coloured_only_when_its_interval_leaves_no_doubt() -> None:
    assert tone_of(difference("rougeL", 0.05, 0.3)) == "good"
    assert tone_of(difference("rougeL", -0.1, 0.3)) == ""
    assert tone_of(difference("rougeL", -0.3, -0.1)) == "bad"
    assert tone_of(difference("reference_loss", -1.5, -0.5)) == "good"


def test_a_result_without_a_base_shows_single_figures() -> None:
    alone = Evaluation(**{**EVALUATION.__dict__, "before": {}, "differences": ()})
    cards = score_cards(alone)
    assert "→" not in cards
    assert "0.400" in cards


def test_the_verdict_names_what_was_left_out_or_trained_on() -> None:
    known = Evaluation(**{**EVALUATION.__dict__, "left_out": {"too_long": 4}, "trained_on": 2})
    assert "4 left out, 2 of them trained on" in verdict_card(known)


def test_paths_of_this_machine_are_shortened() -> None:
    here = Evaluation(**{**EVALUATION.__dict__, "data_path": "/home/me/project/data/x/test.jsonl"})
    assert "/home/me" not in verdict_card(here)
    assert "data/x/test.jsonl" in verdict_card(here)


def test_starting_without_a_run_says_what_to_do(tab: EvaluateTab) -> None:
    with pytest.raises(RunNotFoundError, match="No run is chosen"):
        tab.start("", "test", 30, True)


def test_a_result_outside_the_list_is_refused(tab: EvaluateTab, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError):
        tab.show(f"../{tmp_path.name}")


def test_stopping_nothing_says_so(tab: EvaluateTab) -> None:
    with pytest.raises(RunNotFoundError, match="No evaluation is running"):
        tab.stop()
