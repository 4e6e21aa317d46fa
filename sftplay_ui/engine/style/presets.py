"""Ready-made style rules, and what a person's own words for one mean as a system prompt."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class StylePreset:
    """A rule by name: `text` is what the model is told, `help` what the person is told."""

    name: str
    text: str
    help: str


STYLE_PRESETS = {
    preset.name: preset
    for preset in (
        StylePreset("concise", "Answer in at most two sentences.", "Short and to the point."),
        StylePreset("one sentence", "Answer in one sentence.", "A single sentence."),
        StylePreset("one word", "Answer in at most one word.", "For quizzes and labels."),
        StylePreset(
            "json only",
            "Answer with one valid JSON value and nothing else.",
            "For programs that read the answer.",
        ),
        StylePreset(
            "no markdown",
            "Answer in plain text without Markdown.",
            "No headings, lists, bold or code fences.",
        ),
        StylePreset(
            "bullets",
            "Answer as bullet points, one a line, each beginning with a hyphen.",
            "Easy to skim.",
        ),
        StylePreset(
            "tutor",
            "You are a patient tutor. Explain step by step, and end with a question that lets the "
            "learner check whether they understood.",
            "Teaches instead of telling.",
        ),
        StylePreset(
            "formal",
            "Answer formally and politely, without contractions and without exclamation marks.",
            "For letters and offices.",
        ),
        StylePreset(
            "friendly",
            "Answer in a warm and friendly tone, as if to a good colleague.",
            "Relaxed and kind.",
        ),
        StylePreset(
            "honest",
            "If you do not know the answer, say so plainly instead of guessing.",
            "Prefers no answer to a made-up one.",
        ),
    )
}

# Languages a rule "in ..." may name, with the script their answers are written in.
LANGUAGE_SCRIPTS = {
    **dict.fromkeys(
        (
            *("English", "German", "French", "Spanish", "Portuguese", "Italian", "Dutch"),
            *("Polish", "Czech", "Swedish", "Danish", "Norwegian", "Finnish", "Turkish"),
            *("Romanian", "Hungarian", "Vietnamese", "Indonesian", "Swahili", "Latin"),
        ),
        "Latin",
    ),
    **dict.fromkeys(("Russian", "Ukrainian", "Bulgarian", "Serbian"), "Cyrillic"),
    **dict.fromkeys(("Arabic", "Persian", "Farsi", "Urdu"), "Arabic"),
    **dict.fromkeys(("Hindi", "Marathi", "Nepali", "Sanskrit"), "Devanagari"),
    **{"Chinese": "Chinese", "Japanese": "Japanese", "Korean": "Korean", "Greek": "Greek"},
    **{"Hebrew": "Hebrew", "Thai": "Thai", "Bengali": "Bengali", "Tamil": "Tamil"},
    **{"Telugu": "Telugu", "Armenian": "Armenian", "Georgian": "Georgian"},
}

_IN_LANGUAGE = re.compile(r"(?:answer )?in ([a-z]+)\.?", re.IGNORECASE)


def rule_text(rule: str) -> str:
    """Turn a rule into the sentence a model is told: a preset's name, "in German", or free text."""
    rule = rule.strip()
    preset = STYLE_PRESETS.get(rule.casefold())
    if preset:
        return preset.text
    named = _IN_LANGUAGE.fullmatch(rule)
    if named and named[1].capitalize() in LANGUAGE_SCRIPTS:
        return f"Answer in {named[1].capitalize()}."
    return rule
