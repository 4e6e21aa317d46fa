"""The first pass of processing: every row read, converted, checked and written to one staging file.

Of each example only hashes and a few numbers stay in memory (about 60 bytes), so a million rows
need no more than some dozen megabytes. Judging the set as a whole is left to `doctor` and `split`.
"""

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from sftplay_ui.engine.data.convert import Rejected, convert
from sftplay_ui.engine.data.edits import Edits
from sftplay_ui.engine.data.examples import Example
from sftplay_ui.engine.data.marks import EDITED, MARKS, mark_of
from sftplay_ui.engine.data.near import Texts
from sftplay_ui.engine.data.row_checks import Measure, TokenLengths, check_example
from sftplay_ui.engine.data.rows import BrokenRow, Place, Row, Source
from sftplay_ui.engine.data.scripts import main_script
from sftplay_ui.engine.data.shapes import RoleMapping
from sftplay_ui.engine.data.split import bare_question, hash_text, plain_question
from sftplay_ui.engine.data.tally import Occurrence, Tally, excerpt

EXAMPLES_NAME = "examples.jsonl"
QUESTIONS_NAME = "questions.txt"
REPORT_EVERY = 2000
# a file whose first million rows give no example at all is not read to its end
FRUITLESS_ROWS = 1_000_000
UNSIGNED = 2**64 - 1
UNMEASURED = TokenLengths(0, 0, 0, 0)
# findings that decide about a single example, so that their fix leaves it out
ROW_DROPS = (
    "one_character_answers",
    "answer_repeats_question",
    "question_holds_answer",
    "too_long",
    "nothing_learned",
    "mixed_languages",
)


@dataclass(frozen=True, slots=True)
class Input:
    """A raw file that is open, and the mapping its rows are read by."""

    source: Source
    mapping: RoleMapping


@dataclass(frozen=True, slots=True)
class Columns:
    """What is remembered of every example, one entry each, in the order of the staging file."""

    length: "array[int]" = field(default_factory=lambda: array("I"))
    question: "array[int]" = field(default_factory=lambda: array("Q"))
    prompt: "array[int]" = field(default_factory=lambda: array("Q"))
    answer: "array[int]" = field(default_factory=lambda: array("Q"))
    record: "array[int]" = field(default_factory=lambda: array("Q"))
    question_bytes: "array[int]" = field(default_factory=lambda: array("I"))
    chars: "array[int]" = field(default_factory=lambda: array("I"))
    line: "array[int]" = field(default_factory=lambda: array("Q"))
    file: "array[int]" = field(default_factory=lambda: array("H"))
    marks: "array[int]" = field(default_factory=lambda: array("I"))
    # 0 where nothing was measured: kept and learned tokens, and whether an answer loses its end
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    learned: "array[int]" = field(default_factory=lambda: array("I"))
    cut: "array[int]" = field(default_factory=lambda: array("B"))


@dataclass(slots=True)
class Staged:
    """Everything after the first pass: the staging files, the columns and the counts."""

    folder: Path
    inputs: Sequence[Input]
    columns: Columns = field(default_factory=Columns)
    rows: int = 0
    rows_of_file: Counter[int] = field(default_factory=Counter)
    dropped: Tally = field(default_factory=Tally)
    changed: Tally = field(default_factory=Tally)
    found: Tally = field(default_factory=Tally)
    scripts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.columns.length)

    @property
    def examples_path(self) -> Path:
        return self.folder / EXAMPLES_NAME

    def place(self, row: int) -> Place:
        """Tell where an example came from."""
        file = self.inputs[self.columns.file[row]].source.path
        return Place(file, self.columns.line[row])

    def numbers(self, name: str, kind: type[Any]) -> npt.NDArray[Any]:
        """Give a column as a NumPy array, sharing its memory."""
        return np.frombuffer(getattr(self.columns, name), kind)

    def questions(self) -> Texts:
        """Give the plain questions of all examples for comparison."""
        lengths = self.numbers("question_bytes", np.uint32).astype(np.int64)
        return Texts(self.folder / QUESTIONS_NAME, np.cumsum(lengths) - lengths, lengths)

    def occurrences(
        self, rows: Sequence[int], firsts: Sequence[int] = ()
    ) -> tuple[Occurrence, ...]:
        """Show a few examples by their places and questions; `firsts` are the ones they repeat."""
        starts = np.cumsum(self.numbers("length", np.uint32), dtype=np.int64)
        shown: list[Occurrence] = []
        with self.examples_path.open("rb") as stream:
            for row, first in itertools.zip_longest(rows, firsts):
                stream.seek(int(starts[row]) - self.columns.length[row])
                record = orjson.loads(stream.read(self.columns.length[row]))
                example = Example.from_record(record)
                asked = "".join(message.content for message in example.prompt[-1:])
                like = "" if first is None else f"like {self.place(first)}: "
                text = f"{like}{asked[:300]} -> {example.reference}"
                shown.append(Occurrence(str(self.place(row)), excerpt(text)))
        return tuple(shown)


OnRows = Callable[[int], None]


def stage(
    inputs: Sequence[Input],
    folder: Path,
    *,
    fixes: Collection[str] = (),
    measure: Measure | None = None,
    on_rows: OnRows | None = None,
    edits: Edits | None = None,
) -> Staged:
    """Read all rows of all inputs into the staging folder; return what was counted."""
    staged = Staged(folder, inputs)
    with _Writer(staged, fixes, measure, edits or Edits()) as writer:
        for number, given in enumerate(inputs):
            for row in given.source.rows():
                writer.add(row, number)
                if staged.rows >= FRUITLESS_ROWS and not len(staged):
                    return staged
                if on_rows is not None and staged.rows % REPORT_EVERY == 0:
                    on_rows(staged.rows)
    return staged


class _Writer(AbstractContextManager["_Writer"]):
    """Takes rows and appends examples to the staging files."""

    def __init__(
        self, staged: Staged, fixes: Collection[str], measure: Measure | None, edits: Edits
    ) -> None:
        self._staged = staged
        self._fixes = frozenset(fixes)
        self._measure = measure
        self._edits = edits
        self._edits_wait = len(edits) > 0
        self._examples: BinaryIO = staged.examples_path.open("wb", buffering=2**20)
        self._questions: BinaryIO = (staged.folder / QUESTIONS_NAME).open("wb", buffering=2**20)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._examples.close()
        self._questions.close()

    def add(self, row: Row, file: int) -> None:
        """Convert one row, check its examples and write them, or count why not."""
        staged = self._staged
        staged.rows += 1
        staged.rows_of_file[file] += 1
        if isinstance(row, BrokenRow):
            if row.mended is None:
                staged.dropped.add(row.kind, row.place, row.reason)
                return
            staged.found.add("broken_lines", row.place, row.reason)
            if "broken_lines" not in self._fixes:
                staged.dropped.add(row.kind, row.place, row.reason)
                return
            staged.changed.add(row.kind, row.place, row.reason)
            value = row.mended
        else:
            value = row.value
            for change in row.changes:
                staged.changed.add(change, row.place, "")
        result = convert(value, staged.inputs[file].mapping)
        if isinstance(result, Rejected):
            staged.dropped.add(result.kind, row.place, result.reason)
            return
        for change in result.changes:
            staged.changed.add(change, row.place, result.examples[0].reference)
        for example in result.examples:
            self._add_example(example, row.place, file)

    def _add_example(self, example: Example, place: Place, file: int) -> None:
        checked = check_example(example, self._fixes, self._measure)
        mark = 0
        line = record_line(checked.example)
        if self._edits_wait and (edited := self._edits.take(line)) is not None:
            if not edited:
                self._staged.dropped.add("deleted_by_hand", place, example.reference)
                return
            line = edited
            # what was mended here is mended already: only what is found now counts
            checked = check_example(Example.from_record(orjson.loads(line)), (), self._measure)
            self._staged.changed.add("edited_by_hand", place, checked.example.reference)
            mark = MARKS[EDITED]
        for trouble in checked.troubles:
            self._staged.found.add(trouble.kind, place, trouble.text)
        for kind in checked.mended:
            self._staged.changed.add(kind, place, "")
        if checked.troubles:
            mark |= mark_of({trouble.kind for trouble in checked.troubles} - {*checked.mended})
        self._staged.columns.marks.append(mark)
        self._measured(checked.lengths or UNMEASURED)
        self._write(checked.example, line, place, file)

    def _measured(self, lengths: TokenLengths) -> None:
        columns = self._staged.columns
        columns.tokens.append(lengths.tokens - lengths.cut_tokens)
        columns.learned.append(lengths.learned - lengths.cut_learned)
        columns.cut.append(lengths.cut_learned > 0)

    def _write(self, example: Example, record: bytes, place: Place, file: int) -> None:
        columns = self._staged.columns
        asked, answer = _texts(example)
        question = plain_question(asked)
        spooled = bare_question(question)
        name = hash_text(question)
        system = example.system
        self._examples.write(record)
        self._questions.write(spooled)
        columns.length.append(len(record))
        columns.question.append(name)
        # what is only compared within this pass needs no hash that other machines agree on
        columns.prompt.append(hash(f"{system}\n{question}") & UNSIGNED if system else name)
        columns.answer.append(hash(" ".join(answer.split())) & UNSIGNED)
        columns.record.append(hash(record) & UNSIGNED)
        columns.question_bytes.append(len(spooled))
        columns.chars.append(len(asked) + len(answer))
        columns.line.append(place.line)
        columns.file.append(file)
        self._staged.scripts[main_script(answer) or "no letters"] += 1


def _texts(example: Example) -> tuple[str, str]:
    """Give all that is asked and all that is answered."""
    messages = example.messages
    if len(messages) == 2 and messages[0].role == "user":
        return messages[0].content, messages[1].content
    asked = [message.content for message in messages if message.role == "user"]
    answered = [message.content for message in messages if message.role == "assistant"]
    return "\n".join(asked), "\n".join(answered)


def record_line(example: Example) -> bytes:
    """Write an example as the line that `process` writes."""
    return orjson.dumps(example.to_record()) + b"\n"


def staged_lines(staged: Staged) -> Iterator[bytes]:
    """Stream the records of the staging file in order."""
    with staged.examples_path.open("rb", buffering=2**20) as stream:
        yield from stream
