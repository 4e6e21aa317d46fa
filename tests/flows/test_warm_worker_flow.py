"""Runs taken by a worker that waited: the same as of a fresh one, and the window may die."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sftplay_ui.engine.chat_session import ChatSession
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.events import RunFinished, RunStopped, StepLogged
from sftplay_ui.engine.runs import Run, list_runs, resume_run, start_run
from sftplay_ui.engine.warm_worker import Standby
from tests.flows.test_chat_flow import QUESTION, SHORT
from tests.training import adapter_bytes, config_for, of_kind, write_examples
from tests.tuned import build_adapter

ROOT = Path(__file__).parents[2]
# a window that keeps a worker, and gives it the run it is told of
WINDOW = """
import sys, time
from pathlib import Path
from sftplay_ui.engine.config_file import load_config
from sftplay_ui.engine.runs import start_run
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace
standby = Standby()
standby.start()
print(standby.worker.process.pid, flush=True)
standby.worker.ready.wait()
workspace = Workspace(Path(sys.argv[1]))
run = start_run(load_config(workspace.root / "run.yaml", (), workspace).config, workspace, standby)
print(run.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    shutil.copytree(ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)
    yield workspace
    for run in list_runs(workspace):
        run.kill()


@pytest.fixture
def standby():
    kept = Standby()
    yield kept
    kept.close()


def warm(standby: Standby) -> "subprocess.Popen[str]":
    """Start the worker that waits; in the test itself, since pytest changes the environment."""
    standby.start()
    assert standby.worker.ready.wait(60)
    return standby.worker.process


def wait_for(run: Run, kind: type):
    return next(event for event in run.follow(poll_seconds=0.05) if isinstance(event, kind))


def test_a_run_outlives_the_window_whose_waiting_worker_it_got(tiny_llama, workspace):
    config = config_for(tiny_llama, epochs=8, lora={"dropout": 0.1})
    (workspace.root / "run.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    command = [sys.executable, "-c", WINDOW, str(workspace.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as window:
        worker = psutil.Process(int(window.stdout.readline()))
        run = Run(Path(window.stdout.readline().strip()))
        assert run.worker().pid == worker.pid
        if sys.platform == "linux":
            assert os.getsid(worker.pid) == worker.pid
            ends = [Path(f"/proc/{worker.pid}/fd/{n}").resolve() for n in (0, 2)]
            assert ends == [Path(os.devnull), run.log_path]
        window.kill()
    assert isinstance([*run.follow(0.05)][-1], RunFinished), run.log_path.read_text()
    assert run.log_path.read_text() == ""
    again = start_run(config.model_copy(update={"run_name": "fresh"}), workspace)
    assert isinstance([*again.follow(0.05)][-1], RunFinished)
    losses = [[e.loss for e in of_kind(each.events(), StepLogged)] for each in (run, again)]
    assert losses[0] == losses[1]
    assert adapter_bytes(workspace, run.name) == adapter_bytes(workspace, "fresh")


def test_a_run_taken_by_it_is_stopped_resumed_and_killed_like_any_other(
    tiny_llama, workspace, standby
):
    waiting = warm(standby)
    run = start_run(config_for(tiny_llama, epochs=400), workspace, standby)
    assert [each.pid for each in run.processes()] == [waiting.pid, waiting.pid]
    wait_for(run, StepLogged)
    run.request_stop()
    wait_for(run, RunStopped)
    assert waiting.wait(60) == 0
    # the second start finds none that waits
    resume_run(run, standby)
    assert run.worker().pid != waiting.pid
    record = run.worker()
    run.kill()
    assert not record.is_alive()
    assert run.state() == "lost"


def test_a_chat_keeps_its_pipes(tiny_llama, workspace, standby):
    build_adapter(workspace, tiny_llama)
    config = RunConfig.model_validate(
        {"model": {"name": str(tiny_llama)}, "chat": {"run": "tuned"}}
    )
    waiting = warm(standby)
    with ChatSession.open(config, workspace, standby) as session:
        assert session.process is waiting
        assert "".join(session.answer(QUESTION, "tuned", SHORT))
        assert session.run.log_path.read_text() == ""
    assert waiting.wait(60) == 0
    assert not session.run.folder.exists()
