"""A JSON document read value by value from a stream, in bounded memory and with line numbers."""

import json
import re
from typing import TextIO

from sftplay_ui.engine.data.rows import MAX_LINE_CHARS

CHUNK_CHARS = 2**20
SPACE = re.compile(r"[ \t\n\r\ufeff]*")
NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")
FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')
# what the decoder says when the text simply ends too early, wherever it then points
UNTERMINATED = "Unterminated string"
DECODER = json.JSONDecoder()


class PieceError(Exception):
    """A value that cannot be read: the kind of damage, and a sentence about it."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class JsonPieces:
    """A cursor over JSON text; `line` is where it stands, `last_text` the last value as written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._ended = False
        self._begin_of_object = NEXT_OBJECT
        self.line = 1
        self.last_text = ""

    def peek(self) -> str:
        """Skip white space and return the next character, "" at the end of the file."""
        while True:
            end = SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            self._move(end)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def peek_second(self) -> str:
        """Return the first character after the next one that is not white space."""
        self.peek()
        while True:
            end = SPACE.match(self._text, self._at + 1).end()  # type: ignore[union-attr]
            if end < len(self._text) or not self._more():
                return self._text[end : end + 1]

    def take(self, character: str) -> None:
        """Step over the character that `peek` showed."""
        self._move(self._at + len(character))

    def value(self) -> object:
        """Read the next value and step over it; raise PieceError where it is broken."""
        value, end = self._decode()
        self.last_text = self._text[self._at : end]
        if self._begin_of_object is NEXT_OBJECT and (key := FIRST_KEY.match(self.last_text)):
            # objects of one list begin alike, and the objects inside them do not
            begin = rf',\s*(?=\{{\s*"{re.escape(key[1])}"\s*:)'
            self._begin_of_object = re.compile(begin)
        self._move(end)
        return value

    def peek_inside(self) -> object:
        """Read the first value inside the opened list without stepping anywhere."""
        return self._decode(skip=1)[0]

    def skip_to_next_object(self) -> bool:
        """Step to the next object of the list that this broken value stands in, if there is one."""
        while True:
            found = self._begin_of_object.search(self._text, self._at + 1)
            if found:
                self._move(found.end())
                return True
            # what was searched is dropped, but for the longest beginning that may still be cut
            self._move(max(self._at, len(self._text) - 200))
            if not self._more():
                return False

    def _decode(self, *, skip: int = 0) -> tuple[object, int]:
        self.peek()
        while True:
            start = SPACE.match(self._text, self._at + skip).end()  # type: ignore[union-attr]
            try:
                value, end = DECODER.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                self._read_on_or_raise(error)
                continue
            except RecursionError:
                raise PieceError("nested_too_deep", "the value is nested too deeply") from None
            except ValueError:
                raise PieceError("broken_json", "a number has too many digits") from None
            # a number at the very end of what was read may go on in the next piece
            if end < len(self._text) or not self._more():
                return value, end

    def _read_on_or_raise(self, error: json.JSONDecodeError) -> None:
        """Read more text if that is what was missing; otherwise say what is broken."""
        # literals such as `true` and escapes may be cut up to a dozen characters before the end
        at_end = error.pos >= len(self._text) - 12 or error.msg.startswith(UNTERMINATED)
        if not at_end or self._ended:
            kind = "truncated_json" if at_end else "broken_json"
            line = self.line + self._text.count("\n", self._at, error.pos)
            raise PieceError(kind, f"not JSON: {error.msg} (line {line})") from None
        if len(self._text) - self._at > MAX_LINE_CHARS:
            reason = f"the value is longer than {MAX_LINE_CHARS:,} characters"
            raise PieceError("line_too_long", reason) from None
        self._more()

    def _more(self) -> bool:
        """Append the next piece; what lies behind the cursor is forgotten. False at the end."""
        if self._ended:
            return False
        # a value that does not fit yet is read in doubling pieces, so long ones stay linear
        wanted = max(CHUNK_CHARS, len(self._text) - self._at)
        piece = self._stream.read(wanted)
        self._ended = len(piece) < wanted
        self._text = self._text[self._at :] + piece
        self._at = 0
        return bool(piece)

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to
