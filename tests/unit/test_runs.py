"""Runs as folders: named, started, followed, told apart; the worker here fails or is made up."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml, make_config
from sftplay_ui.engine.device import DeviceLock
from sftplay_ui.engine.errors import (
    ConfigError,
    DeviceBusyError,
    DiskFullError,
    ResumeError,
    RunNotFoundError,
    SFTPlayError,
)
from sftplay_ui.engine.events import (
    Event,
    EventWriter,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.runs import (
    Run,
    check_run_name,
    find_run,
    list_runs,
    new_folder,
    refuse_busy_device,
    resume_run,
    start_run,
)
from sftplay_ui.engine.workspace import Workspace
from tests.training import of_kind, write_examples

STARTED = RunStarted(job="train", versions={}, device="CPU")
STEP = StepLogged(
    step=4,
    total_steps=9,
    epoch=0.4,
    loss=1.5,
    learning_rate=1e-4,
    grad_norm=1.0,
    tokens=10,
    learned_tokens=5,
    tokens_per_second=100.0,
    peak_bytes=1,
)


def made_run(workspace: Workspace, name: str, *events: Event, pid: int | None = None) -> Run:
    """Lay out a run folder as a worker would have left it; `pid` is the worker's."""
    run = Run(workspace.outputs / name)
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text(config_to_yaml(RunConfig()), encoding="utf-8")
    writer = EventWriter(run.events_path)
    for event in events:
        writer.write(event)
    writer.close()
    record = ProcessRecord.of(pid or os.getpid())
    if pid is None:
        record = ProcessRecord(record.pid, record.started - 1000, record.boot_id)
    record.write(run.folder / "worker.json")
    return run


@pytest.mark.parametrize(
    ("events", "alive", "state"),
    [
        ([STARTED, STEP], True, "running"),
        ([STARTED, STEP], False, "lost"),
        ([], False, "lost"),
        ([STARTED, STEP, RunStopped(step=4)], False, "stopped"),
        ([STARTED, RunFailed(code="data", what="w", fix="f")], False, "failed"),
        ([STARTED, RunFinished(step=9, adapter="a", seconds=1)], True, "finished"),
        ([STARTED, RunStopped(step=4), STARTED], True, "running"),
    ],
)
def test_the_state_is_derived_from_the_last_event_and_the_worker(workspace, events, alive, state):
    run = made_run(workspace, "a", *events, pid=os.getpid() if alive else None)
    assert run.state() == state


def test_a_run_is_summed_up_from_its_tail(workspace):
    run = made_run(workspace, "a", STARTED, STEP, Warned(code="x", what="y"))
    summary = run.summary()
    assert (summary.step, summary.total_steps, summary.loss) == (4, 9, 1.5)
    assert (summary.run, summary.job, summary.state) == ("a", "train", "lost")


def test_following_ends_with_the_last_event(workspace):
    run = made_run(workspace, "a", STARTED, STEP, RunStopped(step=4))
    assert [type(e) for e in run.follow()] == [RunStarted, StepLogged, RunStopped]


def test_a_worker_that_dies_without_a_word_is_reported_as_lost(workspace):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep) as worker:
        run = made_run(workspace, "a", STARTED, STEP, pid=worker.pid)
        story = run.follow(poll_seconds=0.05)
        assert [type(next(story)) for _ in range(2)] == [RunStarted, StepLogged]
        run.kill()
        end = next(story)
    assert (end.code, "Resume" in end.fix, "worker.log" in end.fix) == ("worker_lost", True, True)


def test_a_taken_name_gets_a_number(workspace):
    config = make_config({"run_name": "My-Run"})
    names = [new_folder(config, workspace).name for _ in range(3)]
    assert names == ["My-Run", "My-Run-2", "My-Run-3"]
    other_case = make_config({"run_name": "my-run"})
    assert new_folder(other_case, workspace).name == "my-run-4"


NO_NAMES = ["", "..", "../x", "a/b", "a\\b", "con", "CON.txt", "nul", "tb", "last", "a" * 81]
NO_NAMES += ["x\n", "-a", "a\u202eb", "trailing."]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_no_folder_everywhere_are_refused(name):
    with pytest.raises(RunNotFoundError, match="cannot be the name"):
        check_run_name(name)


def test_a_folder_without_a_worker_record_is_no_run_yet(workspace):
    new_folder(RunConfig(), workspace)
    assert list_runs(workspace) == []


def test_a_run_is_found_by_name_or_path_and_a_wrong_name_lists_the_right_ones(workspace):
    run = made_run(workspace, "a", STARTED)
    assert find_run("a", workspace) == find_run(str(run.folder), workspace) == run
    with pytest.raises(RunNotFoundError, match=r"no run called 'b'.*Runs here: a"):
        find_run("b", workspace)


def test_starting_is_refused_before_anything_is_written_while_the_device_is_held(workspace):
    other = made_run(workspace, "other", STARTED, pid=os.getpid())
    lock = DeviceLock("cpu")
    lock.acquire(other.folder)
    try:
        with pytest.raises(DeviceBusyError, match="other"):
            start_run(RunConfig(), workspace)
    finally:
        lock.release()
    assert [path.name for path in workspace.outputs.iterdir()] == ["other"]


def test_a_run_that_has_told_its_end_is_waited_for(workspace):
    end = RunFinished(step=9, adapter="a", seconds=1)
    leaving = made_run(workspace, "leaving", STARTED, end, pid=os.getpid())
    lock = DeviceLock("cpu")
    lock.acquire(leaving.folder)
    threading.Timer(0.3, lock.release).start()
    refuse_busy_device()
    assert lock.holder() is None


def test_a_resumed_run_is_followed_past_its_earlier_end_and_told_once(workspace):
    run = made_run(workspace, "a", STARTED, STEP, RunStopped(step=4), STARTED, pid=os.getpid())
    told = run.follow(poll_seconds=0.01)
    seen = [type(next(told)).__name__ for _ in range(4)]
    assert seen == ["RunStarted", "StepLogged", "RunStopped", "RunStarted"]
    writer = EventWriter(run.events_path)
    resumed = RunResumed(step=4, evaluated=-1)
    writer.cut_back(resumed)
    writer.write(resumed)
    writer.write(RunFinished(step=9, adapter="a", seconds=1))
    writer.close()
    assert [type(event).__name__ for event in told] == ["RunResumed", "RunFinished"]
    assert len(of_kind(run.events(), StepLogged)) == 1


def test_a_run_whose_configuration_is_damaged_is_listed_and_not_resumed(workspace):
    run = made_run(workspace, "a", STARTED, RunStopped(step=4))
    (run.folder / "config.yaml").write_text("{", encoding="utf-8")
    assert run.summary().job == "?"
    with pytest.raises(ConfigError, match=r"config\.yaml:1"):
        resume_run(Run(run.folder))


def test_a_stopped_run_that_is_on_its_way_out_is_waited_for_before_it_goes_on(
    workspace, monkeypatch
):
    monkeypatch.setattr("sftplay_ui.engine.runs.launch", lambda run, **_options: None)
    leaving = made_run(workspace, "leaving", STARTED, RunStopped(step=1), pid=os.getpid())
    threading.Timer(0.3, (leaving.folder / "worker.json").unlink).start()
    assert resume_run(leaving) == leaving
    assert not leaving.is_alive()


def test_a_finished_or_living_run_is_not_resumed(workspace):
    done = made_run(workspace, "done", STARTED, RunFinished(step=9, adapter="a", seconds=1))
    with pytest.raises(ResumeError, match="finished"):
        resume_run(done)
    living = made_run(workspace, "living", STARTED, pid=os.getpid())
    with pytest.raises(ResumeError, match="still running"):
        resume_run(living)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run_name": "a"}, "train.jsonl"),
        ({"job": "evaluate", "evaluate.run": "gone"}, "no adapter called 'gone'"),
        ({"job": "merge"}, "no trained adapter yet"),
        ({"job": "chat", "chat.run": "base", "model.name": "./none"}, "no model folder"),
    ],
)
def test_what_can_be_known_before_is_said_before_and_leaves_no_run(workspace, values, said):
    with pytest.raises(SFTPlayError, match=said):
        start_run(make_config(values), workspace)
    assert list(workspace.outputs.iterdir()) == []


def test_a_full_disk_is_said_before_a_run_begins_or_goes_on(workspace, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"A run needs 1\.0 MB .* 0\.0 MB are free"):
        start_run(RunConfig(), workspace)
    stopped = made_run(workspace, "a", STARTED, RunStopped(step=1))
    with pytest.raises(DiskFullError):
        resume_run(stopped)


def test_a_real_worker_that_finds_no_model_ends_with_what_and_fix(workspace):
    write_examples(workspace)
    config = make_config({"run_name": "no-data", "model.name": "nobody/nothing"})
    run = start_run(config, workspace)
    events = list(run.follow())
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFailed)
    assert events[-1].code == "model"
    assert events[-1].fix
    assert run.state() == "failed"
    assert run.config().run_name == "no-data"


def test_the_first_stop_asks_and_the_second_insists(workspace):
    run = made_run(workspace, "a", STARTED)
    run.request_stop()
    assert (run.folder / "stop").read_text() == "soon"
    run.request_stop()
    assert (run.folder / "stop").read_text() == "now"


def test_deleting_takes_the_adapter_and_the_logs_along(workspace):
    run = made_run(workspace, "a", STARTED, RunStopped(step=1))
    (workspace.adapters / "a").mkdir()
    run.delete()
    assert not run.folder.exists()
    assert not (workspace.adapters / "a").exists()
    living = made_run(workspace, "b", STARTED, pid=os.getpid())
    with pytest.raises(DeviceBusyError):
        living.delete()


def test_the_command_line_lists_runs_and_names_errors(workspace, capsys):
    from sftplay_ui.cli import main

    made_run(workspace, "a", STARTED, STEP)
    there = ["--workspace", str(workspace.root), "--json"]
    assert main(["runs", *there]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "lost"
    assert main(["train", "--set", "train.epoch=1", *there]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["code"] == "config"
    assert shown.err.startswith("error: --set train.epoch: unknown setting")
    assert Path(workspace.outputs / "a").exists()
