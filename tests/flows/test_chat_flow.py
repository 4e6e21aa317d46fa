"""Chat with a real worker: both sides, a stop, a killed worker, and nothing left behind."""

import pytest

from sftplay_ui.engine.chat_session import ChatSession
from sftplay_ui.engine.config import GenerateConfig, RunConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import AdapterError, WorkerLostError
from sftplay_ui.engine.events import ConfigResolved
from tests.tuned import build_adapter

QUESTION = [Message("user", "Who wrote this book? 🙂")]
SHORT = GenerateConfig(max_new_tokens=8)
LONG = GenerateConfig(max_new_tokens=1900)


def test_one_worker_answers_for_both_sides_and_stops_when_asked(workspace, tiny_llama):
    build_adapter(workspace, tiny_llama)
    config = RunConfig.model_validate(
        {"model": {"name": str(tiny_llama)}, "chat": {"run": "tuned"}}
    )
    with ChatSession.open(config, workspace) as session:
        heard = []
        session.wait_ready(heard.append)
        assert any(isinstance(event, ConfigResolved) for event in heard)
        tuned = "".join(session.answer(QUESTION, "tuned", SHORT))
        assert "Who wrote this book? 🙂<|im_end|>" in session.prompt
        assert session.stats.tokens == 8
        base = "".join(session.answer(QUESTION, "base", SHORT))
        assert tuned != base
        pieces = session.answer(QUESTION, "tuned", LONG)
        first = next(pieces)
        session.stop()
        rest = list(pieces)
        assert session.stats.stopped
        assert 0 < session.stats.tokens < 1900
        assert "".join([first, *rest])
        assert session.run.log_path.read_text() == ""
    assert not session.run.folder.exists()


def test_a_killed_worker_is_told_and_the_next_session_opens(workspace, tiny_llama):
    build_adapter(workspace, tiny_llama)
    config = RunConfig.model_validate({"model": {"name": str(tiny_llama)}})
    session = ChatSession.open(config, workspace)
    pieces = session.answer(QUESTION, "tuned", LONG)
    next(pieces)
    session.run.kill()
    with pytest.raises(WorkerLostError, match="without saying why"):
        list(pieces)
    session.close()
    assert session.run.folder.exists()
    with ChatSession.open(config, workspace) as again:
        assert list(again.answer(QUESTION, "base", SHORT))


def test_a_chat_with_an_adapter_that_is_not_there_says_so(workspace, tiny_llama):
    config = RunConfig.model_validate({"model": {"name": str(tiny_llama)}, "chat": {"run": "nope"}})
    with pytest.raises(AdapterError, match="no adapter called 'nope'"):
        ChatSession.open(config, workspace)
