"""The Evaluate tab in a browser: a finished evaluation, looked at from all sides."""

import pytest
from playwright.sync_api import expect

from sftplay_ui.engine.evaluation import AnswerPair, Difference, Evaluation, write_evaluation
from tests import stand_in
from tests.browser.steps import choose
from tests.browser.test_shell import CONTRAST, UNNAMED


@pytest.fixture
def evaluated(workspace):
    """Leave a finished evaluation of 25 questions behind."""
    run = stand_in.make_run(workspace, "evaluate-capitals", "evaluate")
    (run.folder / "worker.json").write_text("{}", encoding="utf-8")
    pairs = [
        AnswerPair(
            n,
            "p",
            f"Question {n} <img src=x onerror='window.hacked=1'>?",
            "a",
            "b",
            "a",
            {"rougeL": 0.5},
            {"rougeL": n / 25},
        )
        for n in range(25)
    ]
    result = Evaluation(
        run="capitals",
        model="starter",
        split="test",
        data_path="data/processed/test.jsonl",
        rows=25,
        left_out={},
        trained_on=0,
        before={"rougeL": 0.5},
        after={"rougeL": 0.48},
        differences=(Difference("rougeL", 0.5, 0.48, -0.2, -0.01, better=11, worse=13, equal=1),),
        judgement="worse",
        verdict="Worse: ROUGE-L fell from 0.50 to 0.48.",
    )
    write_evaluation(run.folder, result, pairs)
    return workspace


def test_the_verdict_and_the_biggest_changes_come_first(evaluated, open_page):
    page = open_page("evaluate")
    expect(page.locator("#evaluate-scores .verdict")).to_contain_text("Worse: ROUGE-L fell")
    first = page.locator("#evaluate-answers tbody tr").first
    expect(first).to_contain_text("Question 24")
    choose(page, "#evaluate-order", "Biggest loss first")
    expect(first).to_contain_text("Question 0 <img")
    page.locator("#evaluate-forward").click()
    expect(page.locator("#evaluate-place")).to_contain_text("21 to 25 of 25")
    assert page.evaluate("window.hacked") is None


def test_evaluating_without_a_run_says_what_to_do(open_page):
    page = open_page("evaluate")
    expect(page.locator("#evaluate-scores")).to_contain_text("No evaluation yet")
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluate-note")).to_contain_text("No run is chosen")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_filled_page_is_readable_and_fits_a_phone(evaluated, open_page, scheme):
    page = open_page("evaluate", color_scheme=scheme, viewport={"width": 390, "height": 844})
    expect(page.locator("#evaluate-answers tbody tr").first).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
