"""Which of a style's demands a program can check, and whether an answer keeps to them.

Demands are read from the rule's own words, so a person's free text is checked as a preset is. What
no program can judge (a friendly tone) is left alone.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sftplay_ui.engine.data.scripts import main_script
from sftplay_ui.engine.style.presets import LANGUAGE_SCRIPTS

# Characters of an answer that are kept as an example.
QUOTED = 120
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AT_MOST = re.compile(
    r"\b(?:at most|no more than|not more than|a maximum of|maximum|max|up to|in|within)\s+"
    rf"(\d{{1,4}}|{'|'.join(_NUMBERS)})\s+(?:[a-z]+,?\s+){{0,2}}?(sentence|word|line)s?\b"
)
_JSON = re.compile(r"\b(?:valid|only|as|in|with|one|a|single)\s+(?:\w+\s+)?json\b|^json\b")
_NO_MARKDOWN = re.compile(r"\b(?:no|without|avoid|never use|do not use)\s+(?:any\s+)?markdown\b")
_NO_EXCLAMATION = re.compile(r"\b(?:no|without|avoid|never use|do not use)\s+exclamation")
_NO_CONTRACTIONS = re.compile(r"\b(?:no|without|avoid|never use|do not use)\s+contractions")
_BULLETS = re.compile(r"\b(?:as|in|with|use)\s+(?:\w+\s+)?bullet")
_END_WITH_QUESTION = re.compile(r"\bend with (?:a|one) (?:\w+ )?question")
_IN_LANGUAGE = re.compile(rf"\bin ({'|'.join(LANGUAGE_SCRIPTS)})\b", re.IGNORECASE)

_MARKDOWN = re.compile(
    r"^#{1,6} |^ {0,3}[-*+] |^```|\*\*\S.*?\*\*|`[^`\n]+`|\[[^\]\n]+\]\([^)\n]+\)|^\|.*\|\s*$",
    re.MULTILINE,
)
_CONTRACTION = re.compile(r"\b\w+['’](?:t|re|ve|ll|d|m)\b", re.IGNORECASE)
_BULLET = re.compile(r"\s*[-*•] ")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？।؟]+")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|Dr|Mr|Mrs|Ms|Prof|St|No|[A-Z])\.(?=\s)")


@dataclass(frozen=True)
class AnswerCheck:
    """One demand: its name for people, and whether an answer keeps to it."""

    name: str
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class Adherence:
    """How many of the given answers break one demand, with a few of them and their rows from 1."""

    check: str
    answers: int
    broken: int
    examples: tuple[str, ...]
    rows: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """The part of the answers that break the demand, from 0 to 1."""
        return self.broken / self.answers if self.answers else 0.0

    @property
    def sentence(self) -> str:
        """What it means for training, in words."""
        if not self.broken:
            return f"All {self.answers:,} answers keep to it: {self.check}."
        counted = f"{self.broken:,} of {self.answers:,}"
        many = self.share >= 0.01
        share = f"{self.share:.0%} of the answers ({counted})" if many else f"{counted} answers"
        return f"{share} break it: {self.check}. The model will learn the opposite from them."


def answer_checks(rule: str) -> tuple[AnswerCheck, ...]:
    """Return the checkable demands of a rule's text, none where no program can judge it."""
    return tuple(_demands(rule))


def measure_adherence(rule: str, answers: Iterable[str]) -> tuple[Adherence, ...]:
    """Count, demand by demand, the answers that break a rule; a few are kept, cut short."""
    checks = answer_checks(rule)
    counter = AdherenceCounter(checks)
    for row, answer in enumerate(answers if checks else (), start=1):
        counter.add(answer, row)
    return counter.result()


class AdherenceCounter:
    """Counts while answers stream by, so that a large file is read once."""

    def __init__(self, checks: tuple[AnswerCheck, ...]) -> None:
        self._checks = checks
        self._answers = 0
        self._broken = [0] * len(checks)
        self._examples: list[list[str]] = [[] for _ in checks]
        self._rows: list[list[int]] = [[] for _ in checks]

    def add(self, answer: str, row: int) -> None:
        """Judge one more answer; `row` is where it stands, from 1."""
        self._answers += 1
        for n, check in enumerate(self._checks):
            if not check.holds(answer):
                self._broken[n] += 1
                if len(self._examples[n]) < 3:
                    self._examples[n].append(answer[:QUOTED])
                    self._rows[n].append(row)

    def result(self) -> tuple[Adherence, ...]:
        """Return what was counted so far."""
        return tuple(
            Adherence(
                check.name,
                self._answers,
                self._broken[n],
                tuple(self._examples[n]),
                tuple(self._rows[n]),
            )
            for n, check in enumerate(self._checks)
        )


def count_sentences(text: str) -> int:
    """Count sentences by their ends; a last one without a full stop counts too."""
    text = _ABBREVIATION.sub("", text)
    ends = list(_SENTENCE_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    return len(ends) + any(map(str.isalnum, rest))


def is_json(text: str) -> bool:
    """Tell whether an answer is one JSON value and nothing else."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def has_markdown(text: str) -> bool:
    """Tell whether a text carries headings, lists, bold, code, links or tables in Markdown."""
    return _MARKDOWN.search(text) is not None


def _demands(rule: str) -> Iterator[AnswerCheck]:
    lower = " ".join(rule.lower().split())
    for found in _AT_MOST.finditer(lower):
        yield _at_most(_number(found[1]), found[2])
    if _JSON.search(lower):
        yield AnswerCheck("valid JSON", is_json)
    if _NO_MARKDOWN.search(lower):
        yield AnswerCheck("no Markdown", lambda answer: not has_markdown(answer))
    if _NO_EXCLAMATION.search(lower):
        yield AnswerCheck("no exclamation marks", lambda answer: not re.search("[!！]", answer))
    if _NO_CONTRACTIONS.search(lower):
        yield AnswerCheck("no contractions", lambda answer: not _CONTRACTION.search(answer))
    if _BULLETS.search(lower):
        yield AnswerCheck("bullet points", _is_bullets)
    if _END_WITH_QUESTION.search(lower):
        yield AnswerCheck("ends with a question", _ends_with_question)
    for found in _IN_LANGUAGE.finditer(rule):
        yield _in_script(found[1].capitalize())


def _at_most(most: int, unit: str) -> AnswerCheck:
    counts: dict[str, Callable[[str], int]] = {
        "sentence": count_sentences,
        "word": lambda answer: len(answer.split()),
        "line": lambda answer: len(answer.strip().splitlines()),
    }
    count = counts[unit]
    plural = "" if most == 1 else "s"
    return AnswerCheck(f"at most {most} {unit}{plural}", lambda answer: count(answer) <= most)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBERS.index(text)


def _is_bullets(answer: str) -> bool:
    return all(_BULLET.match(line) for line in answer.splitlines() if line.strip())


def _ends_with_question(answer: str) -> bool:
    return answer.rstrip(" \n\"'”’)*_").endswith(("?", "？", "؟", ";"))


def _in_script(language: str) -> AnswerCheck:
    script = LANGUAGE_SCRIPTS[language]
    # numbers and formulas have no script, they are right in any language
    return AnswerCheck(f"in {script} letters", lambda answer: main_script(answer) in ("", script))
