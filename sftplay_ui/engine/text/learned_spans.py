"""Which characters of a rendered conversation are learned: every answer and the mark that ends it.

A template may trim, repeat or move what it is given, so nothing is searched for: the conversation
is rendered again with unique stand-ins for the answers, and the text is accepted only if its parts
put together give the real rendering, character by character. What cannot be proven is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.templates import ChatTemplate

Span = tuple[int, int]

# What templates do to an answer; each is tried, the rendering decides.
_TRIMS: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)


def learned_spans(messages: Sequence[Message], template: ChatTemplate) -> list[Span]:
    """Return the character spans of `template.render(messages)` that are learned, in order.

    A span starts where the generation prompt ends (the model must write all that follows) and
    ends after the end-of-turn mark. Raises TemplateError where the spans cannot be proven.
    """
    return spans_of(messages, template, template.render(messages))


def spans_of(messages: Sequence[Message], template: ChatTemplate, text: str) -> list[Span]:
    """Do the work of `learned_spans` for a conversation whose rendering is already at hand."""
    answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
    spans = _by_stand_ins(messages, answers, template, text)
    if spans is None:
        return _turn_by_turn(messages, answers, template, text)
    return [
        (_prompt_end(messages[:n], template, text, start), end)
        for n, (start, end) in zip(answers, spans, strict=True)
    ]


def _by_stand_ins(
    messages: Sequence[Message], answers: Sequence[int], template: ChatTemplate, text: str
) -> list[Span] | None:
    stand_ins = _unused_stand_ins(messages, len(answers))
    replaced = list(messages)
    for n, stand_in in zip(answers, stand_ins, strict=True):
        replaced[n] = replace(messages[n], content=stand_in)
    pieces = _cut(template.render(replaced), stand_ins)
    if pieces is None:
        return None
    spans: list[Span] = []
    position = len(pieces[0])
    if not text.startswith(pieces[0]):
        return None
    for n, piece in zip(answers, pieces[1:], strict=True):
        content = _as_rendered(messages[n].content, piece, text, position)
        if content is None:
            return None
        end = position + len(content)
        spans.append((position, end + len(_mark(piece, template))))
        position = end + len(piece)
    # every part was found in its place, so nothing else may follow
    return spans if position == len(text) else None


def _unused_stand_ins(messages: Sequence[Message], count: int) -> list[str]:
    contents = [message.content for message in messages]
    salt = 0
    # characters of private use, so templates neither trim nor know them; salted if a text has them
    while any(f"\ue000{salt}." in content for content in contents):
        salt += 1
    return [f"\ue000{salt}.{n}\ue001" for n in range(count)]


def _cut(text: str, stand_ins: Sequence[str]) -> list[str] | None:
    pieces = []
    for stand_in in stand_ins:
        piece, found, text = text.partition(stand_in)
        if not found or stand_in in text:
            return None
        pieces.append(piece)
    return [*pieces, text]


def _as_rendered(content: str, piece: str, text: str, position: int) -> str | None:
    for trim in _TRIMS:
        if text.startswith(trim(content) + piece, position):
            return trim(content)
    return None


def _mark(tail: str, template: ChatTemplate) -> str:
    if tail.startswith(template.turn_end.mark):
        return template.turn_end.mark
    # some templates end only the last turn with their mark; what follows the others is no mark
    return ""


def _prompt_end(
    before: Sequence[Message], template: ChatTemplate, text: str, answer_start: int
) -> int:
    try:
        prompt = template.render(before, add_generation_prompt=True)
    except TemplateError:
        # an answer that opens the conversation has no prompt in many templates
        return answer_start
    return len(prompt) if len(prompt) < answer_start and text.startswith(prompt) else answer_start


def _turn_by_turn(
    messages: Sequence[Message], answers: Sequence[int], template: ChatTemplate, text: str
) -> list[Span]:
    spans: list[Span] = []
    for n in answers:
        prompt = template.render(messages[:n], add_generation_prompt=True)
        upto = template.render(messages[: n + 1])
        tail = template.turn_end.mark + template.turn_end.rest
        if not (text.startswith(upto) and upto.startswith(prompt) and upto.endswith(tail)):
            raise TemplateError(
                f"{template.name} renders the answer in turn {n + 1} so that it cannot be told "
                "from the rest of the text.",
                "Choose another chat template, or look at the row in the Style tab.",
            )
        spans.append((len(prompt), len(upto) - len(template.turn_end.rest)))
    return spans
