"""The one conversation of a window and the model it is with: both outlive the page that shows them.

A loaded model holds the device. Whoever starts another job asks the room to give way first; the
model is then loaded again with the next question.
"""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sftplay_ui.engine.chat_session import AnswerStats, ChatSession, Side
from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.errors import DataError, SFTPlayError
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace

GAVE_WAY = (
    "The model was put away because another job needed the device. "
    "It is loaded again with your next question, once that job is done."
)
CORRECTIONS = "corrections.jsonl"


@dataclass
class Exchange:
    """A question and the answers of the sides that were asked."""

    question: str
    answers: dict[Side, str] = field(default_factory=dict)
    prompts: dict[Side, str] = field(default_factory=dict)
    stats: dict[Side, AnswerStats] = field(default_factory=dict)


class ChatRoom:
    """Holds at most one session; every method may be called from any thread."""

    def __init__(
        self,
        workspace: Workspace,
        configure: Callable[[str], RunConfig],
        standby: Standby | None = None,
    ) -> None:
        self.workspace = workspace
        self.configure = configure
        self.standby = standby
        self.session: ChatSession | None = None
        self.model = ""
        self.exchanges: list[Exchange] = []
        self.note = ""
        self.stopped = False
        self.lock = threading.RLock()

    @property
    def is_open(self) -> bool:
        """Tell whether a model is loaded, or on its way."""
        return self.session is not None and self.session.is_alive()

    def open(self, model: str) -> ChatSession:
        """Give the session with a model: the one there is, or a new one.

        Raises DeviceBusyError, naming the run, where another job holds the device.
        """
        with self.lock:
            if self.session is not None and self.is_open and self.model == model:
                return self.session
            if self.model != model:
                self.exchanges = []
            self.close()
            self.session, self.model = (
                ChatSession.open(self.configure(model), self.workspace, self.standby),
                model,
            )
            self.note = ""
            return self.session

    def close(self) -> None:
        """Put the model away; the conversation stays."""
        with self.lock:
            session, self.session = self.session, None
            if session is not None:
                session.close()

    def give_way(self) -> None:
        """Free the device for another job."""
        if self.is_open:
            self.stop()
            self.close()
            self.note = GAVE_WAY

    def stop(self) -> None:
        """Stop the answer that is being written."""
        self.stopped = True
        session = self.session
        if session is not None:
            session.stop()

    def ask(
        self,
        question: str,
        sides: tuple[Side, ...],
        system: str,
        generate: GenerateConfig,
    ) -> Iterator[Exchange]:
        """Ask every side in turn; yield the exchange whenever it has grown."""
        session = self.session
        if session is None:
            raise DataError("No model is loaded.", "Choose a model and ask again.")
        self.stopped = False
        exchange = Exchange(question)
        self.exchanges.append(exchange)
        yield exchange
        try:
            for side in sides:
                if self.stopped:
                    break
                messages = self.messages(side, system)
                exchange.answers[side] = ""
                for piece in session.answer(messages, side, generate):
                    exchange.answers[side] += piece
                    exchange.prompts[side] = session.prompt
                    yield exchange
                if session.stats is not None:
                    exchange.stats[side] = session.stats
        except SFTPlayError:
            # nothing was answered: the question goes back where it came from
            if not any(exchange.answers.values()):
                self.exchanges.remove(exchange)
            raise
        yield exchange

    def messages(self, side: Side, system: str) -> list[Message]:
        """Give the conversation as one side knows it: with its own earlier answers."""
        found = [Message("system", system)] if system else []
        for exchange in self.exchanges[:-1]:
            answer = exchange.answers.get(side)
            if answer:
                found += [Message("user", exchange.question), Message("assistant", answer)]
        return [*found, Message("user", self.exchanges[-1].question)]

    def take_back(self) -> str:
        """Remove the last exchange and give its question; DataError where there is none."""
        if not self.exchanges:
            raise DataError("Nothing was asked yet.", "Type a question and press Send.")
        return self.exchanges.pop().question

    def keep_correction(self, answer: str, system: str) -> Path:
        """Append the last question with a person's own answer to the corrections file."""
        if not self.exchanges:
            raise DataError("Nothing was asked yet.", "Type a question and press Send.")
        if not answer.strip():
            raise DataError(
                "The corrected answer is empty.", "Write the answer it should have given."
            )
        messages = [*self.messages("tuned", system), Message("assistant", answer.strip())]
        path = self.workspace.data / "raw" / CORRECTIONS
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            record = Example(tuple(messages)).to_record()
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return path
