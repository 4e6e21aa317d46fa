"""Runs in line: kept in order, started one at a time by whoever looks, gone when cancelled."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftplay_ui.cli import main
from sftplay_ui.engine import run_queue
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceLock, detect_device
from sftplay_ui.engine.errors import DataError, DeviceBusyError, RunNotFoundError
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.run_queue import (
    cancel,
    enqueue,
    has_place,
    move_up,
    place_of,
    queue_lock,
    start_next,
    start_now,
    waiting,
)
from sftplay_ui.engine.runs import launch
from sftplay_ui.engine.runs import make_run as made
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace
from tests.stand_in import make_run, start
from tests.training import config_for, write_examples


@pytest.fixture
def line(workspace, tiny_llama, monkeypatch):
    """A project whose device is busy while `busy` is true; `started` are the runs begun."""
    write_examples(workspace)
    state = Line(workspace, RunConfig.model_validate({"model": {"name": str(tiny_llama)}}))
    monkeypatch.setattr(run_queue, "is_busy", lambda *_: state.busy)
    monkeypatch.setattr(run_queue, "launch", state.launch)
    return state


class Line:
    def __init__(self, workspace, config) -> None:
        self.workspace, self.config = workspace, config
        self.busy, self.started = True, []

    def add(self, name: str):
        return enqueue(self.config.model_copy(update={"run_name": name}), self.workspace)

    def launch(self, run, **_options) -> None:
        self.started.append(run.name)
        (run.folder / "worker.json").write_text("{}")

    def names(self) -> list[str]:
        return [run.name for run in waiting(self.workspace)]


def test_runs_wait_in_order_and_begin_one_at_a_time(line):
    for name in ("b", "a", "a"):
        line.add(name)
    assert line.names() == ["b", "a", "a-2"]
    assert start_next(line.workspace) is None
    line.busy = False
    assert start_next(line.workspace).name == "b"
    assert (line.names(), line.started) == (["a", "a-2"], ["b"])


def test_with_nothing_in_the_way_a_run_begins_at_once(line):
    line.busy = False
    line.add("first")
    assert (line.names(), line.started) == ([], ["first"])


def test_a_run_changes_places_with_the_one_before(line):
    for name in ("a", "b", "c"):
        line.add(name)
    move_up("c", line.workspace)
    assert line.names() == ["a", "c", "b"]
    move_up("a", line.workspace)
    assert line.names() == ["a", "c", "b"]


def test_a_cancelled_run_leaves_nothing(line):
    line.add("a")
    line.add("b")
    cancel("a", line.workspace)
    assert line.names() == ["b"]
    assert not (line.workspace.outputs / "a").exists()
    with pytest.raises(RunNotFoundError, match="Runs that wait: b"):
        cancel("a", line.workspace)


def test_what_has_begun_is_not_cancelled(line):
    line.busy = False
    line.add("a")
    with pytest.raises(DeviceBusyError, match="begun already"):
        cancel("a", line.workspace)


def test_a_hopeless_run_does_not_get_in_line(line):
    (line.workspace.data / "processed/train.jsonl").unlink()
    with pytest.raises(DataError):
        line.add("a")
    assert line.names() == []


def test_a_run_that_began_while_its_place_was_left_behind_is_not_begun_twice(line):
    line.add("a")
    (line.workspace.outputs / "a/worker.json").write_text("{}")
    line.busy = False
    assert start_next(line.workspace) is None


def test_while_another_process_starts_a_run_nobody_else_does(line):
    line.add("a")
    line.busy = False
    with queue_lock(line.workspace):
        assert start_next(line.workspace) is None
    assert line.started == []


def test_a_living_run_is_in_the_way_before_it_has_the_device_and_an_ended_one_is_not(workspace):
    process = start(run := make_run(workspace, "alive"), "--pause", "0.1")
    assert ProcessRecord.read(run.folder / "worker.json").is_alive()
    assert run_queue.is_busy(workspace)
    run.request_stop()
    process.wait(timeout=60)
    assert not run_queue.is_busy(workspace)


def test_the_command_line_adds_lists_moves_and_cancels(line, tiny_llama, capsys):
    def run(*words: str) -> dict:
        assert main([*words, "--workspace", str(line.workspace.root), "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    named = ["--set", f"model.name={tiny_llama}", "--set"]
    assert run("train", "--queue", *named, "run_name=a") == {"run": "a", "place": 1}
    assert run("train", "--queue", *named, "run_name=b") == {"run": "b", "place": 2}
    rows = run("runs", "--up", "b")
    assert [(row["run"], row["state"]) for row in rows] == [("b", "queued"), ("a", "queued")]
    assert [row["run"] for row in run("runs", "--cancel", "b")] == ["a"]
    line.busy = False
    assert "queued" not in {row["state"] for row in run("runs")}
    assert line.started == ["a"]


def test_extending_without_a_run_says_so(workspace, capsys):
    assert main(["train", "--extend", "1", "--workspace", str(workspace.root)]) == 1
    assert "There is no training run yet" in capsys.readouterr().err


class Racer:
    """A project of its own with one run in line, and a process that starts it on a word."""

    CODE = (
        "import sys; from pathlib import Path; from sftplay_ui.engine.run_queue import start_next; "
        "from sftplay_ui.engine.workspace import Workspace; "
        "print('ready', flush=True); input(); start_next(Workspace(Path(sys.argv[1])))"
    )

    def __init__(self, root: Path, model: Path) -> None:
        self.workspace = Workspace(root)
        write_examples(self.workspace)
        shutil.copytree(PROJECT_ROOT / "chat_templates", self.workspace.templates)
        self.run = made(config_for(model, epochs=500), self.workspace)
        (self.run.folder / "queued").write_text("7", encoding="ascii")
        command = [sys.executable, "-c", self.CODE, str(root)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    @property
    def has_device(self) -> bool:
        return self.run.is_alive() and not has_place(self.run)

    @property
    def waits(self) -> bool:
        return waiting(self.workspace) == [self.run] and not self.run.is_alive()


@pytest.mark.timeout(180)
def test_of_two_starters_in_the_same_moment_one_trains_and_the_other_keeps_its_place(
    tmp_path, tiny_llama
):
    racers = [Racer(tmp_path / name, tiny_llama) for name in ("one", "other")]
    for racer in racers:
        racer.go()
    for racer in racers:
        racer.process.communicate()
    # both may have found the device free; nobody waits longer than a worker takes to begin
    while {(racer.has_device, racer.waits) for racer in racers} != {(True, False), (False, True)}:
        assert "failed" not in {racer.run.state() for racer in racers}
        time.sleep(0.05)
    winner, loser = sorted(racers, key=lambda racer: racer.waits)
    assert place_of(loser.run) == 7
    assert not loser.run.events_path.exists()
    winner.run.kill()
    assert start_next(loser.workspace) == loser.run
    while not loser.has_device:
        assert loser.run.is_alive() or not loser.run.events()
        time.sleep(0.05)
    loser.run.kill()


def test_a_worker_that_finds_the_device_taken_goes_back_to_the_head_of_the_line(
    workspace, tiny_llama
):
    write_examples(workspace)
    waits = [made(config_for(tiny_llama), workspace) for _ in range(2)]
    for place, run in enumerate(waits, start=3):
        (run.folder / "queued").write_text(str(place), encoding="ascii")
    device = DeviceLock(detect_device().lock_name)
    device.acquire(workspace.outputs / "of another project")
    try:
        launch(waits[0]).wait(timeout=60)
    finally:
        device.release()
    assert waiting(workspace) == waits
    assert not waits[0].events_path.exists()


def test_a_worker_that_dies_before_it_says_a_word_is_not_started_again_and_again(line, monkeypatch):
    line.add("a")
    line.busy = False
    died = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def launch(run, **_options) -> None:
        ProcessRecord.of(died.pid).write(run.folder / "launched.json")
        # slow to begin, and nobody starts it a second time
        assert line.names() == []
        died.communicate()

    monkeypatch.setattr(run_queue, "launch", launch)
    run = start_next(line.workspace)
    assert (run.state(), line.names()) == ("lost", [])


def test_a_run_that_is_started_now_and_the_line_do_not_start_together(line, monkeypatch):
    line.add("a")
    line.busy = False
    begun = []

    def begin(*_given):
        begun.append(start_next(line.workspace))
        return "a run"

    monkeypatch.setattr(run_queue, "start_run", begin)
    assert start_now(line.config, line.workspace) == "a run"
    assert (begun, line.started) == ([None], [])


def test_a_living_run_that_holds_a_device_leaves_the_others_to_be_asked_for(
    workspace, tiny_llama, monkeypatch
):
    process = start(run := make_run(workspace, "alive"), "--pause", "0.1")
    monkeypatch.setattr(run_queue, "start_run", lambda *_: "begun on another card")
    device = DeviceLock(detect_device().lock_name)
    device.acquire(run.folder)
    assert start_now(config_for(tiny_llama), workspace) == "begun on another card"
    device.release()
    with pytest.raises(DeviceBusyError):
        start_now(config_for(tiny_llama), workspace)
    process.kill()
    process.wait()


def test_nothing_is_started_beside_a_living_run(workspace, tiny_llama):
    process = start(make_run(workspace, "alive"), "--pause", "0.1")
    with pytest.raises(DeviceBusyError, match=r"alive is running already \(train\)"):
        start_now(config_for(tiny_llama), workspace)
    process.kill()
    process.wait()
