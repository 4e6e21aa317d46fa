"""Text that marks its turns by words: "Q: ... A: ...", in several languages, over several lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from sftplay_ui.engine.data.encodings import UNDECODED, numbered_lines
from sftplay_ui.engine.data.header_words import ASSISTANT, USER
from sftplay_ui.engine.data.rows import BrokenRow, Place, RawRow, Row

# a French or German "Q"/"F" is as common as a whole word
USER_MARKS = ("f", "p", "в", *USER)
ASSISTANT_MARKS = ("r", "о", *ASSISTANT)


def _marks(words: tuple[str, ...]) -> str:
    return "|".join(sorted({re.escape(w.replace("_", " ")) for w in words}, key=len, reverse=True))


TURN = re.compile(
    rf"\s*(?:\*\*)?(?:(?P<user>{_marks(USER_MARKS)})|(?P<assistant>{_marks(ASSISTANT_MARKS)}))"
    r"\s*\d{0,4}\s*(?:\*\*)?\s*[:：](?:\*\*)?\s*(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)


def looks_like_questions(text: str) -> bool:
    """Tell whether a text begins with a marked question that an answer follows."""
    turns = [found for line in text.splitlines() if (found := TURN.match(line))]
    roles = ["user" if found["user"] else "assistant" for found in turns[:2]]
    first = next((line for line in text.splitlines() if line.strip()), "")
    return roles == ["user", "assistant"] and TURN.match(first) is not None


def read_questions(path: Path, encoding: str) -> Iterator[Row]:
    """Stream one question/answer row per marked pair; a question without an answer is broken."""
    row: dict[str, str] = {}
    current, begin = "", 1
    for number, line in numbered_lines(path, encoding):
        found = TURN.match(line or "")
        if found and found["user"]:
            if row:
                yield _row(Place(path, begin), row)
            row, current, begin = {"question": found["text"]}, "question", number
        elif found and current == "question":
            current = "answer"
            row[current] = found["text"]
        elif line is None:
            yield BrokenRow(Place(path, number), "line_too_long", "the line is too long")
        elif current:
            row[current] += line
        elif line.strip():
            reason = "the line stands before the first question"
            yield BrokenRow(Place(path, number), "above_header", reason)
    if row:
        yield _row(Place(path, begin), row)


def _row(place: Place, row: dict[str, str]) -> Row:
    if "answer" not in row:
        return BrokenRow(place, "missing_answer", "the question has no answer")
    if any(UNDECODED.search(text) for text in row.values()):
        return BrokenRow(place, "undecodable", "the text holds bytes that are not UTF-8")
    return RawRow(place, {role: text.strip() for role, text in row.items()})
