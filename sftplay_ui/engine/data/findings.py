"""What the data doctor can find and mend: the kinds, their words, and one finding.

Finding and mending are left to `row_checks` (one example at a time) and `doctor` (the whole set).
"""

from dataclasses import dataclass

from sftplay_ui.engine.data.tally import Occurrence


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding in words: what it is, and what its fix does (empty: nothing to switch)."""

    title: str
    fix: str = ""
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of trouble in the data: how often, where, and what its fix would do."""

    kind: str
    title: str
    count: int
    examples: tuple[Occurrence, ...]
    fix: str
    fixed: bool

    @property
    def fixable(self) -> bool:
        """Tell whether there is a switch for it."""
        return bool(self.fix)


KINDS = {
    "broken_lines": Kind(
        "Broken lines that can be mended (a trailing comma, Python notation)",
        "Read them as what they were meant to be.",
    ),
    "exact_duplicates": Kind("The same example again", "Keep the first one.", drops=True),
    "near_duplicates": Kind(
        "Nearly the same question again", "Keep the first of them.", drops=True
    ),
    "contradictory_answers": Kind(
        "One question with different answers", "Keep the first answer.", drops=True
    ),
    "one_character_answers": Kind(
        "Answers of a single character", "Leave these examples out.", drops=True
    ),
    "answer_repeats_question": Kind(
        "Answers that repeat the whole question", "Leave these examples out.", drops=True
    ),
    "question_holds_answer": Kind(
        "Questions that already hold their answer", "Leave these examples out.", drops=True
    ),
    "too_long": Kind(
        "Longer than max_seq_len, so the end is cut off", "Leave these examples out.", drops=True
    ),
    "nothing_learned": Kind(
        "Cut so short that no answer is left to learn", "Leave these examples out.", drops=True
    ),
    "length_outliers": Kind(
        "Far longer than the other examples", "Leave these examples out.", drops=True
    ),
    "control_characters": Kind("Invisible control characters", "Remove the characters."),
    "wrong_encoding": Kind(
        "Text that was decoded wrongly (Ã© instead of é)", "Mend the text where that is possible."
    ),
    "html_remains": Kind("Remains of HTML", "Remove the tags and decode the entities."),
    "secrets": Kind("Passwords, keys and tokens", "Mask them."),
    "personal_data": Kind("E-mail addresses, phone and card numbers", "Mask them."),
    "mixed_languages": Kind(
        "Question and answer in different scripts", "Leave these examples out.", drops=True
    ),
    "split_leaks": Kind("The same question in train and in val or test"),
    "near_split_leaks": Kind("Nearly the same question in train and in val or test"),
}
FIXES = tuple(name for name, kind in KINDS.items() if kind.fix)


def make_finding(
    name: str, count: int, examples: tuple[Occurrence, ...], *, fixed: bool
) -> Finding:
    """Put a kind's words and its cases together."""
    kind = KINDS[name]
    return Finding(name, kind.title, count, examples, kind.fix, fixed)
