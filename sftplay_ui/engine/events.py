"""The record of a run: typed events, one JSON object a line in `events.jsonl`.

The worker appends, everybody else reads: the window, the command line, TensorBoard and the tests
see the same story. A reader keeps its place in the file, skips kinds and fields it does not know,
and leaves a torn last line for the next look.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.choices import Choice

RESERVE_BYTES = 64 * 1024
Phase = Literal[
    "download", "load", "tokenise", "probe", "train", "evaluate", "generate", "save", "merge"
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened in a run; `time` is Unix seconds, stamped when it is written."""

    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    job: str
    versions: Mapping[str, str]
    device: str


@dataclass(frozen=True, kw_only=True)
class ConfigResolved(Event):
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event):
    """A phase begins; `total` counts its units (bytes, examples, steps), 0 where unknown."""

    phase: Phase
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class PhaseProgressed(Event):
    done: int


@dataclass(frozen=True, kw_only=True)
class StepLogged(Event):
    """One optimizer update; `tokens` and `learned_tokens` are those of the step."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    learned_tokens: int
    tokens_per_second: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class EvaluationLogged(Event):
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SampleGenerated(Event):
    """A text the model wrote; `source` is "base" or "tuned"."""

    step: int
    source: str
    prompt: str
    reference: str
    text: str


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    step: int
    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    code: str
    what: str


@dataclass(frozen=True, kw_only=True)
class RateSuggested(Event):
    """What a range test suggests, and its curve: rates tried, loss against the untuned model's."""

    learning_rate: float
    what: str
    rates: Sequence[float]
    losses: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """The run goes on from `step`; later steps and evaluations that were told are taken back."""

    step: int
    evaluated: int


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    step: int


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    code: str
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The job is done; `adapter` is the folder it leaves behind ("" where it leaves none)."""

    step: int
    adapter: str
    seconds: float


KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RunStarted,
        ConfigResolved,
        PhaseStarted,
        PhaseProgressed,
        StepLogged,
        EvaluationLogged,
        SampleGenerated,
        CheckpointSaved,
        Warned,
        RateSuggested,
        RunResumed,
        RunStopped,
        RunFailed,
        RunFinished,
    )
}


# what a value of a plain type may come as; JSON writes 2.0 as it is, and people write 2
PLAIN: Mapping[Any, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,)}


def encode(event: Event) -> str:
    """Write an event as one line of JSON; NaN and infinity become null (JSON has neither)."""
    return json.dumps({"event": type(event).__name__, **finite(asdict(event))}, ensure_ascii=False)


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold by None, all the way down."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def decode(line: str) -> Event | None:
    """Read one line; None for a kind this version does not know or a line that is no event."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    kind = KINDS.get(str(record.get("event"))) if isinstance(record, dict) else None
    if kind is None:
        return None
    known = {f.name: f for f in fields(kind)}
    values = {name: value for name, value in record.items() if name in known}
    for name, value in values.items():
        expected = known[name].type
        if value is None and expected is float:
            values[name] = math.nan
        elif expected in PLAIN and not isinstance(value, PLAIN[expected]):
            return None
    missing = {n for n, f in known.items() if n not in values and n not in {"time", "total"}}
    if missing:
        return None
    try:
        if kind is ConfigResolved:
            values["choices"] = tuple(Choice(**choice) for choice in values["choices"])
    except TypeError:
        return None
    return kind(**values)


class EventWriter:
    """Append events to a run's file, each as one whole line, visible to readers at once.

    A little room on the disk is held in reserve, so that a run can still say that the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        drop_torn_tail(path)
        self.file = path.open("a", encoding="utf-8")
        self.reserve = path.with_name(".reserve")
        self.reserve.write_bytes(b"\1" * RESERVE_BYTES)

    def write(self, event: Event) -> Event:
        """Stamp the time, append the line, and give back the event as written."""
        stamped = replace(event, time=time.time())
        self.file.write(encode(stamped) + "\n")
        self.file.flush()
        return stamped

    def sync(self) -> None:
        """Make sure that what was written survives a power cut."""
        os.fsync(self.file.fileno())

    def cut_back(self, resumed: RunResumed) -> None:
        """Take back what a resumed run does again; see `cut_back`."""
        self.file.close()
        cut_back(self.path, resumed.step, resumed.evaluated)
        self.file = self.path.open("a", encoding="utf-8")

    def free_reserve(self) -> None:
        """Give back the room held for the last words."""
        self.reserve.unlink(missing_ok=True)

    def close(self) -> None:
        """Make sure of what was written, and leave nothing else behind."""
        self.sync()
        self.file.close()
        self.free_reserve()


class EventReader:
    """Follow a run's file from the start; every look gives what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.generation = 0
        self.inode = 0

    def read_new(self) -> list[Event]:
        """Give the events since the last look, in order; a torn last line waits.

        A file that was replaced (a resume cut it back) is read again from its start, and
        `generation` grows, which is how a follower notices.
        """
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if self.inode not in (0, inode):
                    self.offset = 0
                    self.generation += 1
                self.inode = inode
                file.seek(self.offset)
                block = file.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self.offset += len(whole)
        # split("\n"), since splitlines() would also cut at U+2028 inside a text
        found = (decode(line) for line in whole.decode("utf-8", "replace").split("\n"))
        return [event for event in found if event is not None]


def drop_torn_tail(path: Path) -> None:
    """Cut an unfinished last line (its writer died) so that the next event starts a line."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def cut_back(path: Path, step: int, evaluated: int | None = None) -> None:
    """Forget what a run logged after `step` (evaluations: after `evaluated`) and how it ended.

    A resumed run does all that again. Phases and warnings carry no step: those after a forgotten
    step go with it. The file is replaced in one move.
    """
    last_evaluated = step if evaluated is None else evaluated
    kept = []
    forgetting = False
    for line in path.read_text(encoding="utf-8").split("\n"):
        match decode(line):
            case None | RunStopped() | RunFailed() | RunFinished():
                continue
            case RunStarted() | RunResumed():
                forgetting = False
            case EvaluationLogged(step=at) | SampleGenerated(step=at):
                forgetting = at > last_evaluated
            case StepLogged(step=at) | CheckpointSaved(step=at):
                forgetting = at > step
        if not forgetting:
            kept.append(line)
    staged = path.with_suffix(".staged")
    staged.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    staged.replace(path)
