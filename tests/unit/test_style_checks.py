"""Style checks: demands read from plain words, answers judged by them."""

import pytest

from sftplay_ui.engine.style.checks import answer_checks, count_sentences, measure_adherence


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("Answer in no more than 3 short sentences.", ["at most 3 sentences"]),
        ("Use at most ten words, without any Markdown.", ["at most 10 words", "no Markdown"]),
        ("Reply with valid JSON, never use Markdown", ["valid JSON", "no Markdown"]),
        ("Do not write JSON. Be kind.", []),
        ("Reply in Japanese.", ["in Japanese letters"]),
        ("Two sentences about Paris.", []),
    ],
)
def test_demands_are_read_from_free_text(rule: str, names: list[str]) -> None:
    assert [check.name for check in answer_checks(rule)] == names


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("It is 3.14, e.g. about three. Done", 2),
        ("Dr. Smith wrote it (in 1900.) Yes.", 2),
        ("東京です。はい！", 2),
        ("هل هذا صحيح؟ نعم.", 2),
        ("Wait... what?!", 2),
        ("🎉", 0),
    ],
)
def test_sentences_are_counted_in_many_scripts(text: str, count: int) -> None:
    assert count_sentences(text) == count


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("at most two sentences", "One. Two.", "One. Two. Three."),
        ("at most 3 words", "a b c", "a b c d"),
        ("at most 2 lines", "a\nb\n", "a\nb\nc"),
        ("only JSON", ' {"a": [1]}\n', 'Here: {"a": 1}'),
        ("only JSON", "3", "[" * 200_000),
        ("no Markdown", "2 * 3 * 4 = 24, a_b_c", "Use `x`"),
        ("no Markdown", "C# and #1", "# Title"),
        ("no Markdown", "a [1] (2)", "[a](http://b)"),
        ("no Markdown", "a - b", "- a\n- b"),
        ("no Markdown", "a ** b ** c", "**bold**"),
        ("without exclamation marks", "Good.", "Good！"),
        ("without contractions", "It is the dog's.", "I don't."),
        ("as bullet points", "- a\n\n- b", "Sure:\n- a"),
        ("End with a question.", "So? Is it clear?", "Clear."),
        ("Answer in Russian", "Москва 2024", "Moscow"),
        ("Answer in Russian", "1975", "東京"),
    ],
)
def test_an_answer_keeps_to_a_demand_or_breaks_it(rule: str, good: str, bad: str) -> None:
    (check,) = answer_checks(rule)
    assert check.holds(good)
    assert not check.holds(bad)


def test_the_share_of_answers_that_break_the_rule_comes_with_examples() -> None:
    answers = ["One.", "One. Two.", "One. Two. No.", "One"]
    (found,) = measure_adherence("Answer in one sentence.", answers)
    assert (found.answers, found.broken, found.share) == (4, 2, 0.5)
    assert found.examples == ("One. Two.", "One. Two. No.")


def test_a_rule_nobody_can_check_measures_nothing() -> None:
    assert measure_adherence("Be kind.", ["A."]) == ()
