"""The walk of Try it now: what comes next is read off the run folders."""

import json
import os
from pathlib import Path

import pytest

from sftplay_ui.engine.errors import DeviceBusyError
from sftplay_ui.engine.events import Event, RunFailed, RunFinished, RunStopped, encode
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.try_it import TryIt
from tests.stand_in import make_run

FINISHED = RunFinished(step=9, adapter="", seconds=1.0)


@pytest.fixture
def walk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    live = LiveRuns(workspace)
    started = []

    def start(config):
        started.append(config)
        name = config.run_name if config.job == "train" else f"evaluate-{config.evaluate.run}"
        return told(workspace, name, config.job)

    monkeypatch.setattr(live, "start", start)
    found = TryIt(workspace, live)
    found.started = started
    return found


def told(workspace: Workspace, name: str, job: str, *events: Event) -> Run:
    """Make a run that has told these events; without any it is running (in this process)."""
    run = make_run(workspace, name, job)
    pid = os.getpid() if not events else 2**22 + 1
    ProcessRecord.of(os.getpid()).write(run.folder / "worker.json")
    if events:
        record = json.loads((run.folder / "worker.json").read_text("utf-8"))
        (run.folder / "worker.json").write_text(json.dumps({**record, "pid": pid}), "utf-8")
        run.events_path.write_text("".join(encode(event) + "\n" for event in events), "utf-8")
    return run


def states(walk: TryIt) -> list[str]:
    return [step.state for step in walk.steps()]


def test_the_walk_begins_with_data_and_training(walk: TryIt) -> None:
    walk.begin()
    assert [config.job for config in walk.started] == ["train"]
    assert (walk.workspace.data / "demo" / "train.jsonl").is_file()
    assert states(walk) == ["finished", "running", "waiting", "waiting"]


def test_the_persons_own_data_stays_as_it_was(walk: TryIt) -> None:
    walk.begin()
    assert not (walk.workspace.data / "processed" / "train.jsonl").exists()


def test_an_evaluation_follows_a_finished_training(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now", "train", FINISHED)
    assert walk.next()
    assert [(c.job, c.evaluate.run, c.evaluate.limit) for c in walk.started] == [
        ("evaluate", "try-it-now", 30)
    ]
    assert states(walk) == ["finished", "finished", "running", "waiting"]


def test_nothing_follows_a_training_that_was_stopped(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now", "train", RunStopped(step=3))
    assert not walk.next()
    assert walk.started == []
    assert states(walk)[1] == "stopped"


def test_the_walk_is_over_when_the_evaluation_is(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now", "train", FINISHED)
    told(walk.workspace, "evaluate-try-it-now", "evaluate", FINISHED)
    assert not walk.next()
    assert walk.is_over()
    assert states(walk) == ["finished"] * 4


def test_a_failed_evaluation_does_not_open_the_chat(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now", "train", FINISHED)
    failed = RunFailed(code="bug", what="It broke.", fix="Mend it.")
    told(walk.workspace, "evaluate-try-it-now", "evaluate", failed)
    assert states(walk)[2:] == ["failed", "waiting"]


def test_a_walk_goes_on_in_a_new_window(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now", "train")
    later = TryIt(walk.workspace, walk.live)
    assert states(later) == ["finished", "running", "waiting", "waiting"]
    assert not later.is_over()


def test_other_runs_are_not_taken_for_the_walk(walk: TryIt) -> None:
    told(walk.workspace, "try-it-now-please", "train", FINISHED)
    assert walk.training() is None
    assert not walk.checklist()["shown"]


def test_what_is_in_the_way_is_said_in_the_checklist(
    walk: TryIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_config):
        raise DeviceBusyError("capitals is running already.", "Stop it first.")

    monkeypatch.setattr(walk.live, "start", busy)
    walk.walk(True)
    assert walk.checklist()["problem"] == "capitals is running already. Stop it first."
    assert not walk.processing


def test_the_sample_comes_with_the_app(walk: TryIt) -> None:
    assert Path(str(walk.config().data.raw_path)).is_file()
