"""Presets: names become sentences, and free text stays what a person wrote."""

import pytest

from sftplay_ui.engine.style.checks import answer_checks
from sftplay_ui.engine.style.presets import STYLE_PRESETS, rule_text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("concise", "Answer in at most two sentences."),
        (" JSON only ", "Answer with one valid JSON value and nothing else."),
        ("in german", "Answer in German."),
        ("Answer in Arabic.", "Answer in Arabic."),
        ("in rhymes", "in rhymes"),
        ("Talk like a pirate: {{x}}", "Talk like a pirate: {{x}}"),
        ("", ""),
    ],
)
def test_a_rule_becomes_what_the_model_is_told(rule: str, text: str) -> None:
    assert rule_text(rule) == text


@pytest.mark.parametrize(
    ("preset", "checks"),
    [
        ("concise", ["at most 2 sentences"]),
        ("one sentence", ["at most 1 sentence"]),
        ("one word", ["at most 1 word"]),
        ("json only", ["valid JSON"]),
        ("no markdown", ["no Markdown"]),
        ("bullets", ["bullet points"]),
        ("tutor", ["ends with a question"]),
        ("formal", ["no exclamation marks", "no contractions"]),
        ("friendly", []),
        ("honest", []),
    ],
)
def test_presets_are_checked_where_a_program_can(preset: str, checks: list[str]) -> None:
    assert [check.name for check in answer_checks(rule_text(preset))] == checks


def test_every_preset_is_found_by_its_own_name() -> None:
    assert all(rule_text(name) == preset.text for name, preset in STYLE_PRESETS.items())
