"""Talk to a model that lives in a worker process: the end of the pipes that asks.

The window and the command line use it; it knows no torch. The protocol is described in the worker's
`chat`. A session is a run as well: its folder holds the log, and goes when the session ends well.
"""

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import SFTPlayError, WorkerLostError
from sftplay_ui.engine.events import Event, EventReader, RunFailed
from sftplay_ui.engine.run_queue import starting
from sftplay_ui.engine.runs import Run, open_run
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace

Side = Literal["base", "tuned"]
POLL_SECONDS = 0.2
CLOSE_SECONDS = 10.0


class ChatError(SFTPlayError):
    """What the worker could not do, in its own words and with its own code."""

    def __init__(self, code: str, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.code = code


@dataclass(frozen=True)
class AnswerStats:
    """How an answer went: tokens written, seconds, and whether it was stopped by the person."""

    tokens: int
    seconds: float
    stopped: bool

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class ChatSession:
    """One loaded model to talk to; one answer at a time, from any thread."""

    def __init__(self, run: Run, process: "subprocess.Popen[str]") -> None:
        self.run = run
        self.process = process
        self.system = ""
        self.prompt = ""
        self.stats: AnswerStats | None = None
        self.ready = False
        self.last_id = 0
        self.answering = threading.Lock()
        self.writing = threading.Lock()
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        # read all the time, so that the worker never waits for a page that went away
        self.collector = threading.Thread(target=self.collect, daemon=True)
        self.collector.start()

    @classmethod
    def open(
        cls, config: RunConfig, workspace: Workspace, standby: Standby | None = None
    ) -> "ChatSession":
        """Start a worker for `chat.run`; DeviceBusyError where another run holds the device."""
        job = config.model_copy(update={"job": "chat", "run_name": "auto"})
        with starting(workspace):
            return cls(*open_run(job, workspace, pipes=True, standby=standby))

    def collect(self) -> None:
        """Take in what the worker sends until its pipe ends."""
        for line in self.process.stdout or ():
            # a worker that is killed leaves half a line
            with suppress(ValueError):
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def wait_ready(self, on_event: Callable[[Event], None] = lambda _: None) -> None:
        """Return when the model is loaded; `on_event` hears what happens until then.

        Raises the worker's own error where it cannot load, WorkerLostError where it died.
        """
        reader = EventReader(self.run.events_path)
        while not self.ready:
            for event in reader.read_new():
                on_event(event)
            try:
                line = self.lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                self.lines.put(None)
                raise self.failure()
            self.ready = bool(line.get("ready"))
            self.system = str(line.get("system", ""))
        # what it told between the last look and the word that it is ready
        for event in reader.read_new():
            on_event(event)

    def answer(
        self, messages: Sequence[Message], side: Side, generate: GenerateConfig
    ) -> Iterator[str]:
        """Ask, and yield the answer piece by piece; `prompt` and `stats` tell more about it.

        A conversation without a system turn gets the adapter's own (`system`); an empty one asks
        for none. Leaving the loop early stops the answer. Raises what the worker reports.
        """
        self.wait_ready()
        with self.answering:
            self.last_id += 1
            number, done = self.last_id, False
            self.prompt, self.stats = "", None
            self.send(
                {
                    "id": number,
                    "do": "answer",
                    "messages": [asdict(message) for message in messages],
                    "side": side,
                    "generate": generate.model_dump(),
                }
            )
            try:
                for line in self.lines_of(number):
                    if "text" in line:
                        yield line["text"]
                    elif "prompt" in line:
                        self.prompt = line["prompt"]
                    else:
                        done = True
                        self.stats = read_end(line)
            finally:
                if not done:
                    self.stop()

    def lines_of(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the lines of one answer up to its last; those of one left early are passed over."""
        while True:
            line = self.lines.get()
            if line is None:
                self.lines.put(None)
                raise self.failure()
            if line.get("id") != number:
                continue
            yield line
            if "done" in line or "error" in line:
                return

    def stop(self) -> None:
        """Stop the answer that is being written; what was written stays."""
        if self.is_alive():
            self.send({"do": "stop", "id": self.last_id})

    def is_alive(self) -> bool:
        """Tell whether the worker lives."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the worker and remove the session's folder; after a failure the folder stays."""
        if self.is_alive():
            self.send({"do": "quit"})
        try:
            self.process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.run.kill()
        self.collector.join(CLOSE_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        if self.run.state() in ("finished", "stopped"):
            shutil.rmtree(self.run.folder, ignore_errors=True)

    def __enter__(self) -> "ChatSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, record: dict[str, Any]) -> None:
        """Write one line to the worker; WorkerLostError where it is gone."""
        with self.writing:
            try:
                if self.process.stdin is not None:
                    # plain ASCII, whatever encoding the worker's system reads with
                    self.process.stdin.write(json.dumps(record) + "\n")
                    self.process.stdin.flush()
            except (BrokenPipeError, ValueError):
                raise self.failure() from None

    def failure(self) -> SFTPlayError:
        """Say why the worker is gone: its own last words, or that it said none."""
        # the pipe ends a moment before the process does
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_SECONDS)
        for event in reversed(self.run.events()):
            if isinstance(event, RunFailed):
                return ChatError(event.code, event.what, event.fix)
        log = self.run.workspace.shorten(self.run.log_path)
        return WorkerLostError(
            "The chat's worker ended without saying why.",
            f"Open the chat again; if it happens again, look into {log}.",
        )


def read_end(line: dict[str, Any]) -> AnswerStats:
    """Read the last line of an answer; raise the error it carries, if any."""
    if "error" in line:
        raise ChatError(**line["error"])
    return AnswerStats(line["tokens"], line["seconds"], line["stopped"])
