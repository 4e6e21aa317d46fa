"""Chat's handlers, against a small script that speaks the worker's side of the pipes."""

import json
import subprocess
import sys

import pytest

from sftplay_ui.engine.chat_session import ChatSession
from sftplay_ui.engine.errors import DataError, DeviceBusyError
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.chat_room import GAVE_WAY
from sftplay_ui.tabs.chat_tab import BASE, ChatTab

SAMPLING = [200, 0.0, 1.0, 0, 1.0, 42]
WORKER = """
import json, sys
def say(**record): print(json.dumps(record), flush=True)
say(ready=True, system="")
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "quit": break
    if asked["do"] != "answer": continue
    number, turns = asked["id"], asked["messages"]
    say(id=number, prompt="<prompt of %s>" % asked["side"])
    if "fail" in turns[-1]["content"]:
        say(id=number, error={"code": "model", "what": "It broke.", "fix": "Mend it."})
        continue
    say(id=number, text="<b>" + asked["side"])
    say(id=number, text=" heard %d turns" % len(turns))
    say(id=number, done=True, tokens=2, seconds=0.5, stopped=False)
"""


@pytest.fixture
def tab(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    opened = []

    def open_session(_config, workspace, _standby):
        folder = workspace.outputs / f"chat-{len(opened)}"
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        opened.append(ChatSession(Run(folder), process))
        return opened[-1]

    monkeypatch.setattr(ChatSession, "open", open_session)
    chat = ChatTab(workspace, LiveRuns(workspace))
    chat.configure = chat.room.configure = lambda _model: None
    chat.opened = opened
    yield chat
    for session in opened:
        session.process.kill()
        session.close()


def send(tab: ChatTab, text: str, side: str = "both", model: str = "capitals", system: str = ""):
    return list(tab.send(text, model, side, system, *SAMPLING))


def test_both_sides_answer_the_same_question(tab: ChatTab) -> None:
    said, text, prompts, note = send(tab, "Why?")[-1]
    assert "&lt;b&gt;tuned heard 1 turns" in said
    assert "&lt;b&gt;base heard 1 turns" in said
    assert "&lt;prompt of base&gt;" in prompts
    assert (text, note) == ("", "")


def test_the_first_question_says_that_the_model_is_loading(tab: ChatTab) -> None:
    assert "Loading the model" in send(tab, "Why?")[0][3]
    assert "Loading the model" not in send(tab, "And?")[0][3]


def test_each_side_hears_its_own_earlier_answers(tab: ChatTab) -> None:
    send(tab, "Why?")
    said = send(tab, "And?", side="base", system="Be brief.")[-1][0]
    assert "base heard 4 turns" in said


def test_the_base_model_alone_is_never_asked_for_a_tuned_side(tab: ChatTab) -> None:
    said = send(tab, "Why?", model=BASE)[-1][0]
    assert "tuned heard" not in said


def test_the_conversation_outlives_the_page(tab: ChatTab) -> None:
    send(tab, "Why?")
    model, said, _, state = tab.refresh()
    assert "Why?" in said
    assert "capitals is loaded" in state
    assert model is not None


def test_another_model_begins_a_new_conversation(tab: ChatTab) -> None:
    send(tab, "Why?")
    said = send(tab, "And?", model="other")[-1][0]
    assert "Why?" not in said
    assert len(tab.opened) == 2


def test_a_failure_leaves_the_question_typed(tab: ChatTab) -> None:
    said, text, _, note = send(tab, "please fail")[-1]
    assert text == "please fail"
    assert "It broke." in note
    assert "please fail" not in said


def test_a_busy_device_is_named_and_the_question_stays(
    tab: ChatTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_model):
        raise DeviceBusyError("capitals is using the cpu device.", "Wait until it is done.")

    monkeypatch.setattr(tab.room, "open", busy)
    _, text, _, note = send(tab, "Why?")[-1]
    assert text == "Why?"
    assert "capitals is using" in note


def test_an_empty_question_is_not_sent(tab: ChatTab) -> None:
    assert "There is no question." in send(tab, "  ")[-1][3]
    assert tab.opened == []


def test_sampling_settings_are_checked(tab: ChatTab) -> None:
    *_, note = list(tab.send("Why?", "capitals", "both", "", *[0, *SAMPLING[1:]]))[-1]
    assert "max_new_tokens" in note


def test_retry_asks_again_and_edit_takes_the_question_back(tab: ChatTab) -> None:
    send(tab, "Why?")
    list(tab.retry("typed meanwhile", "capitals", "tuned", "", *SAMPLING))
    assert [one.question for one in tab.room.exchanges] == ["Why?"]
    assert tab.edit()[0] == "Why?"
    assert tab.room.exchanges == []


def test_taking_back_what_was_never_asked_says_so(tab: ChatTab) -> None:
    with pytest.raises(DataError, match="Nothing was asked"):
        tab.edit()


def test_another_job_gets_the_device_and_the_page_says_so(tab: ChatTab) -> None:
    send(tab, "Why?")
    for give_way in tab.live.make_room:
        give_way()
    assert not tab.room.is_open
    assert GAVE_WAY in tab.state_note()
    assert "Why?" in tab.shown()[0]


def test_a_corrected_answer_becomes_a_row(tab: ChatTab) -> None:
    send(tab, "Why?")
    assert "corrections.jsonl" in tab.keep(" Because. ", "Be brief.")
    line = (tab.workspace.data / "raw" / "corrections.jsonl").read_text("utf-8")
    assert json.loads(line) == {"system": "Be brief.", "user": "Why?", "assistant": "Because."}


def test_an_empty_correction_is_refused(tab: ChatTab) -> None:
    send(tab, "Why?")
    with pytest.raises(DataError, match="empty"):
        tab.keep(" ", "")
