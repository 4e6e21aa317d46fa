"""Lists of turns, in OpenAI's or ShareGPT's words, made into the messages of one example.

What was decided: turns of one role in a row are joined, a conversation begins with a question and
ends with an answer, tool turns are kept as text. Each of these is counted; what fits none is
refused with a reason.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sftplay_ui.engine.data.cells import text_of
from sftplay_ui.engine.data.examples import Message

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "instruction": "user",
    "question": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "answer": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
TOOL_RESULT = "Tool result:\n"


class RefusedRowError(Exception):
    """A row that cannot become an example: its kind, and a sentence why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turns:
    """The messages of one conversation and what had to be changed for them."""

    messages: tuple[Message, ...]
    changes: tuple[str, ...]


def read_turns(value: object) -> Turns:
    """Make messages of a list of turns; raise RefusedRowError with kind and reason."""
    if isinstance(value, str):
        value = _decoded(value)
    if not isinstance(value, list):
        raise RefusedRowError("wrong_type", "the conversation is no list of turns")
    if not value:
        raise RefusedRowError("no_turns", "the conversation has no turns")
    changes: list[str] = []
    messages = [_message(turn, n, changes) for n, turn in enumerate(value, start=1)]
    return Turns(_in_order(messages, changes), tuple(changes))


def _decoded(text: str) -> object:
    """Read a conversation that a table holds as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedRowError("wrong_type", "the conversation is no list of turns") from None


def _message(turn: object, number: int, changes: list[str]) -> Message:
    if not isinstance(turn, dict):
        raise RefusedRowError("wrong_type", f"turn {number} is not an object")
    name = turn.get("role", turn.get("from"))
    role = ROLE_NAMES.get(str(name).strip().lower())
    if role is None:
        raise RefusedRowError("unknown_role", f'turn {number} has the role "{name}"')
    text = _content(turn, number, changes)
    if not text.strip():
        raise RefusedRowError("empty_turn", f"turn {number} ({role}) is empty")
    if role == "tool":
        changes.append("tool_turn_as_text")
        return Message("user", TOOL_RESULT + text)
    return Message(role, text)


def _content(turn: Mapping[str, object], number: int, changes: list[str]) -> str:
    content = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
    if isinstance(content, list):
        content = _joined_parts(content, number)
    text, altered = ("", ()) if content is None else text_of(content)
    if text is None:
        raise RefusedRowError("wrong_type", f"turn {number} holds no text")
    changes.extend(altered)
    if calls := turn.get("tool_calls") or turn.get("function_call"):
        changes.append("tool_turn_as_text")
        written = json.dumps(calls, ensure_ascii=False, default=str)
        text = f"{text}\n{written}" if text.strip() else written
    return text


def _joined_parts(parts: Sequence[object], number: int) -> str:
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif not (isinstance(part, dict) and part.get("type") == "text"):
            kind = part.get("type", "?") if isinstance(part, dict) else type(part).__name__
            raise RefusedRowError("part_not_text", f'turn {number} holds a part of type "{kind}"')
    return "\n".join(texts)


def _in_order(messages: Sequence[Message], changes: list[str]) -> tuple[Message, ...]:
    """Join, begin and end as a chat template expects it; what is done is added to `changes`."""
    joined: list[Message] = []
    for role, run in itertools.groupby(messages, key=lambda message: message.role):
        texts = [message.content for message in run]
        joined.append(Message(role, "\n\n".join(texts)))
        changes.extend(["turns_joined"] * (len(texts) - 1))
    if any(message.role == "system" for message in joined[1:]):
        raise RefusedRowError("system_not_first", "a system turn stands inside the conversation")
    if all(message.role != "assistant" for message in joined):
        raise RefusedRowError("no_assistant_turn", "no assistant turn: nothing to learn from")
    begin = 1 if joined[0].role == "system" else 0
    if joined[begin].role == "assistant":
        changes.append("opening_answer_removed")
        del joined[begin]
    if joined and joined[-1].role != "assistant":
        changes.append("last_question_removed")
        del joined[-1]
    if len(joined) < begin + 2:
        raise RefusedRowError("no_question", "no question comes before the answer")
    return tuple(joined)
