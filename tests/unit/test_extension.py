"""Extending a finished run: it goes on from its last step, by what was added and no more."""

import shutil
from pathlib import Path

import pytest

from sftplay_ui.engine import extension
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.events import EventWriter, RunFinished, RunResumed, StepLogged
from sftplay_ui.engine.extension import extend_run
from sftplay_ui.engine.runs import Run
from tests.stand_in import finish, make_run, start
from tests.training import adapter_bytes, config_for, of_kind, train_here, write_examples
from tests.unit.test_train import losses, stop_after


@pytest.fixture
def launched(monkeypatch) -> list[Run]:
    """Collect the runs whose worker would be started."""
    found: list[Run] = []
    monkeypatch.setattr(extension, "launch", lambda run, **_options: found.append(run))
    return found


def test_an_extended_run_begins_where_it_ended_and_can_be_stopped_as_ever(tiny_llama, workspace):
    write_examples(workspace)
    templates = Path(__file__).parents[2] / "chat_templates"
    shutil.copytree(templates, workspace.templates, dirs_exist_ok=True)
    config = config_for(tiny_llama, epochs=1, lora={"dropout": 0.2})
    first = train_here(config, workspace)
    train = config.train.model_copy(update={"extended_by": [1.0]})
    longer = config.model_copy(update={"train": train})
    shutil.copytree(workspace.outputs / "run", workspace.outputs / "whole")
    whole = train_here(longer, workspace, "whole")
    assert of_kind(whole, RunResumed)[0].step == 5
    assert [event.step for event in of_kind(whole, StepLogged)] == [6, 7, 8, 9, 10]
    rates = [event.learning_rate for event in of_kind(whole, StepLogged)]
    assert rates == [event.learning_rate for event in of_kind(first, StepLogged)]
    stopped = train_here(
        longer, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 7)
    )
    resumed = train_here(longer, workspace)
    assert losses(stopped) + losses(resumed) == losses(whole)
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "whole")


def finished(workspace, *, total: int = 40) -> Run:
    run = finish(make_run(workspace, "done"), "--steps", "40")
    if total != 40:
        lines = run.events_path.read_text().replace('"total_steps": 40', f'"total_steps": {total}')
        run.events_path.write_text(lines)
    return run


def test_epochs_are_added_to_the_configuration_each_time(workspace, launched):
    run = finished(workspace)
    extend_run(run, 2)
    extend_run(run, 0.5)
    assert run.config().train.extended_by == [2.0, 0.5]
    assert launched == [run, run]


def test_a_run_that_is_stopped_alive_or_no_training_is_not_extended(workspace, launched):
    run = make_run(workspace, "stopped")
    process = start(run, "--pause", "0.05")
    with pytest.raises(ResumeError, match="still running"):
        extend_run(run, 1)
    run.request_stop()
    process.wait(timeout=60)
    with pytest.raises(ResumeError, match="no finished training run"):
        extend_run(run, 1)
    chat = make_run(workspace, "chat", "chat")
    writer = EventWriter(chat.events_path)
    writer.write(RunFinished(step=0, adapter="", seconds=1.0))
    writer.close()
    with pytest.raises(ResumeError, match="no finished training run"):
        extend_run(chat, 1)
    assert launched == []


def test_a_run_that_ended_early_or_kept_nothing_says_why_it_cannot_go_on(workspace, launched):
    run = finished(workspace, total=60)
    with pytest.raises(ResumeError, match="ended early at step 40 of 60"):
        extend_run(run, 1)
    shutil.rmtree(run.workspace.outputs / "done")
    run = finished(workspace)
    shutil.rmtree(run.folder / "checkpoints/checkpoint-40")
    before = (run.folder / "config.yaml").read_text()
    with pytest.raises(ResumeError, match="kept no checkpoint of its last step 40"):
        extend_run(run, 1)
    assert (run.folder / "config.yaml").read_text() == before
    assert launched == []


def test_no_epochs_are_no_extension(workspace, launched):
    run = finished(workspace)
    with pytest.raises(ValueError, match="greater than 0"):
        extend_run(run, 0)
    assert launched == []
