"""What a window knows of its runs: attached to real processes, read in small answers."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from sftplay_ui.engine.config_file import make_config
from sftplay_ui.engine.device import DeviceLock, detect_device
from sftplay_ui.engine.errors import DeviceBusyError, RunNotFoundError
from sftplay_ui.engine.events import (
    EventWriter,
    PhaseProgressed,
    PhaseStarted,
    RunFailed,
    RunStarted,
    RunStopped,
    StepLogged,
    cut_back,
)
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.story import Series, Story
from tests import stand_in

PATIENCE_SECONDS = 20


@pytest.fixture
def live(workspace: Workspace) -> Iterator[LiveRuns]:
    runs = LiveRuns(workspace)
    yield runs
    runs.close()


def test_a_page_that_asks_keeps_a_worker_ready_unless_something_runs(workspace):
    told = []
    closed = []
    standby = SimpleNamespace(
        tend=lambda *, idle: told.append(idle), close=lambda: closed.append(True)
    )
    live = LiveRuns(workspace, standby=standby)
    assert told == []  # nobody looks yet
    ask(live)
    living = stand_in.start(stand_in.make_run(workspace, "alive"), "--pause", "30")
    ask(live)
    living.kill()
    living.wait()
    device = DeviceLock(detect_device().lock_name)
    device.acquire(workspace.outputs / "of another project")
    ask(live)
    device.release()
    ask(live)
    live.close()
    assert told == [True, False, False, True]
    assert closed == [True]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def ask(live: LiveRuns, **query: object) -> dict:
    live.look(force=True)
    return live.since(query)


def told_in_full(live: LiveRuns, name: str) -> Story:
    wait_for(lambda: not live.story(name).alive)
    return live.story(name)


def page_of(answer: dict) -> dict:
    """Make the query of a page that took in an answer."""
    return {
        "run": answer["run"],
        "generation": answer["generation"],
        "points": answer["from"] + len(answer["points"]["step"]),
        "evaluations": answer["evaluations_from"] + len(answer["evaluations"]["step"]),
        "facts": answer["facts"],
        "log": answer["log_version"],
        "library": answer["library"],
    }


def test_an_empty_workspace_is_idle(live):
    answer = ask(live)
    assert answer["run"] is None
    assert answer["state"] == "idle"
    assert answer["jobs"] == []
    assert answer["device"]["total"] > 0


def test_a_finished_run_is_shown_whole(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "first"), "--steps", "40")
    ask(live)
    told_in_full(live, "first")
    answer = ask(live)
    assert answer["run"] == "first"
    assert answer["state"] == "finished"
    assert answer["points"]["step"] == list(range(1, 41))
    assert answer["evaluations"]["step"] == [10, 20, 30, 40]
    assert answer["progress"] == 1.0
    assert answer["eta"] is None
    assert answer["figures"]["learned_tokens"] == 40 * 210
    assert [choice["setting"] for choice in answer["told"]["choices"]] == [
        "train.learning_rate",
        "train.bf16",
    ]
    assert answer["told"]["warnings"][0]["code"] == "backend"
    assert answer["told"]["samples"][0]["step"] == 0
    assert "StepLogged" in answer["log"]
    assert answer["runs"][0]["run"] == "first"


def test_a_loss_that_is_no_number_reaches_the_page_as_a_gap(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "first"), "--steps", "20")
    ask(live)
    told_in_full(live, "first")
    losses = ask(live)["points"]["loss"]
    assert losses[12] is None
    assert all(math.isfinite(value) for value in losses[:12] + losses[13:])


def test_a_page_gets_only_what_it_lacks(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "first"), "--steps", "30")
    ask(live)
    told_in_full(live, "first")
    first = ask(live)
    second = ask(live, **page_of(first))
    assert second["from"] == 30
    assert second["points"]["step"] == []
    assert second["evaluations"]["step"] == []
    assert "told" not in second
    assert "log" not in second
    assert "runs" not in second


def test_asking_changes_nothing(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "first"), "--steps", "30")
    ask(live)
    told_in_full(live, "first")
    first, second = ask(live), ask(live)
    first.pop("device"), second.pop("device")
    assert first == second


def test_a_query_of_nonsense_is_answered_from_the_start(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "first"), "--steps", "5")
    ask(live)
    told_in_full(live, "first")
    answer = ask(live, run=["?"], points="many", evaluations=None, facts={}, chosen=True)
    assert answer["points"]["step"] == [1, 2, 3, 4, 5]


def test_a_window_attaches_to_a_run_it_did_not_start(live, workspace):
    run = stand_in.make_run(workspace, "abroad")
    process = stand_in.start(run, "--steps", "4000", "--pause", "0.01")
    wait_for(lambda: ask(live)["total"] > 3)
    answer = ask(live)
    assert answer["state"] == "running"
    assert answer["jobs"][0]["run"] == "abroad"
    late = LiveRuns(workspace)  # another window, opened later
    wait_for(lambda: ask(late)["total"] >= answer["total"])
    late.close()
    process.kill()
    process.wait()


def test_a_killed_worker_is_lost_and_can_be_resumed(live, workspace):
    run = stand_in.make_run(workspace, "doomed")
    process = stand_in.start(run, "--steps", "4000", "--pause", "0.01", "--save-every", "5")
    wait_for(lambda: ask(live)["total"] > 12)
    process.kill()
    process.wait()
    wait_for(lambda: ask(live)["state"] == "lost")
    answer = ask(live)
    assert answer["failure"]["code"] == "worker_lost"
    assert "doomed" in answer["failure"]["what"]
    assert "Resume goes on from step" in answer["told"]["resume"]
    assert answer["points"]["step"][:12] == list(range(1, 13))


def test_a_run_ended_by_a_second_stop_says_that_it_was_asked_to(live, workspace):
    run = stand_in.make_run(workspace, "impatient")
    process = stand_in.start(run, "--steps", "4000", "--pause", "5")
    run.request_stop()
    assert ask(live)["stopping"]
    process.kill()
    process.wait()
    wait_for(lambda: ask(live)["state"] == "lost")
    assert "as asked" in ask(live)["failure"]["what"]


def test_a_stopped_run_says_where_it_would_go_on(live, workspace):
    run = stand_in.make_run(workspace, "paused")
    process = stand_in.start(run, "--steps", "400", "--pause", "0.01")
    wait_for(lambda: ask(live)["total"] > 2)
    run.request_stop()
    process.wait(timeout=PATIENCE_SECONDS)
    story = told_in_full(live, "paused")
    assert story.state == "stopped"
    assert story.failure is None
    offer = ask(live)["told"]["resume"]
    assert f"checkpoint-{story.last_step.step}" in offer
    assert f"{400 - story.last_step.step} of 400 steps to go" in offer


def test_nothing_is_offered_while_a_stopped_worker_is_still_leaving(workspace):
    story = Story(stand_in.make_run(workspace, "leaving"))
    story.add(RunStopped(step=5))
    assert story.state == "stopped"
    assert story.resume_step() is None
    before = story.facts
    story.end()
    assert story.resume_step() == 0
    assert story.facts > before  # so that pages ask again


def test_a_run_that_is_cut_back_and_goes_on_starts_a_new_curve(live, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "resumed"), "--steps", "30")
    ask(live)
    told_in_full(live, "resumed")
    before = ask(live)
    cut_back(run.events_path, 20)
    stand_in.finish(run, "--steps", "5")
    ask(live)
    told_in_full(live, "resumed")
    after = ask(live, **page_of(before))
    assert after["generation"] != before["generation"]
    assert after["from"] == 0
    assert after["points"]["step"] == [*range(1, 21), *range(1, 6)]


def test_a_file_that_is_replaced_under_a_living_worker_starts_a_new_curve(live, workspace):
    run = stand_in.make_run(workspace, "resumed")
    process = stand_in.start(run, "--steps", "12", "--pause", "0")
    process.wait(timeout=PATIENCE_SECONDS)
    living = stand_in.start(
        run, "--steps", "4000", "--pause", "30"
    )  # its record keeps the run alive
    wait_for(lambda: ask(live)["total"] == 12)
    before = ask(live)["generation"]
    cut_back(run.events_path, 8)
    wait_for(lambda: ask(live)["total"] == 8)
    assert ask(live)["generation"] != before
    living.kill()
    living.wait()


def test_the_newest_living_run_is_shown_unless_a_page_chose_another(live, workspace):
    stand_in.finish(stand_in.make_run(workspace, "old"), "--steps", "5")
    living = stand_in.start(stand_in.make_run(workspace, "alive"), "--pause", "30")
    time.sleep(0.02)
    stand_in.finish(stand_in.make_run(workspace, "new"), "--steps", "5")
    assert ask(live)["run"] == "alive"
    assert ask(live, run="old", chosen=True)["run"] == "old"
    assert ask(live, run="old", chosen=False)["run"] == "alive"
    assert ask(live, run="never", chosen=True)["run"] == "alive"
    living.kill()
    living.wait()
    wait_for(lambda: ask(live)["run"] == "new")


def test_a_deleted_run_is_forgotten(live, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "gone"), "--steps", "5")
    ask(live)
    told_in_full(live, "gone")
    run.delete()
    assert ask(live)["run"] is None
    with pytest.raises(RunNotFoundError):
        live.story("gone")


def test_a_name_that_leads_out_of_the_workspace_is_no_run(live):
    with pytest.raises(RunNotFoundError):
        live.story("../outputs")


def test_starting_beside_a_living_run_names_it(live, workspace):
    living = stand_in.start(stand_in.make_run(workspace, "first"), "--pause", "30")
    with pytest.raises(DeviceBusyError, match="first is running already"):
        live.start(make_config({}))
    living.kill()
    living.wait()
    assert [run.name for run in workspace.outputs.glob("[!.]*")] == ["first"]


def test_a_run_is_not_lost_while_its_worker_hands_over_to_that_of_another_backend(live, workspace):
    gone, next_one = (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)
    )
    run = stand_in.make_run(workspace, "over")
    writer = EventWriter(run.events_path)
    writer.write(RunStarted(job="train", versions={}, device="CPU"))
    writer.write(PhaseStarted(phase="try_backend"))
    writer.close()
    ProcessRecord.of(gone.pid).write(run.folder / "worker.json")
    ProcessRecord.of(next_one.pid).write(run.folder / "launched.json")
    gone.communicate()
    following = live.follow(run).thread
    following.join(1)
    answer = ask(live)
    assert following.is_alive()
    assert (answer["state"], answer["sentence"]) == ("running", "Trying unsloth")
    next_one.communicate()
    assert told_in_full(live, "over").state == "lost"


def test_a_long_history_arrives_in_pieces(live, workspace):
    run = stand_in.make_run(workspace, "long")
    stand_in.finish(run, "--steps", "5600", "--save-every", "9999")
    ask(live)
    told_in_full(live, "long")
    first = ask(live)
    assert len(first["points"]["step"]) == 5000
    second = ask(live, **page_of(first))
    assert second["points"]["step"] == list(range(5001, 5601))


def test_series_only_grow():
    series = Series(("loss",))
    series.add(1, 2.5)
    series.add(2, math.inf)
    assert series.since(1, 10) == {"step": [2], "loss": [None]}
    assert len(series) == 2


def step_at(step: int, at: float) -> StepLogged:
    return StepLogged(
        time=at,
        step=step,
        total_steps=100,
        epoch=0.1,
        loss=1.0,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=10,
        learned_tokens=5,
        tokens_per_second=1.0,
        peak_bytes=1,
    )


def test_time_left_counts_the_steps_of_this_session_only(workspace):
    story = Story(stand_in.make_run(workspace, "resumed"))
    for event in (step_at(1, 0), step_at(50, 49_000)):  # an earlier, slow session
        story.add(event)
    story.add(RunStarted(job="train", versions={}, device="CPU"))
    story.add(PhaseStarted(phase="train"))
    story.add(step_at(51, 90_000))
    assert story.eta_seconds(90_000) is None  # one step is no pace
    story.add(step_at(53, 90_004))
    assert story.eta_seconds(90_004) == pytest.approx(2 * 47)
    assert story.eta_seconds(90_014) == pytest.approx(2 * 47 - 10)


def test_a_phase_with_a_known_size_has_a_share_and_a_time_left(workspace):
    story = Story(stand_in.make_run(workspace, "loading"))
    story.add(PhaseStarted(phase="download", total=400, time=1000.0))
    story.add(PhaseProgressed(done=100, time=1010.0))
    assert story.progress == 0.25
    assert story.eta_seconds(1010.0) == pytest.approx(30)
    assert story.sentence() == "Downloading, 25%"


def test_a_failed_run_says_what_and_what_next(live, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "poor"), "--steps", "5")
    cut_back(run.events_path, 5)
    writer = EventWriter(run.events_path)
    writer.write(RunFailed(code="out_of_memory", what="It was too much.", fix="Use less."))
    writer.close()
    ask(live)
    told_in_full(live, "poor")
    answer = ask(live)
    assert answer["state"] == "failed"
    assert answer["failure"] == {
        "code": "out_of_memory",
        "what": "It was too much.",
        "fix": "Use less.",
    }
    assert answer["told"]["resume"].startswith("No checkpoint was saved yet")
