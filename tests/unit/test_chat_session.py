"""The asking end of the chat, against a small script that speaks the worker's side."""

import subprocess
import sys
import textwrap

import pytest

from sftplay_ui.engine.chat_session import ChatError, ChatSession
from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import WorkerLostError
from sftplay_ui.engine.events import EventWriter, PhaseStarted, RunFailed, RunFinished
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace

QUESTION = [Message("user", "Wer? 🙂")]
GENERATE = GenerateConfig()
PRELUDE = """
import json, sys
def say(**record): print(json.dumps(record), flush=True)
def hear(): return json.loads(sys.stdin.readline() or '{"do": "quit"}')
"""
ECHO = """
say(ready=True, system="Be brief.")
while (asked := hear())["do"] == "answer":
    say(id=asked["id"], prompt="<" + asked["messages"][-1]["content"] + ">")
    for piece in (asked["side"], " ", "answer"):
        say(id=asked["id"], text=piece)
    say(id=asked["id"], done=True, tokens=3, seconds=0.5, stopped=False)
"""


@pytest.fixture
def talk_to(workspace: Workspace):
    sessions = []

    def start(script: str) -> ChatSession:
        folder = workspace.outputs / "chat-x"
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        sessions.append(ChatSession(Run(folder), process))
        return sessions[-1]

    yield start
    for session in sessions:
        session.process.kill()
        session.close()


def write_event(session, event):
    writer = EventWriter(session.run.events_path)
    writer.write(event)
    writer.close()


def test_pieces_come_as_they_are_sent_with_prompt_and_stats(talk_to):
    session = talk_to(ECHO)
    assert list(session.answer(QUESTION, "base", GENERATE)) == ["base", " ", "answer"]
    assert session.prompt == "<Wer? 🙂>"
    assert (session.stats.tokens, session.stats.tokens_per_second) == (3, 6)
    assert session.system == "Be brief."
    assert "".join(session.answer(QUESTION, "tuned", GENERATE)) == "tuned answer"


def test_loading_is_told_event_by_event(talk_to):
    session = talk_to("import time; time.sleep(0.3); say(ready=True)")
    write_event(session, PhaseStarted(phase="load"))
    heard = []
    session.wait_ready(heard.append)
    assert [type(event) for event in heard] == [PhaseStarted]


def test_what_is_told_right_before_it_is_ready_is_heard(talk_to, monkeypatch):
    session = talk_to("say(ready=True)")
    take = session.lines.get

    def tell_and_take(timeout):
        line = take(timeout=10)
        write_event(session, PhaseStarted(phase="load"))
        return line

    monkeypatch.setattr(session.lines, "get", tell_and_take)
    heard = []
    session.wait_ready(heard.append)
    assert [type(event) for event in heard] == [PhaseStarted]


def test_an_error_of_the_worker_keeps_its_code_and_the_chat_goes_on(talk_to):
    session = talk_to(
        """
        say(ready=True)
        say(id=hear()["id"], error={"code": "data", "what": "Too long.", "fix": "Shorten it."})
        number = hear()["id"]
        say(id=number, text="yes")
        say(id=number, done=True, tokens=1, seconds=1, stopped=False)
        """
    )
    with pytest.raises(ChatError, match=r"Too long\. Shorten it\.") as caught:
        list(session.answer(QUESTION, "base", GENERATE))
    assert caught.value.code == "data"
    assert list(session.answer(QUESTION, "base", GENERATE)) == ["yes"]


def test_an_answer_left_early_is_stopped_and_the_next_is_its_own(talk_to):
    session = talk_to(
        """
        say(ready=True)
        first = hear()["id"]
        say(id=first, prompt="p")
        say(id=first, text="old")
        stop = hear()
        assert stop == {"do": "stop", "id": first}
        second = hear()["id"]
        say(id=first, text="late")
        say(id=first, done=True, tokens=2, seconds=1, stopped=True)
        say(id=second, text="new")
        say(id=second, done=True, tokens=1, seconds=1, stopped=False)
        """
    )
    pieces = session.answer(QUESTION, "base", GENERATE)
    assert next(pieces) == "old"
    pieces.close()
    assert list(session.answer(QUESTION, "base", GENERATE)) == ["new"]


def test_a_worker_that_dies_in_an_answer_is_reported_as_lost(talk_to):
    session = talk_to(
        """
        say(ready=True)
        say(id=hear()["id"], text="half")
        sys.stdout.write('{"id": 1, "te'); sys.stdout.flush()
        """
    )
    pieces = session.answer(QUESTION, "base", GENERATE)
    assert next(pieces) == "half"
    with pytest.raises(WorkerLostError, match=r"worker\.log"):
        next(pieces)
    with pytest.raises(WorkerLostError):
        list(session.answer(QUESTION, "base", GENERATE))


def test_a_worker_that_fails_to_load_tells_why(talk_to):
    session = talk_to("hear()")
    write_event(session, RunFailed(code="adapter", what="No adapter.", fix="Train one."))
    session.process.kill()
    for _ in range(2):
        with pytest.raises(ChatError, match=r"No adapter\. Train one\."):
            session.wait_ready()


def test_a_clean_end_removes_the_folder_and_a_failure_keeps_it(talk_to):
    session = talk_to(ECHO)
    session.wait_ready()
    write_event(session, RunFinished(step=0, adapter="", seconds=1))
    session.close()
    assert not session.run.folder.exists()
    session = talk_to("hear()")
    write_event(session, RunFailed(code="adapter", what="No adapter.", fix="Train one."))
    session.close()
    assert session.run.folder.exists()
