"""A raw row, by a mapping, made into examples, or refused with a kind and a reason.

Reading is done before (`readers`), the mapping is found elsewhere (`shapes`); nothing here looks at
more than one row.
"""

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass

from sftplay_ui.engine.data.cells import kind_of, text_of
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.rows import MAX_CELL_CHARS
from sftplay_ui.engine.data.shapes import NESTED, RoleMapping
from sftplay_ui.engine.data.turns import RefusedRowError, read_turns

MISSING = object()


@dataclass(frozen=True, slots=True)
class Converted:
    """The examples of one row, and the kinds of change that were needed."""

    examples: tuple[Example, ...]
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that gives no example, and why."""

    kind: str
    reason: str


def convert(value: object, mapping: RoleMapping) -> Converted | Rejected:
    """Turn a row's value into examples by a mapping."""
    if not isinstance(value, dict):
        kind = "json_list_not_object" if isinstance(value, list) else "not_an_object"
        return Rejected(kind, f"the row is {kind_of(value)}, not an object")
    try:
        if "messages" in mapping.columns:
            result = _conversation(value, mapping.columns)
        else:
            result = _question(value, mapping.columns)
    except RefusedRowError as error:
        return Rejected(error.kind, error.reason)
    for example in result.examples:
        for message in example.messages:
            if len(message.content) > MAX_CELL_CHARS:
                reason = f"a text is longer than {MAX_CELL_CHARS:,} characters"
                return Rejected("text_too_long", reason)
    return result


def _conversation(row: Mapping[str, object], columns: Mapping[str, str]) -> Converted:
    value = _cell(row, columns["messages"])
    if value is MISSING:
        raise RefusedRowError("missing_messages_key", f'the row has no "{columns["messages"]}"')
    turns = read_turns(value)
    messages, changes = turns.messages, turns.changes
    if "system" in columns and messages[0].role != "system":
        system, altered = _optional(row, columns["system"])
        if system:
            messages, changes = (Message("system", system), *messages), (*changes, *altered)
    return Converted((Example(messages),), changes)


def _question(row: Mapping[str, object], columns: Mapping[str, str]) -> Converted:
    question, changes = _required(row, columns["user"], "question")
    if len(columns) > 2:
        before, question, altered = _around(row, columns, question)
        changes += altered
    else:
        before = ()
    answers = _answers(row, columns)
    examples = []
    for text, altered in answers:
        changes += altered
        turn = (Message("user", question), Message("assistant", text))
        examples.append(Example((*before, *turn)))
    if len(examples) > 1:
        changes += ("several_answers",)
    return Converted(tuple(examples), changes)


def _around(
    row: Mapping[str, object], columns: Mapping[str, str], question: str
) -> tuple[tuple[Message, ...], str, tuple[str, ...]]:
    """Add what stands around a question: system turn, context (Alpaca's input), options."""
    changes: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()
    if "system" in columns:
        system, changes = _optional(row, columns["system"])
        before = (Message("system", system),) if system else ()
    if "context" in columns:
        context, altered = _optional(row, columns["context"])
        question = f"{question}\n\n{context}" if context else question
        changes += altered
    if "options" in columns:
        listed = [f"{letter}. {text}" for letter, text in _options(row, columns["options"])]
        question = "\n".join([question + "\n", *listed]) if listed else question
    return before, question, changes


def _answers(
    row: Mapping[str, object], columns: Mapping[str, str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Give the answers of a row: one, or one per different text of a list."""
    value = _cell(row, columns["assistant"])
    if "options" in columns and value not in (MISSING, None, ""):
        return [_chosen(value, _options(row, columns["options"]))]
    if isinstance(value, dict):
        value = value.get("text", value.get("value", value))
    if not isinstance(value, list):
        return [_required(row, columns["assistant"], "answer", value)]
    texts = [text_of(item) for item in value]
    if any(text is None for text, _ in texts):
        raise RefusedRowError("wrong_type", "the list of answers holds more than texts")
    filled = {text: altered for text, altered in texts if text and text.strip()}
    if not filled:
        raise RefusedRowError("empty_answer", "the list of answers is empty")
    return list(filled.items())


def _options(row: Mapping[str, object], column: str) -> list[tuple[str, str]]:
    """Read the options of a question as (letter, text)."""
    value = _cell(row, column)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels, value = value.get("label"), value["text"]
    elif isinstance(value, dict):
        labels, value = list(value), list(value.values())
    else:
        labels = None
    if value in (MISSING, None):
        return []
    if not isinstance(value, list):
        raise RefusedRowError("wrong_type", "the options are no list")
    letters = [str(label) for label in labels] if isinstance(labels, list) else []
    named = itertools.chain(letters, string.ascii_uppercase[len(letters) :])
    texts = [text_of(item)[0] for item in value]
    if any(text is None for text in texts):
        raise RefusedRowError("wrong_type", "the options hold more than texts")
    return [(letter, text or "") for letter, text in zip(named, texts, strict=False)]


def _chosen(value: object, options: list[tuple[str, str]]) -> tuple[str, tuple[str, ...]]:
    """Write out the right option, given by its letter, its number from 0, or its text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RefusedRowError("wrong_type", "the answer names no option")
    wanted = str(value).strip()
    for number, (letter, text) in enumerate(options):
        if wanted in (letter, text.strip()) or (isinstance(value, int) and value == number):
            return f"{letter}. {text}", ()
    if isinstance(value, int) or (wanted.isdigit() and len(options) > int(wanted)):
        if 0 <= int(wanted) < len(options):
            letter, text = options[int(wanted)]
            return f"{letter}. {text}", ()
        raise RefusedRowError("no_such_option", f"the answer {wanted} is no option")
    return wanted, ("answer_is_no_option",)


def _required(
    row: Mapping[str, object], column: str, name: str, value: object = MISSING
) -> tuple[str, tuple[str, ...]]:
    value = _cell(row, column) if value is MISSING else value
    if type(value) is str and value.isascii():  # by far the most, so asked first
        text: str | None = value
        changes: tuple[str, ...] = ()
    elif value is MISSING:
        raise RefusedRowError(f"missing_{name}_key", f'the row has no "{column}"')
    elif value is None:
        raise RefusedRowError(f"null_{name}", f'"{column}" is null')
    else:
        text, changes = text_of(value)
        changes = tuple(f"numeric_{name}" if c == "number_as_text" else c for c in changes)
    if text is None:
        raise RefusedRowError("wrong_type", f'"{column}" is {kind_of(value)}, not text')
    if not text:
        raise RefusedRowError(f"empty_{name}", f'"{column}" is empty')
    if text.isspace():
        raise RefusedRowError(f"whitespace_{name}", f'"{column}" holds only white space')
    return text, changes


def _optional(row: Mapping[str, object], column: str) -> tuple[str, tuple[str, ...]]:
    value = _cell(row, column)
    if value is MISSING or value is None:
        return "", ()
    text, changes = text_of(value)
    if text is None:
        raise RefusedRowError("wrong_type", f'"{column}" is {kind_of(value)}, not text')
    return ("", changes) if text.isspace() else (text, changes)


def _cell(row: Mapping[str, object], column: str) -> object:
    if column in row:
        return row[column]
    outer, dot, inner = column.partition(NESTED)
    nested = row.get(outer) if dot else None
    return nested.get(inner, MISSING) if isinstance(nested, dict) else MISSING
