"""What a model learns from: one conversation, or one rendered pair of input and target.

These types travel between all parts, and `read_examples` reads the three kinds of JSON lines that
lie in `data/processed` and `data/rendered`. Guessing foreign shapes is left to `shapes`, opening
foreign files to `readers`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.atomic_file import finish_swaps
from sftplay_ui.engine.errors import DataError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation with at least one assistant turn."""

    messages: tuple[Message, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, object], *, place: str = "The example") -> "Example":
        """Read `{"system"?, "user", "assistant"}` or `{"messages": [{"role", "content"}, ...]}`.

        An empty or null `system` beside `user` means none. `place` (`file:line`) opens the sentence
        of a DataError.
        """
        if "messages" in record:
            messages = _read_messages(record["messages"], place)
        else:
            messages = _read_one_turn(record, place)
        if not any(message.role == "assistant" for message in messages):
            raise DataError(
                f"{place} has no assistant turn, so there is nothing to learn from it.",
                "Add an answer, or leave the example out.",
            )
        return cls(messages)

    def to_record(self) -> dict[str, object]:
        """Return the shortest record that `from_record` reads back to an equal example."""
        roles = [message.role for message in self.messages]
        if roles == ["user", "assistant"] or (
            # an empty system turn is not none: some templates add a line where there is none
            roles == ["system", "user", "assistant"] and self.messages[0].content
        ):
            return {message.role: message.content for message in self.messages}
        return {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}

    @property
    def system(self) -> str | None:
        """The text of the leading system turn, None where the conversation starts without one."""
        first = self.messages[0]
        return first.content if first.role == "system" else None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last assistant turn: what a model is asked."""
        return self.messages[: self._last_answer()]

    @property
    def reference(self) -> str:
        """The text of the last assistant turn."""
        return self.messages[self._last_answer()].content

    def _last_answer(self) -> int:
        return max(n for n, message in enumerate(self.messages) if message.role == "assistant")


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """A pair that needs no template any more: `target` is learned, `input` is not."""

    input: str
    target: str

    @classmethod
    def from_record(
        cls, record: Mapping[str, object], *, place: str = "The example"
    ) -> "RenderedExample":
        """Read `{"input", "target"}`; raise DataError where one of them is no text."""
        return cls(_text(record, "input", place), _text(record, "target", place))

    def to_record(self) -> dict[str, object]:
        """Return the record that `from_record` reads back."""
        return {"input": self.input, "target": self.target}


def read_examples(path: Path) -> Iterator[Example | RenderedExample]:
    """Stream the examples of a processed or rendered JSON lines file; blank lines are skipped.

    A set that was being replaced when its writer was killed is put in place first. Raises DataError
    with `file:line` at the first line that is none of the three kinds.
    """
    try:
        finish_swaps(path.parent)
        # utf-8-sig: files edited on Windows begin with a mark that is no part of the first line
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _read_line(line, f"{path}:{number}")
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.",
            "Process a file in the Data tab first, or correct the path.",
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}).",
            "Import it in the Data tab, which converts it.",
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", "Choose a readable file."
        ) from None


def _read_line(line: str, place: str) -> Example | RenderedExample:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place} is not valid JSON: {error}.",
            "Correct the line, or process the source file again.",
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f"{place} is a JSON {type(record).__name__}, not an object.",
            'Write one object a line, such as {"user": "...", "assistant": "..."}.',
        )
    if "messages" not in record and "input" in record and "target" in record:
        return RenderedExample.from_record(record, place=place)
    return Example.from_record(record, place=place)


def _read_messages(value: object, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{place}: messages is not a list of turns.",
            'Write {"messages": [{"role": "user", "content": "..."}, ...]}.',
        )
    return tuple(
        _read_message(turn, f"{place}: messages[{number}]") for number, turn in enumerate(value)
    )


def _read_message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{place} is not an object.", "Give every turn a role and a content.")
    role = _text(turn, "role", place)
    if role not in ROLES:
        raise DataError(f'{place} has the role "{role}".', f"Use one of {', '.join(ROLES)}.")
    return Message(role, _text(turn, "content", place))


def _read_one_turn(record: Mapping[str, object], place: str) -> tuple[Message, ...]:
    turn = (
        Message("user", _text(record, "user", place)),
        Message("assistant", _text(record, "assistant", place)),
    )
    if record.get("system") in (None, ""):
        return turn
    return (Message("system", _text(record, "system", place)), *turn)


def _text(record: Mapping[str, object], key: str, place: str) -> str:
    if key not in record:
        found = ", ".join(str(name) for name in list(record)[:8]) or "nothing"
        raise DataError(
            f"{place} has no {key} (found: {found}).",
            "Import the file in the Data tab, where columns can be mapped.",
        )
    value = record[key]
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {key} is {json.dumps(value)[:60]}, not text.",
            f"Write {key} as text in quotes.",
        )
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(
            f"{place}: {key} holds half a character (a lone surrogate), which no model can read.",
            "Correct the text at its source, or import the file in the Data tab.",
        )
    return value
