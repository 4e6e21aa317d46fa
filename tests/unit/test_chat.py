"""The chat job: the protocol line by line, both sides, a stop in the middle of an answer."""

import json
import os
import threading
from pathlib import Path

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.events import RunFinished, RunStopped
from sftplay_ui.engine.worker.chat import chat
from sftplay_ui.engine.workspace import Workspace
from tests.tuned import build_adapter


class Worker:
    """The job in a thread, between two pipes."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        questions, self.ask = os.pipe()
        self.hear, answers = os.pipe()
        self.events = []
        self.stdin, self.stdout = os.fdopen(questions), os.fdopen(answers, "w")
        self.ask, self.hear = os.fdopen(self.ask, "w"), os.fdopen(self.hear)
        self.thread = threading.Thread(target=self.run, args=(config, run_dir))
        self.thread.start()

    def run(self, config, run_dir):
        self.events += chat(config, run_dir, self.stdin, self.stdout)
        self.stdout.close()

    def send(self, **record):
        self.ask.write(json.dumps(record) + "\n")
        self.ask.flush()

    def line(self):
        return json.loads(self.hear.readline())

    def answer(self, **record):
        self.send(**{"do": "answer", "side": "tuned", "generate": {"max_new_tokens": 8}, **record})
        lines = [self.line()]
        while not {"done", "error"} & lines[-1].keys():
            lines.append(self.line())
        return lines

    def close(self):
        self.ask.close()
        self.thread.join()
        self.hear.close()
        self.stdin.close()


@pytest.fixture
def run_dir(workspace: Workspace) -> Path:
    folder = workspace.outputs / "chat-tuned"
    folder.mkdir()
    return folder


@pytest.fixture
def worker(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    worker = Worker(RunConfig.model_validate({"job": "chat", "train": {"bf16": False}}), run_dir)
    yield worker
    worker.close()


def text(lines):
    return "".join(line.get("text", "") for line in lines)


QUESTION = [{"role": "user", "content": "Who?"}]


def test_an_answer_is_the_prompt_its_pieces_and_the_end(worker):
    assert worker.line() == {"ready": True, "system": ""}
    lines = worker.answer(id=7, messages=QUESTION)
    assert {line["id"] for line in lines} == {7}
    assert lines[0]["prompt"] == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert text(lines)
    assert (lines[-1]["tokens"], lines[-1]["stopped"]) == (8, False)


def test_the_sides_answer_differently_and_the_same_again(worker):
    worker.line()
    tuned = text(worker.answer(id=1, messages=QUESTION))
    base = text(worker.answer(id=2, messages=QUESTION, side="base"))
    assert tuned != base
    assert text(worker.answer(id=3, messages=QUESTION)) == tuned
    assert text(worker.answer(id=4, messages=QUESTION, side="base")) == base


def test_a_stop_ends_an_answer_that_is_being_written(worker):
    worker.line()
    endless = {"max_new_tokens": 2000, "repetition_penalty": 1.0}
    worker.send(id=1, do="answer", messages=QUESTION, side="tuned", generate=endless)
    lines = [worker.line(), worker.line()]
    worker.send(do="stop", id=1)
    while "done" not in lines[-1]:
        lines.append(worker.line())
    assert lines[-1]["stopped"]
    assert 0 < lines[-1]["tokens"] < 2000
    assert not worker.answer(id=2, messages=QUESTION)[-1]["stopped"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"generate": {"temperature": -1}}, "config", "generate.temperature"),
        ({"generate": {"warmth": 1}}, "config", "generate.warmth"),
        ({"side": "both"}, "data", "'both'"),
        ({"messages": []}, "data", "no question"),
        ({"messages": [{"role": "user"}]}, "data", "no role or no content"),
        ({"do": "dance"}, "data", "no question"),
        ({"messages": [{"role": "user", "content": "x " * 4000}]}, "data", "more than the model"),
    ],
)
def test_a_wrong_question_is_answered_with_what_and_fix(worker, change, code, words):
    worker.line()
    error = worker.answer(**{"id": 1, "messages": QUESTION, **change})[-1]["error"]
    assert error["code"] == code
    assert words in error["what"]
    assert error["fix"]
    assert text(worker.answer(id=2, messages=QUESTION))


def test_the_end_of_the_input_ends_the_job(worker):
    worker.line()
    worker.answer(id=1, messages=QUESTION)
    worker.close()
    assert isinstance(worker.events[-1], RunFinished)
    assert worker.events[-1].step == 1


def test_quit_ends_the_job(worker):
    worker.line()
    worker.send(do="quit")
    worker.thread.join()
    assert isinstance(worker.events[-1], RunFinished)


def test_a_stop_of_the_run_ends_the_job(worker, run_dir):
    worker.line()
    (run_dir / "stop").touch()
    worker.thread.join()
    assert isinstance(worker.events[-1], RunStopped)


def test_the_adapters_system_prompt_is_used_unless_another_is_given(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama, system="Be brief.")
    worker = Worker(RunConfig.model_validate({"job": "chat", "train": {"bf16": False}}), run_dir)
    assert worker.line()["system"] == "Be brief."
    given = {"role": "system", "content": "Be long."}
    none = {"role": "system", "content": ""}
    prompts = [
        worker.answer(id=1, messages=[*first, *QUESTION])[0]["prompt"]
        for first in ([], [given], [none])
    ]
    worker.close()
    assert "Be brief." in prompts[0]
    assert "Be long." in prompts[1]
    assert "Be brief." not in prompts[1]
    assert "system" not in prompts[2]
