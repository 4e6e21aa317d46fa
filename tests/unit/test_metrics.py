"""Scores of single answers, known values, and scripts other than Latin."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.worker.scoring.metrics import (
    METRICS,
    Answer,
    AnswerContained,
    ExactMatch,
    RougeL,
    Sari,
    TokenF1,
    mean_scores,
    score_answers,
)
from sftplay_ui.engine.worker.scoring.sari import sari
from sftplay_ui.engine.worker.scoring.words import answer_words, split_words, split_words_and_marks

SPECIES = "About 95 species are currently accepted."
SPECIES_REFERENCES = (
    "About 95 species are currently known.",
    "About 95 species are now accepted.",
    "95 species are now accepted.",
)


def score(metric, prediction, reference, source="?"):
    return metric().score(source, prediction, reference)


def test_sari_is_what_the_published_scorer_gives():
    references = [split_words_and_marks(text) for text in SPECIES_REFERENCES]
    output = split_words_and_marks("About 95 you now get in.")
    found = sari(split_words_and_marks(SPECIES), output, references)
    assert found == pytest.approx(0.26953601953601954)


def test_sari_of_the_wanted_text_is_a_hundred():
    assert score(Sari, SPECIES_REFERENCES[1], SPECIES_REFERENCES[1], SPECIES) == pytest.approx(100)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("the cat sat on the mat", "a cat sat on mat"),
        ("Python lists are mutable sequences.", "A list is a mutable sequence of items."),
        ("nothing in common", "other words"),
    ],
)
def test_rouge_of_english_is_that_of_its_library(prediction, reference):
    library = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert score(RougeL, prediction, reference) == pytest.approx(library)


@pytest.mark.parametrize(
    "text", ["Привет, мир", "東京は日本の首都です", "नमस्ते दुनिया", "مرحبا", "=="]
)
def test_every_script_can_be_right(text):
    for metric in METRICS:
        assert score(metric, text, text) == pytest.approx(100 if metric is Sari else 1)


def test_scripts_without_spaces_are_scored_in_parts():
    assert 0 < score(RougeL, "東京です", "東京は首都です") < 1


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("The Eiffel Tower!", "eiffel tower", True),
        ("Paris", "London", False),
        ("==", "!=", False),
        ("-5", "5", False),
        ("3.14", "3.14", True),
        ("A", "the", False),
        ("ＡＢＣ", "abc", True),
    ],
)
def test_exact_match_forgives_form_only(prediction, reference, same):
    assert score(ExactMatch, prediction, reference) == float(same)


def test_token_f1_counts_words_in_any_order():
    assert score(TokenF1, "blue red green", "red blue") == pytest.approx(0.8)


def test_an_answer_is_contained_as_whole_words_in_a_row():
    assert score(AnswerContained, "It is New York, I think.", "new york") == 1
    assert score(AnswerContained, "York is new", "new york") == 0
    assert score(AnswerContained, "Parisian", "Paris") == 0


def test_an_empty_answer_scores_nothing():
    assert all(score(metric, " \n", "Paris") == 0 for metric in METRICS)


def test_a_missing_reference_is_refused_rather_than_scored():
    with pytest.raises(DataError, match="no reference answer"):
        score_answers([Answer("Who?", "Me", "  ")])
    with pytest.raises(DataError, match="no answer to score"):
        mean_scores([])


def test_metrics_compute_without_a_network():
    found = ExactMatch().compute(
        sources=["1", "2"], predictions=["Paris", "x"], references=["paris", "y"]
    )
    assert found == {"exact_match": 0.5}


def test_means_are_taken_metric_by_metric():
    rows = score_answers([Answer("?", "Paris", "Paris"), Answer("?", "x", "Paris")])
    assert mean_scores(rows)["exact_match"] == 0.5
    assert list(rows[0]) == ["rougeL", "sari", "exact_match", "token_f1", "answer_contained"]


def test_words_are_found_in_any_script():
    assert split_words("The naïve café: -3.5 + 2,000") == ["the", "naïve", "café", "-3.5", "2,000"]
    assert split_words("हिन्दी में") == ["हिन्दी", "में"]
    assert split_words_and_marks("a.b!") == ["a", ".", "b", "!"]
    assert answer_words("The end") == ["end"]
