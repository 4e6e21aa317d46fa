"""The Train tab in a browser: curves that survive reloads, and a real run from click to adapter."""

import json
import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sftplay_ui.engine.events import EventWriter, RateSuggested, RunFinished, StepLogged
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from tests import stand_in, unsloth_double
from tests.browser.steps import choose

LONG = 120_000  # a worker imports torch, on a machine that may be busy


def points(page: Page, at_least: int) -> None:
    """Wait until a page shows so many points."""
    page.wait_for_function(f"() => window.__chartN >= {at_least}", timeout=20_000)


@pytest.fixture
def trainable(workspace: Workspace, tiny_llama: Path) -> Workspace:
    """Give the workspace a tiny base model and a few examples."""
    shutil.copytree(tiny_llama, workspace.root / "models" / "tiny")
    folder = workspace.data / "processed"
    folder.mkdir()
    for split, count in (("train", 24), ("val", 4), ("test", 4)):
        rows = [
            json.dumps({"user": f"What is {split} {i}?", "assistant": f"It is number {i}."})
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return workspace


def choose_tiny_model(page: Page, **numbers: str) -> None:
    """Fill in the form for a run of the tiny model."""
    model = page.locator("#train-model-name input")
    model.fill("models/tiny")
    model.press("Enter")
    for name, value in numbers.items():
        page.locator(f"#train-{name.replace('_', '-', 1)} input").fill(value)


def test_a_reload_in_the_middle_shows_the_same_curve(open_page, workspace):
    process = stand_in.start(stand_in.make_run(workspace, "long"), "--steps", "4000")
    page = open_page("train")
    points(page, 15)
    before = page.evaluate("window.__chartN")
    page.reload()
    points(page, before)
    other = open_page("train")
    points(other, before)
    process.kill()
    process.wait()
    expect(page.locator("#train-head [data-part=state]")).to_have_text("lost")
    final = len(Run(workspace.outputs / "long").events())
    expect(page.locator("#train-head .problem")).to_contain_text("ended without saying why")
    expect(page.locator("#train-resume")).to_be_visible()
    expect(page.locator("#train-head [data-part=resume]")).to_contain_text("checkpoint-")
    for each in (page, other):
        points(each, 15)
        assert each.evaluate("window.__chartN") < final


def test_a_finished_run_is_shown_with_its_samples_choices_and_gaps(open_page, workspace):
    stand_in.finish(stand_in.make_run(workspace, "done"), "--steps", "60")
    page = open_page("train")
    points(page, 60)
    assert page.evaluate("window.__state") == "finished"
    told = page.locator("#train-told")
    expect(told.locator(".sample .ask")).to_have_text(stand_in.QUESTION)
    expect(told.locator(".pair")).to_contain_text("at step 60")
    expect(told.locator("[data-block=warnings]")).to_contain_text("bitsandbytes")
    told.get_by_text("What was decided for you").click()
    expect(told.locator("[data-part=choices]")).to_contain_text("train.learning_rate")
    told.get_by_text("Log", exact=True).click()
    expect(told.locator("[data-part=log]")).to_contain_text("RunFinished")
    canvas = page.locator("[data-chart=loss] canvas")
    assert "60 points up to step 60" in str(canvas.get_attribute("aria-label"))
    canvas.hover(position={"x": 200, "y": 100})
    expect(page.locator("[data-chart=loss] .read-out")).to_contain_text("step ")


def test_another_run_of_the_library_shows_its_own_curve(open_page, workspace):
    stand_in.finish(stand_in.make_run(workspace, "older"), "--steps", "30")
    stand_in.finish(stand_in.make_run(workspace, "newer"), "--steps", "50")
    page = open_page("train")
    points(page, 50)
    page.get_by_role("button", name="older", exact=True).click()
    page.wait_for_function("() => window.__chartN === 30")
    expect(page.locator("#train-head [data-part=run]")).to_have_text("older")
    page.reload()
    page.wait_for_function("() => window.__chartN === 30")


def test_deleting_asks_first(open_page, workspace):
    run = stand_in.finish(stand_in.make_run(workspace, "unwanted"), "--steps", "5")
    page = open_page("train")
    points(page, 5)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#train-delete").click()
    assert run.folder.exists()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#train-delete").click()
    expect(page.locator("#train-run-note")).to_contain_text("unwanted is deleted")
    assert not run.folder.exists()
    expect(page.locator("#train-head [data-part=run]")).to_have_text("No run yet")


def test_text_of_a_run_is_never_markup(open_page, workspace, monkeypatch):
    monkeypatch.setattr(stand_in, "QUESTION", "<img src=x onerror=alert(1)>")
    run = stand_in.make_run(workspace, "hostile")
    writer = stand_in.EventWriter(run.events_path)
    stand_in.ProcessRecord(1, 0, "never").write(run.folder / "worker.json")
    for event in stand_in.opening():
        writer.write(event)
    writer.close()
    page = open_page("train")
    expect(page.locator("#train-told .ask")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#train-told img").count() == 0


def test_a_wrong_setting_is_named_and_what_was_typed_stays(open_page, trainable):
    page = open_page("train")
    choose_tiny_model(page, train_learning_rate="fast")
    page.locator("#train-start").click()
    expect(page.locator("#train-start-note .problem")).to_contain_text("train.learning_rate")
    expect(page.locator("#train-train-learning_rate input")).to_have_value("fast")
    expect(page.locator("#train-model-name input")).to_have_value("models/tiny")
    assert [*trainable.outputs.iterdir()] == []


def test_a_click_on_start_leads_to_an_adapter(open_page, trainable):
    page = open_page("train")
    expect(page.locator("#train-curves")).to_be_hidden()
    choose_tiny_model(page, train_epochs="1")
    page.locator("#train-start").click()
    expect(page.locator("#train-curves canvas").first).to_be_visible()
    expect(page.locator("#train-start-note")).to_contain_text("tiny has started")
    state = page.locator("#train-head [data-part=state]")
    expect(state).to_have_text("finished", timeout=LONG)
    page.wait_for_function("() => window.__chartN === 3")
    assert (trainable.adapters / "tiny" / "adapter_model.safetensors").exists()


def test_a_run_is_stopped_and_goes_on_and_is_nobody_elses_to_disturb(open_page, trainable):
    page = open_page("train")
    head = page.locator("#train-head")
    page.get_by_role("button", name="Evaluation and checkpoints").click()
    choose_tiny_model(page, train_epochs="500", train_effective_batch="2", train_sample_prompts="0")
    page.locator("#train-start").click()
    page.wait_for_function("() => window.__chartN >= 3", timeout=LONG)
    other = open_page("train")
    other.locator("#train-start").click()
    expect(other.locator("#train-start-note .problem")).to_contain_text(
        "tiny is using the cpu device"
    )
    page.locator("#train-stop").click()
    expect(head.locator("[data-part=state]")).to_have_text("stopped", timeout=LONG)
    offer = head.locator("[data-part=resume]")
    expect(offer).to_contain_text("Resume goes on from step", timeout=LONG)
    saved = page.evaluate("window.__chartN")
    page.locator("#train-resume").click()
    page.wait_for_function(f"() => window.__chartN > {saved + 2}", timeout=LONG)
    expect(head.locator("[data-part=state]")).to_have_text("running")
    run = Run(trainable.outputs / "tiny")
    run.kill()
    steps = [event.step for event in run.events() if isinstance(event, StepLogged)]
    assert steps == [*range(1, len(steps) + 1)]


def test_the_line_is_changed_and_a_found_rate_taken_over_by_buttons(open_page, workspace):
    found = stand_in.make_run(workspace, "find-lr-model", "find_lr")
    writer = EventWriter(found.events_path)
    writer.write(
        RateSuggested(learning_rate=3e-4, what="It fell.", rates=(1e-5, 1e-3), losses=(0.0, -1.0))
    )
    writer.write(RunFinished(step=2, adapter="", seconds=1.0))
    writer.close()
    (found.folder / "worker.json").write_text("{}")
    process = stand_in.start(stand_in.make_run(workspace, "alive"), "--steps", "4000")
    for place, name in enumerate(("a", "b"), start=1):
        (stand_in.make_run(workspace, name).folder / "queued").write_text(str(place))
    page = open_page("train")
    waiting = page.locator("#train-line li > span")
    expect(waiting).to_have_text(["a", "b"])
    page.get_by_role("button", name="Start b earlier").click()
    expect(waiting).to_have_text(["b", "a"])
    page.get_by_role("button", name="Remove b from the line").click()
    expect(waiting).to_have_text(["a"])
    page.get_by_role("button", name="Remove a from the line").click()
    expect(page.locator("#train-line-card")).to_be_hidden()
    process.kill()
    process.wait()
    page.get_by_role("button", name="find-lr-model").click()
    expect(page.locator("[data-part=rate]")).to_have_text("3e−4")
    page.get_by_role("button", name="Use this learning rate").click()
    rate = page.locator("#train-train-learning_rate").locator("input, textarea")
    expect(rate).to_have_value("0.0003")


@pytest.fixture
def app_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the window install into a copy of the app, by a stand-in that waits for a file `go`."""
    root = unsloth_double.installable(tmp_path, monkeypatch)
    wait = f"while [ ! -f '{root}/go' ]; do sleep 0.1; done; echo '+ unsloth==2026.10.9'"
    unsloth_double.let_installer(root, f"echo '+ torch==2.13.0'; {wait}")
    monkeypatch.setattr("sftplay_ui.app.PROJECT_ROOT", root)
    return root


def choose_unsloth(page: Page) -> None:
    page.get_by_role("button", name="Memory and speed").click()
    choose(page, "#train-tuning-backend", "unsloth")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_unsloth_is_installed_by_a_button_and_a_page_that_comes_back_finds_it(app_copy, open_page):
    page = open_page("train")
    card, state = page.locator("#train-unsloth-card"), page.locator("#train-unsloth .pill")
    expect(card).to_be_hidden()
    choose_unsloth(page)
    expect(card).to_contain_text("unsloth is not installed here")
    expect(card).to_contain_text("GB of disk")
    page.locator("#train-unsloth-install").click()
    expect(state).to_have_text("installing")
    expect(card.locator("[data-part=sentence]")).to_have_text("torch 2.13.0")
    page.reload()
    expect(state).to_have_text("installing")
    page.locator("#train-unsloth-stop").click()
    expect(state).to_have_text("stopped")
    page.locator("#train-unsloth-install").click()
    expect(state).to_have_text("installing")
    page.close()
    (app_copy / "go").touch()
    back = open_page("train")
    choose_unsloth(back)
    expect(back.locator("#train-unsloth .pill")).to_have_text("installed")
    expect(back.locator("#train-unsloth-note")).to_have_text("unsloth 2026.10.9 works on the CPU.")
    expect(back.locator("#train-unsloth-install")).to_be_hidden()
