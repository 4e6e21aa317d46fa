"""The Train tab's handlers: values in, values out, no browser."""

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from sftplay_ui.answers import extend_offer, told
from sftplay_ui.backend_setup import BackendSetup
from sftplay_ui.engine import run_queue
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import SETTINGS, load_config
from sftplay_ui.engine.errors import RunNotFoundError
from sftplay_ui.engine.events import (
    EvaluationLogged,
    EventWriter,
    RateSuggested,
    RunFinished,
    RunStarted,
)
from sftplay_ui.engine.project import CurrentData, set_current_data
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.train_compare import RunComparison
from sftplay_ui.tabs.train_nodes import NodeCommands
from sftplay_ui.tabs.train_tab import TrainTab
from sftplay_ui.tabs.train_unsloth import UnslothCard
from tests import stand_in, unsloth_double
from tests.training import write_examples

# other tabs' settings, and what the tab sets itself
ELSEWHERE = {"job", "data", "style", "evaluate", "generate", "merge", "chat"}


@pytest.fixture
def tab(workspace: Workspace) -> Iterator[TrainTab]:
    live = LiveRuns(workspace)
    made = TrainTab(workspace, live)
    with gr.Blocks(analytics_enabled=False), gr.Tab("Train", elem_id="train") as page:
        made.build(page)
    yield made
    live.close()


def untouched(tab: TrainTab) -> dict:
    return {control: control.value for control in {tab.source, *tab.form.inputs}}


def test_several_machines_are_told_their_commands(workspace, tiny_llama):
    write_examples(workspace)
    config = RunConfig.model_validate({"job": "train", "model": {"name": str(tiny_llama)}})
    with gr.Blocks(analytics_enabled=False):
        nodes = NodeCommands(workspace, lambda filled: config)
        nodes.build(set())
    refused, none = nodes.prepare({nodes.nodes: 2, nodes.address: "10.0.0.1:x"})
    assert ("HOST:PORT" in refused, none) == (True, "")
    told, commands = nodes.prepare({nodes.nodes: 2, nodes.address: "10.0.0.1"})
    assert "is prepared" in told
    assert "# machine 2" in commands
    assert commands.count("10.0.0.1") == 2


def test_every_setting_of_training_is_on_the_page_once(tab):
    wanted = {
        path
        for path in SETTINGS
        if path.split(".")[0] not in ELSEWHERE and path not in ("train.resume", "train.extended_by")
    }
    assert wanted <= set(tab.form.controls)


def test_at_most_eight_controls_are_in_sight(tab):
    essential = [path for path in tab.form.controls if SETTINGS[path].essential]
    assert len(essential) + 2 <= 8  # and the preset and the choice of examples


def test_the_untouched_page_asks_for_the_defaults(tab):
    assert tab.config(untouched(tab)) == RunConfig()


def test_the_choice_of_examples_sets_all_three_splits(tab):
    config = tab.config({**untouched(tab), tab.source: "processed_with_style"})
    assert config.data.train_path == "data/processed_with_style/train.jsonl"
    assert config.data.val_path == "data/processed_with_style/val.jsonl"
    assert config.data.test_path == "data/processed_with_style/test.jsonl"


def test_the_examples_written_last_are_offered(tab, workspace):
    assert tab.newest_source() == gr.skip()
    for name in ("processed", "processed_with_style"):
        path = workspace.data / name / "train.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n", encoding="utf-8")
    os.utime(workspace.data / "processed" / "train.jsonl", (1, 1))
    assert tab.newest_source() == "processed_with_style"


def test_problems_are_said_beside_the_button_and_nothing_is_begun(tab, workspace):
    filled = {
        **untouched(tab),
        tab.form.controls["train.learning_rate"]: "<b>fast</b>",
        tab.form.controls["train.epochs"]: 0,
    }
    said = tab.start(filled)
    assert "train.learning_rate" in said
    assert "train.epochs" in said
    assert "<b>" not in said
    assert [*workspace.outputs.iterdir()] == []


def test_a_second_start_names_the_run_that_is_in_the_way(tab, workspace):
    living = stand_in.start(stand_in.make_run(workspace, "first"), "--pause", "30")
    assert "first is running already" in tab.start(untouched(tab))
    living.kill()
    living.wait()


def test_stop_asks_first_and_ends_the_run_when_asked_again(tab, workspace, monkeypatch):
    monkeypatch.setattr("sftplay_ui.tabs.train_tab.GRACE_SECONDS", 0.1)
    run = stand_in.make_run(workspace, "deaf")
    process = stand_in.start(run, "--pause", "30")
    assert "Press Stop again" in tab.stop("deaf")
    assert run.is_alive()
    assert "ended at once" in tab.stop("deaf")
    process.wait(timeout=20)
    assert not run.is_alive()
    assert "not running" in tab.stop("deaf")


def test_a_run_is_deleted_only_when_that_was_confirmed(tab, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "old"), "--steps", "3")
    assert tab.delete("") == ""
    assert run.folder.exists()
    assert "old is deleted" in tab.delete("old")
    assert not run.folder.exists()
    with pytest.raises(RunNotFoundError):
        tab.delete("old")


def test_the_settings_of_a_run_fill_the_form(tab, workspace):
    run = stand_in.make_run(workspace, "model")
    (run.folder / "worker.json").write_text("{}", encoding="utf-8")
    filled = tab.reuse("model")
    assert filled[tab.form.controls["train.epochs"]]["value"] == 3
    assert filled[tab.form.controls["train.learning_rate"]]["value"] == "auto"


def test_whether_it_fits_is_said_without_starting_anything(tab, workspace):
    said = tab.look_ahead(untouched(tab))
    assert "are needed" in said
    assert "What saves most" in said
    assert not any(workspace.outputs.iterdir())


def test_the_yaml_that_is_shown_is_the_run_that_would_start(tab, workspace):
    filled = {
        **untouched(tab),
        tab.source: "rendered",
        tab.form.controls["train.epochs"]: 2,
        tab.form.controls["tuning.lora.target_modules"]: "[q_proj, v_proj]",
    }
    shown = tab.show(filled)
    assert shown.startswith("python launch.py train")
    assert "--set train.epochs=2" in shown
    yaml = Path(workspace.root, "shown.yaml")
    yaml.write_text(shown.split("--config FILE\n")[1], encoding="utf-8")
    assert load_config(yaml, (), workspace).config == tab.config(filled)


def test_the_command_that_is_shown_is_the_run_that_would_start(tab, workspace):
    filled = {
        **untouched(tab),
        tab.form.controls["model.name"]: "my models/it's one",
        tab.form.controls["tuning.lora.target_modules"]: "[q_proj, v_proj]",
        tab.form.controls["train.packing"]: "off",
    }
    command = tab.show(filled).split("\n\n#")[0].replace("\\\n", " ")
    words = shlex.split(command)[3:]
    overrides = [word for word in words if word != "--set"]
    assert load_config(None, overrides, workspace).config == tab.config(filled)


def test_a_preset_fills_in_its_settings(tab):
    filled = tab.use_preset("thorough")
    assert filled[tab.form.controls["train.epochs"]]["value"] == 5


def test_the_template_chosen_in_style_is_taken_over(tab, workspace):
    assert tab.current_template() == gr.skip()
    folder = workspace.data / "processed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("{}\n", encoding="utf-8")
    set_current_data(workspace, CurrentData(template_path="chat_templates/mine.jinja"))
    assert tab.current_template() == "chat_templates/mine.jinja"


def whole_story(tab: TrainTab, name: str):
    """Give the story of a run whose worker is gone, once all of it is read."""
    deadline = time.monotonic() + 20
    while (story := tab.live.story(name)).alive and time.monotonic() < deadline:
        time.sleep(0.01)
    return story


def test_two_runs_are_compared_by_settings_and_losses(tab, workspace):
    for name in ("first", "second"):
        stand_in.finish(stand_in.make_run(workspace, name), "--steps", "20")
    path = workspace.outputs / "second/config.yaml"
    path.write_text(path.read_text().replace("learning_rate: auto", "learning_rate: 0.001"))
    tab.live.look(force=True)
    for name in ("first", "second"):
        whole_story(tab, name)
    comparison = RunComparison(tab.live)
    (one, _other) = comparison.choices()
    assert set(one["choices"]) == {"first", "second"}
    found = comparison.compare("first", "second")
    assert found.count("<polyline") == 2
    assert "train.learning_rate" in found
    assert "0.001" in found
    assert "train.epochs" not in found
    assert "Choose two different runs" in comparison.compare("first", "first")


def test_an_extension_that_is_waved_away_or_no_number_changes_nothing(tab, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "done"), "--steps", "20")
    before = (run.folder / "config.yaml").read_text()
    assert tab.extend("", "") == ""
    assert "no number of epochs" in tab.extend("done", "many")
    assert "no number of epochs" in tab.extend("done", "-1")
    assert (run.folder / "config.yaml").read_text() == before


def test_only_a_training_that_came_to_its_end_is_offered_to_learn_longer(tab, workspace):
    finished = stand_in.finish(stand_in.make_run(workspace, "done"), "--steps", "20")
    assert extend_offer(whole_story(tab, finished.name))
    stopped = stand_in.make_run(workspace, "stopped")
    (stopped.folder / "stop").write_text("soon")
    stand_in.finish(stopped, "--steps", "20")
    assert not extend_offer(whole_story(tab, stopped.name))


def test_the_rate_that_was_found_is_taken_over_with_the_settings(tab, workspace):
    run = stand_in.make_run(workspace, "find-lr-model", "find_lr")
    writer = EventWriter(run.events_path)
    writer.write(RunStarted(job="find_lr", versions={}, device="CPU"))
    writer.write(RateSuggested(learning_rate=4e-4, what="why", rates=(1e-5, 1e-3), losses=(0, -1)))
    writer.write(RunFinished(step=2, adapter="", seconds=1.0))
    writer.close()
    (run.folder / "worker.json").write_text("{}")
    whole_story(tab, run.name)
    filled = tab.reuse(run.name)
    assert filled[tab.form.controls["train.learning_rate"]]["value"] == "0.0004"


def test_scores_of_answers_are_told_evaluation_by_evaluation(tab, workspace):
    run = stand_in.make_run(workspace, "scored")
    writer = EventWriter(run.events_path)
    for step in (0, 5):
        metrics = {"eval_loss": 2.0, "eval_perplexity": 7.4, "rougeL": 0.1 * step}
        writer.write(EvaluationLogged(step=step, metrics=metrics))
    writer.write(RunFinished(step=5, adapter="", seconds=1.0))
    writer.close()
    (run.folder / "worker.json").write_text("{}")
    scores = told(whole_story(tab, run.name))["scores"]
    assert scores == [{"step": 0, "rougeL": 0.0}, {"step": 5, "rougeL": 0.5}]


def test_a_queued_run_waits_with_its_place_and_leaves_when_cancelled(tab, workspace, monkeypatch):
    started = []
    monkeypatch.setattr(run_queue, "refuse_hopeless", lambda _config, _workspace: None)
    monkeypatch.setattr(run_queue, "launch", lambda run, **_options: started.append(run))
    monkeypatch.setattr(run_queue, "is_busy", lambda *_: True)
    values = untouched(tab)
    assert "number 1" in tab.enqueue({**values, tab.form.controls["run_name"]: "a"})
    assert "number 2" in tab.enqueue({**values, tab.form.controls["run_name"]: "b"})
    tab.line.up("b")
    assert tab.live.since({})["line"] == ["b", "a"]
    assert "waits no more" in tab.line.cancel("b")
    tab.live.look(force=True)
    assert tab.live.since({})["line"] == ["a"]
    monkeypatch.setattr(run_queue, "is_busy", lambda *_: False)
    tab.live.look(force=True)
    tab.live.tending.join(20)
    assert [run.name for run in started] == ["a"]


def card_of(live: LiveRuns) -> UnslothCard:
    card = UnslothCard(live)
    with gr.Blocks(analytics_enabled=False):
        card.build()
        card.follow(gr.Dropdown(["bnb", "unsloth"]))
    return card


def test_choosing_unsloth_says_what_installing_takes_and_choosing_bnb_nothing(
    workspace, tmp_path, monkeypatch
):
    setup = BackendSetup(unsloth_double.installable(tmp_path, monkeypatch))
    live = LiveRuns(workspace, setup)
    card = card_of(live)
    assert card.tell("bnb") == ""
    assert "GB of disk" in card.tell("unsloth")
    assert "data-offer" in card.tell("unsloth")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "data-offer" not in card.tell("unsloth")
    assert "not for Darwin" in card.install()
    live.close()


def test_a_window_that_others_use_installs_nothing(workspace, tmp_path, monkeypatch):
    root = unsloth_double.installable(tmp_path, monkeypatch)
    monkeypatch.setattr("sftplay_ui.tabs.train_unsloth.PROJECT_ROOT", root)
    live = LiveRuns(workspace)
    card = card_of(live)
    assert "data-offer" not in card.tell("unsloth")
    assert "setup --backend unsloth" in card.tell("unsloth")
    assert "window that others may use" in card.install()
    assert card.stop() == card.tell("unsloth")
    assert live.since({})["setup"] is None
    assert BackendSetup(root).progress().state == "none"
    live.close()
