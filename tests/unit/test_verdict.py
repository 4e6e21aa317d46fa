"""The verdict weighs all scores; right answers that were lost are never hidden by nicer wording."""

import numpy as np
import pytest

from sftplay_ui.engine.worker.scoring.verdict import bootstrap_interval, compare, difference, judge


def rows(**scores):
    """Lay out rows of scores: `exact_match=(6, 30)` means that the first 6 of 30 are right."""
    count = next(iter(scores.values()))[1]
    return [
        {name: float(number < right) for name, (right, _) in scores.items()}
        for number in range(count)
    ]


def verdict(before, after):
    return judge(compare(before, after), len(before))


def test_capitals_a_better_wording_does_not_hide_lost_answers():
    before = [
        {"rougeL": 0.144, "exact_match": 0.0, "answer_contained": float(n < 14)} for n in range(30)
    ]
    after = [
        {"rougeL": 0.26, "exact_match": float(n < 7), "answer_contained": float(n < 8)}
        for n in range(30)
    ]
    found = verdict(before, after)
    assert found.judgement == "mixed"
    assert "ROUGE-L rose from 0.14 to 0.26" in found.text
    assert "answers that contain the right one fell from 14 to 8 of 30" in found.text


def test_trivia_a_gain_on_every_score_is_better():
    before = [
        {"rougeL": 0.02, "exact_match": 0.0, "answer_contained": float(n < 3)} for n in range(30)
    ]
    after = [
        {"rougeL": 0.24, "exact_match": float(n < 4), "answer_contained": float(n < 6)}
        for n in range(30)
    ]
    found = verdict(before, after)
    assert found.judgement == "better"
    assert "nothing got worse" in found.text


def test_one_lost_answer_is_enough_to_make_a_gain_mixed():
    before = [{"rougeL": 0.1, "answer_contained": float(n < 5)} for n in range(30)]
    after = [{"rougeL": 0.3, "answer_contained": float(n < 4)} for n in range(30)]
    assert verdict(before, after).judgement == "mixed"


def test_scatter_is_no_difference():
    random = np.random.default_rng(1)
    before = [{"rougeL": float(x)} for x in random.uniform(0.1, 0.2, 30)]
    after = [{"rougeL": float(x)} for x in random.uniform(0.1, 0.2, 30)]
    found = verdict(before, after)
    assert found.judgement == "no difference"
    assert "30 questions" in found.text


def test_equal_answers_are_said_to_be_equal():
    same = rows(exact_match=(3, 12))
    assert "same on both sides" in verdict(same, same).text


def test_a_proven_loss_is_worse():
    assert verdict(rows(exact_match=(20, 30)), rows(exact_match=(5, 30))).judgement == "worse"


def test_a_few_questions_prove_nothing():
    found = verdict(rows(exact_match=(0, 4)), rows(exact_match=(4, 4)))
    assert found.judgement == "too few"
    assert "Only 4 questions" in found.text


def test_a_lower_loss_is_a_gain():
    before = [{"reference_loss": 3.0 + n / 100} for n in range(20)]
    after = [{"reference_loss": 2.0 + n / 50} for n in range(20)]
    assert verdict(before, after).judgement == "better"
    assert difference("reference_loss", [3.0, 2.0], [2.0, 3.0]).better == 1


def test_changes_are_counted_row_by_row():
    found = difference("rougeL", [0.1, 0.2, 0.3], [0.2, 0.1, 0.3])
    assert (found.better, found.worse, found.equal) == (1, 1, 1)


def test_the_interval_is_seeded_and_covers_the_mean():
    changes = np.random.default_rng(2).normal(0.1, 0.2, 40)
    low, high = bootstrap_interval(changes)
    assert (low, high) == bootstrap_interval(changes)
    assert low < changes.mean() < high
    # the normal approximation: mean -+ 1.96 standard errors
    error = changes.std() / np.sqrt(len(changes))
    assert low == pytest.approx(changes.mean() - 1.96 * error, abs=0.01)
    assert high == pytest.approx(changes.mean() + 1.96 * error, abs=0.01)
