"""What the data doctor sees in one example by itself, and how it mends what is switched on.

What only shows in the whole set (duplicates, contradictions, outliers) is left to `doctor`.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.private_data import mask_personal, mask_secrets
from sftplay_ui.engine.data.scripts import scripts_of

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
WRONG = re.compile("[ÃÂÐÑâ][\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]|ï»¿|ï¿½|\ufffd")
WRONG_RUN = re.compile("[\x80-\xffŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]{2,}")
TAGS = (
    "p|br|div|span|b|i|u|em|strong|a|ul|ol|li|h[1-6]|table|tr|td|th|tbody|thead|img|font|center|script|"
    "style|blockquote|pre|hr|iframe|section|article|input|button"
)
HTML = re.compile(
    rf"</?(?:{TAGS})(?:\s[^<>]{{0,500}})?/?>|&(?:nbsp|amp|lt|gt|quot|apos|#\d{{2,6}}|#x[0-9a-f]{{2,5}});",
    re.IGNORECASE,
)
BREAK = re.compile(r"<(?:br|/p|/div|/li|/h[1-6]|/tr)\s{0,3}/?>", re.IGNORECASE)
MIN_REPEATED_CHARS = 20
# who asks for a translation wants another script
TRANSLATE = re.compile("translat|übersetz|tradu|перевед|перевод|翻訳|翻译|翻譯|번역", re.IGNORECASE)
EAST_ASIAN = {"Chinese", "Japanese"}


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """How long an example is for the model, and what of it `max_seq_len` cuts off.

    `learned` counts all of its learned tokens, `cut_learned` those of them that are cut off.
    """

    tokens: int
    cut_tokens: int
    learned: int
    cut_learned: int


Measure = Callable[[Example], TokenLengths]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One finding in one example: its kind and an excerpt that is safe to show."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """An example after its checks: what was found in it, what was mended, how long it is."""

    example: Example
    troubles: tuple[Trouble, ...] = ()
    mended: tuple[str, ...] = ()
    lengths: TokenLengths | None = None


def mend_wrong_encoding(text: str) -> str:
    """Turn runs such as "Ã©" back into the letters they were before a wrong decoding."""

    def redecode(run: re.Match[str]) -> str:
        try:
            raw = b"".join(_as_byte(character) for character in run[0])
            return raw.decode("utf-8")
        except UnicodeError:
            return run[0]

    return WRONG_RUN.sub(redecode, text)


def strip_html(text: str) -> str:
    """Remove tags and decode entities; what breaks a line in HTML breaks it in the text too."""
    return html.unescape(HTML.sub(_entity_only, BREAK.sub("\n", text)))


def remove_control(text: str) -> str:
    """Remove characters that show nothing and mean nothing to a model."""
    return CONTROL.sub("", text)


TEXT_CHECKS: dict[str, tuple[Callable[[str], bool], Callable[[str], str]]] = {
    "control_characters": (
        # the first question is by far the quicker one, and nearly always the last
        lambda text: not text.replace("\n", "").isprintable() and CONTROL.search(text) is not None,
        remove_control,
    ),
    "wrong_encoding": (
        lambda text: not text.isascii() and WRONG.search(text) is not None,
        mend_wrong_encoding,
    ),
    "html_remains": (
        lambda text: ("<" in text or "&" in text) and HTML.search(text) is not None,
        strip_html,
    ),
    "secrets": (lambda text: mask_secrets(text) is not text, mask_secrets),
    "personal_data": (lambda text: mask_personal(text) != text, mask_personal),
}


def check_example(
    example: Example, fixes: Collection[str], measure: Measure | None = None
) -> Checked:
    """Find what is wrong with one example; texts are mended where their fix is switched on."""
    joined = "\n".join([message.content for message in example.messages])
    troubles: list[Trouble] = []
    mended: list[str] = []
    for kind, (is_found, fix) in TEXT_CHECKS.items():
        if is_found(joined):
            troubles.append(Trouble(kind, _safe_excerpt(kind, joined)))
            if kind in fixes and (better := _mend(example, fix)) != example:
                example = better
                mended.append(kind)
    troubles += _relations(example)
    lengths = None if measure is None else measure(example)
    if lengths is not None:
        troubles += _cuts(lengths)
    return Checked(example, tuple(troubles), tuple(mended), lengths)


def _mend(example: Example, fix: Callable[[str], str]) -> Example:
    messages = tuple(Message(m.role, fix(m.content)) for m in example.messages)
    # a text that was nothing but tags is better kept than emptied
    return Example(messages) if all(m.content.strip() for m in messages) else example


def _relations(example: Example) -> Iterator[Trouble]:
    """Compare the last question with its answer."""
    messages = example.messages
    if len(messages) > 1 and messages[-1].role == "assistant":
        question, answer = messages[-2].content, messages[-1].content
    else:  # written or edited elsewhere: anything may follow the answer, nothing come before it
        question, answer = "\n".join(m.content for m in example.prompt[-1:]), example.reference
    stripped = answer.strip()
    # one Chinese character is a word: the category of letters without upper and lower case
    if len(stripped) == 1 and unicodedata.category(stripped) != "Lo":
        yield Trouble("one_character_answers", f"{question[:150]} -> {stripped}")
    if len(question) >= MIN_REPEATED_CHARS and question in answer:
        yield Trouble("answer_repeats_question", answer)
    elif len(stripped) >= MIN_REPEATED_CHARS and stripped in question:
        yield Trouble("question_holds_answer", question)
    if not (question.isascii() and answer.isascii()):
        asked, answered = scripts_of(question), scripts_of(answer)
        # Chinese characters alone may be Japanese, and names stay in their own script
        differ = asked and answered and not asked & answered
        if differ and {*asked, *answered} != EAST_ASIAN and not TRANSLATE.search(question):
            text = f"{asked.most_common(1)[0][0]} -> {answered.most_common(1)[0][0]}"
            yield Trouble("mixed_languages", f"{text}: {question[:80]}")


def _cuts(lengths: TokenLengths) -> Iterator[Trouble]:
    if lengths.cut_tokens:
        lost = f"{lengths.cut_learned:,} of the {lengths.learned:,} that are learned"
        text = f"{lengths.tokens:,} tokens, {lengths.cut_tokens:,} cut off, {lost}"
        yield Trouble("too_long", text)
    if lengths.learned == lengths.cut_learned:
        yield Trouble("nothing_learned", f"{lengths.tokens:,} tokens, none of them learned")


def _safe_excerpt(kind: str, text: str) -> str:
    """Cut out the place of a finding; secrets and personal data are masked in every excerpt."""
    pattern = {"control_characters": CONTROL, "wrong_encoding": WRONG, "html_remains": HTML}.get(
        kind
    )
    found = pattern.search(text) if pattern else None
    masked = mask_personal(mask_secrets(text))
    if found is None:
        at = masked.find("[")
        return masked[max(0, at - 60) :]
    if masked is not text:
        return masked
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[max(0, found.start() - 40) :])


def _entity_only(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("&") else ""


def _as_byte(character: str) -> bytes:
    code = ord(character)
    return bytes([code]) if code < 0x100 else character.encode("cp1252")
