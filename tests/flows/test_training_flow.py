"""Training through real workers: to an adapter, killed, stopped, and in two processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.events import (
    CheckpointSaved,
    EvaluationLogged,
    RunFinished,
    RunResumed,
    RunStopped,
    StepLogged,
)
from sftplay_ui.engine.run_queue import enqueue, waiting
from sftplay_ui.engine.runs import Run, resume_run, start_run
from tests.training import adapter_bytes, config_for, of_kind, write_examples

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(workspace, monkeypatch):
    # workers share this machine with the tests: one thread each is fastest
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_examples(workspace)
    shutil.copytree(ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)
    return workspace


def follow(run: Run, until=lambda event: False) -> list:
    events = []
    for event in run.follow(poll_seconds=0.05):
        events.append(event)
        if until(event):
            break
    return events


def test_a_killed_worker_is_resumed_to_the_same_adapter_and_the_same_story(tiny_llama, workspace):
    config = config_for(tiny_llama, epochs=12, save_steps=4, lora={"dropout": 0.1})
    named = {name: config.model_copy(update={"run_name": name}) for name in ("unbroken", "run")}
    unbroken = follow(start_run(named["unbroken"], workspace))
    assert isinstance(unbroken[-1], RunFinished), unbroken[-1]
    run = start_run(named["run"], workspace)
    follow(run, lambda event: isinstance(event, CheckpointSaved) and event.step >= 8)
    run.kill()
    lost = follow(run)[-1]
    if isinstance(lost, RunFinished):
        pytest.skip("the run was done before it could be killed")
    assert lost.code == "worker_lost"
    events = follow(resume_run(run))
    assert isinstance(events[-1], RunFinished), (events[-1], run.log_path.read_text())
    record = run.events()
    assert len(of_kind(record, RunResumed)) == 1
    assert [e.step for e in of_kind(record, StepLogged)] == list(range(1, 61))
    for kind, value in ((StepLogged, "loss"), (EvaluationLogged, "metrics")):
        ours, theirs = of_kind(record, kind), of_kind(unbroken, kind)
        assert [getattr(e, value) for e in ours] == [getattr(e, value) for e in theirs]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")
    log = run.log_path.read_text()
    assert "Warning" not in log
    assert "Failed" not in log


def test_a_stopped_worker_saves_and_leaves_in_peace(tiny_llama, workspace):
    config = config_for(tiny_llama, epochs=100, board="tensorboard")
    run = start_run(config, workspace)
    follow(run, lambda event: isinstance(event, StepLogged))
    run.request_stop()
    last = follow(run)[-1]
    assert isinstance(last, RunStopped)
    assert run.state() == "stopped"
    assert any((workspace.outputs / "tb" / run.name).iterdir())
    assert (run.folder / "checkpoints" / f"checkpoint-{last.step}" / "manifest.json").exists()


def test_a_run_in_line_begins_when_the_one_before_ends_without_a_window(tiny_llama, workspace):
    config = config_for(tiny_llama, max_steps=40, eval_strategy="no", save_strategy="no")
    first = start_run(config.model_copy(update={"run_name": "first"}), workspace)
    second = enqueue(config.model_copy(update={"run_name": "second"}), workspace)
    assert waiting(workspace) == [second] or first.state() != "running"
    assert isinstance(follow(first)[-1], RunFinished)
    deadline = time.monotonic() + 60
    while not second.is_alive() and not second.events() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert isinstance(follow(second)[-1], RunFinished)
    assert waiting(workspace) == []
    assert second.events()[0].time > first.events()[-1].time


def test_two_processes_learn_what_one_does(tiny_llama, workspace):
    """Through torch's own launcher over gloo: `accelerate launch --cpu` would start one process."""
    losses = {}
    for ranks in (1, 2):
        folder = workspace.outputs / f"ranks-{ranks}"
        folder.mkdir()
        config = config_for(tiny_llama, epochs=1, batch_size=1)
        (folder / "config.yaml").write_text(config_to_yaml(config))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        worker = ["-m", "sftplay_ui.engine.worker", str(folder)]
        done = subprocess.run(
            [sys.executable, *launcher, *worker],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        events = Run(folder).events()
        assert isinstance(events[-1], RunFinished), (events[-1], done.stderr[-3000:])
        losses[ranks] = [e.loss for e in of_kind(events, StepLogged)]
        losses[ranks] += [e.metrics["eval_loss"] for e in of_kind(events, EvaluationLogged)]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)


def test_processes_that_learn_together_are_killed_stopped_and_resumed_exactly(
    tiny_llama, workspace
):
    config = config_for(
        tiny_llama, epochs=4, save_steps=4, batch_size=1, processes=2, lora={"dropout": 0.2}
    )
    named = {name: config.model_copy(update={"run_name": name}) for name in ("unbroken", "run")}
    unbroken = follow(start_run(named["unbroken"], workspace))
    assert isinstance(unbroken[-1], RunFinished), unbroken[-1]
    run = start_run(named["run"], workspace)
    follow(run, lambda event: isinstance(event, CheckpointSaved) and event.step >= 4)
    run.kill()
    assert follow(run)[-1].code == "worker_lost"
    assert not any(process.is_alive() for process in run.processes())
    resume_run(run)
    follow(run, lambda event: isinstance(event, StepLogged) and event.step >= 10)
    run.request_stop()
    assert isinstance(follow(run)[-1], RunStopped)
    events = follow(resume_run(run))
    assert isinstance(events[-1], RunFinished), (events[-1], run.log_path.read_text())
    ours, theirs = of_kind(run.events(), StepLogged), of_kind(unbroken, StepLogged)
    assert [e.loss for e in ours] == [e.loss for e in theirs]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_the_record_can_be_read_by_anybody(tiny_llama, workspace):
    run = start_run(config_for(tiny_llama, max_steps=2), workspace)
    follow(run)
    lines = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert lines[0]["event"] == "RunStarted"
    assert lines[-1]["event"] == "RunFinished"
    assert all(line["time"] > 1e9 for line in lines)
    assert (workspace.adapters / "last").read_text().strip() == run.name
