"""The chat job: answer over pipes, with the base model or the tuned one, until told to quit.

One JSON object a line. In: `{"id", "do": "answer", "messages", "side", "generate"}`,
`{"do": "stop", "id"}`, `{"do": "quit"}`; the end of the input means quit. Out: `{"ready": true,
"system"}` once, then for each answer `{"id", "prompt"}`, `{"id", "text"}` as it is written and
`{"id", "done", "tokens", "seconds", "stopped"}`, or `{"id", "error": {"code", "what", "fix"}}`.
The other end is `chat_session`.
"""

import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import ValidationError

from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import ConfigError, DataError, DeviceMemoryError, SFTPlayError
from sftplay_ui.engine.events import (
    ConfigResolved,
    Event,
    PhaseStarted,
    RunFinished,
    RunStopped,
)
from sftplay_ui.engine.runs import stop_requested
from sftplay_ui.engine.text.tokens import text_ids
from sftplay_ui.engine.worker.phases import StopRequested
from sftplay_ui.engine.worker.scoring.sides import Side, Sides, find_pair
from sftplay_ui.engine.worker.writing.decoding import (
    Conversation,
    EncodedConversation,
    conversation_with,
)
from sftplay_ui.engine.worker.writing.generate import Limits, stream, text_pieces

# how long an idle worker takes to notice that its run was asked to stop
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Request:
    """One question, read and checked."""

    id: int
    messages: tuple[Message, ...]
    side: Side
    sampling: GenerateConfig


@dataclass
class Inbox:
    """What came in: questions wait in line, a stop counts at once, in the middle of an answer."""

    waiting: "queue.Queue[dict[str, Any] | None]" = field(default_factory=queue.Queue)
    stopped: set[int] = field(default_factory=set)
    closed: bool = False

    def listen(self, stdin: TextIO) -> None:
        """Read requests until the input ends or says quit; runs in a thread of its own."""
        for line in stdin:
            record = read_record(line)
            if record.get("do") == "quit":
                break
            if record.get("do") == "stop":
                self.stopped.add(record.get("id", -1))
            else:
                self.waiting.put(record)
        self.closed = True
        self.waiting.put(None)


def chat(config: RunConfig, run_dir: Path, stdin: TextIO, stdout: TextIO) -> Iterator[Event]:
    """Load the pair, then answer what is asked; the events tell the loading and the end."""
    started = time.monotonic()
    inbox = Inbox()
    threading.Thread(target=inbox.listen, args=(stdin,), daemon=True).start()
    try:
        pair = yield from find_pair(config.chat.run, config, run_dir)
    except StopRequested:
        yield RunStopped(step=0)
        return
    yield PhaseStarted(phase="load")
    talk = Talk(Sides(pair), inbox, run_dir, stdout)
    yield ConfigResolved(choices=talk.sides.choices)
    talk.sides.load("tuned" if pair.adapter else "base")
    talk.send({"ready": True, "system": pair.adapter.system if pair.adapter else ""})
    yield PhaseStarted(phase="generate")
    answered = talk.answer_all()
    if stop_requested(run_dir):
        yield RunStopped(step=answered)
    else:
        yield RunFinished(step=answered, adapter="", seconds=time.monotonic() - started)


class Talk:
    """A loaded pair that answers; each side remembers the text it has read."""

    def __init__(self, sides: Sides, inbox: Inbox, run_dir: Path, stdout: TextIO) -> None:
        self.sides = sides
        self.inbox = inbox
        self.run_dir = run_dir
        self.stdout = stdout
        self.conversations: dict[Side, Conversation | EncodedConversation] = {}

    def send(self, record: dict[str, Any]) -> None:
        """Write one line; the other end sees it at once."""
        try:
            self.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
            self.stdout.flush()
        except BrokenPipeError:
            # nobody listens any more: as good as a quit
            self.inbox.closed = True

    def answer_all(self) -> int:
        """Answer until the input ends or the run is asked to stop; give the number of answers."""
        answered = 0
        while not (self.inbox.closed or stop_requested(self.run_dir)):
            try:
                record = self.inbox.waiting.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if record is None:
                break
            try:
                self.answer(read_request(record))
                answered += 1
            except SFTPlayError as error:
                facts = {"code": error.code, "what": error.what, "fix": error.fix}
                self.send({"id": record.get("id"), "error": facts})
        return answered

    def answer(self, request: Request) -> None:
        """Answer one question, piece by piece."""
        started = time.monotonic()
        pair = self.sides.pair
        prompt = pair.prompt(request.messages)
        self.send({"id": request.id, "prompt": prompt})
        count = 0
        try:
            for token_count, piece in self.write(request, prompt):
                count = token_count
                if piece:
                    self.send({"id": request.id, "text": piece})
        except torch.OutOfMemoryError:
            self.conversations.clear()
            raise DeviceMemoryError(
                f"The memory does not suffice to answer a text of {len(prompt)} characters.",
                "Start a new conversation, or choose a smaller model.",
            ) from None
        self.send(
            {
                "id": request.id,
                "done": True,
                "tokens": count,
                "seconds": round(time.monotonic() - started, 4),
                "stopped": self.is_stopped(request),
            }
        )

    def write(self, request: Request, prompt: str) -> Iterator[tuple[int, str]]:
        """Yield (tokens so far, new text) for each token."""
        pair = self.sides.pair
        ids = text_ids(prompt, pair.template, pair.tokeniser)
        limits = Limits(pair.eos_ids, request.sampling, lambda: self.is_stopped(request))
        with self.sides.asking(request.side) as model:
            conversation = self.conversations.setdefault(request.side, conversation_with(model))
            if limits.room(model, ids) < 1:
                raise DataError(
                    f"The conversation has {len(ids)} tokens, more than the model can read.",
                    "Start a new conversation, or shorten this one.",
                )
            counter = Counted(stream(conversation, ids, limits=limits))
            decode = partial(pair.tokeniser.decode, skip_special=True)
            for piece in text_pieces(counter, decode):
                yield counter.count, piece
            yield counter.count, ""

    def is_stopped(self, request: Request) -> bool:
        """Tell whether this answer is not wanted any more."""
        return request.id in self.inbox.stopped or self.inbox.closed or stop_requested(self.run_dir)


class Counted:
    """An iterator that knows how much it has given."""

    def __init__(self, source: Iterator[int]) -> None:
        self.source = source
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        for item in self.source:
            self.count += 1
            yield item


def read_record(line: str) -> dict[str, Any]:
    """Read one line; what is no JSON object becomes a question that cannot be answered."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def read_request(record: dict[str, Any]) -> Request:
    """Check a question; DataError or ConfigError says what is wrong with it."""
    turns = record.get("messages")
    if record.get("do") != "answer" or not isinstance(turns, list) or not turns:
        raise DataError("The chat was sent something that is no question.", "Ask again.")
    if record.get("side") not in ("base", "tuned"):
        raise DataError(f"There is no side {record.get('side')!r}.", "Ask base or tuned.")
    try:
        sampling = GenerateConfig.model_validate(record.get("generate", {}))
        messages = tuple(Message(str(turn["role"]), str(turn["content"])) for turn in turns)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"generate.{name}: {problem['msg']}.", "Change that setting.") from None
    except (KeyError, TypeError):
        raise DataError("A turn of the chat has no role or no content.", "Ask again.") from None
    return Request(int(record["id"]), messages, record["side"], sampling)
