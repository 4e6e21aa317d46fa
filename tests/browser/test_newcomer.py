"""A newcomer's whole way in one browser: own CSV, mapping, tokens, training, scores, chat, merge.

The model is tiny, everything else is the real thing: real workers, real files, real clicks.
"""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs import try_it
from tests.browser.steps import choose

LONG = 240_000  # a worker imports torch, on a machine that may be busy
CSV = "Frage;Antwort\n" + "".join(
    f"Wie heißt Land {n}?;Land {n} heißt Ölland.\n" for n in range(40)
)
STATE = "#train-head [data-part=state]"


@pytest.fixture
def tiny(workspace: Workspace, tiny_llama: Path) -> Workspace:
    """Put a tiny base model into the workspace."""
    shutil.copytree(tiny_llama, workspace.root / "models" / "tiny")
    return workspace


def bring_data(page: Page, folder: Path) -> None:
    """Drop a CSV with foreign headers, swap its roles and back again, process it."""
    path = folder / "länder.csv"
    path.write_text(CSV, encoding="cp1252")
    page.locator("#data-drop input[type=file]").set_input_files(path)
    expect(page.locator("#data-facts")).to_contain_text("cp1252")
    for role, column in (("user", "Antwort"), ("user", "Frage")):
        choose(page, f"#data-role-{role}", column)
    expect(page.locator("#data-preview")).to_contain_text("Wie heißt Land 0?")
    page.locator("#data-process").click()
    expect(page.locator("#data-report")).to_contain_text("of 40 rows")


def see_learned_tokens(page: Page) -> None:
    """Follow the button to Style and look at an example token by token."""
    page.locator("#data-to-style").click()
    model = page.locator("#style-model input")
    model.fill("models/tiny")
    model.press("Enter")
    expect(page.locator(".tokens .tok.learned").first).to_be_visible()
    page.locator("#style-system textarea").fill("Antworte kurz.")
    expect(page.locator("#style-change ins")).to_have_text("Antworte kurz.")
    page.locator("#style-apply").click()
    expect(page.locator("#style-done")).to_contain_text("32 of 32 examples changed")
    page.locator("#style-to-train").click()


def start_training(page: Page, name: str, epochs: str) -> None:
    """Fill in the form and start."""
    model = page.locator("#train-model-name input")
    model.fill("models/tiny")
    model.press("Enter")
    page.get_by_text("Files and names").click()
    page.locator("#train-run_name input, #train-run_name textarea").fill(name)
    page.locator("#train-train-epochs input").fill(epochs)
    page.locator("#train-start").click()
    expect(page.locator("#train-start-note")).to_contain_text(f"{name} has started", timeout=LONG)


def points(page: Page, at_least: int) -> int:
    """Wait until the curve has so many points, and count them."""
    page.wait_for_function(f"() => window.__chartN >= {at_least}", timeout=LONG)
    return int(page.evaluate("window.__chartN"))


def watch_stop_and_resume(page: Page) -> None:
    """Watch the loss, reload in the middle, stop, resume, and stop again."""
    seen = points(page, 3)
    page.reload()
    seen = points(page, seen + 1)
    page.locator("#train-stop").click()
    expect(page.locator(STATE)).to_have_text("stopped", timeout=LONG)
    seen = points(page, seen)
    page.locator("#train-resume").click()
    expect(page.locator("#train-run-note")).to_contain_text("goes on from step", timeout=LONG)
    points(page, seen + 2)
    page.locator("#train-stop").click()
    expect(page.locator(STATE)).to_have_text("stopped", timeout=LONG)


def evaluate(page: Page) -> None:
    """Compare both models on four questions."""
    page.evaluate("SFTPlay.go('evaluate')")
    expect(page.locator("#evaluate-run input")).to_have_value("short", timeout=LONG)
    page.locator("#evaluate-limit input").fill("4")
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluate-scores .verdict")).to_contain_text("short", timeout=LONG)
    expect(page.locator("#evaluate-answers tbody tr")).to_have_count(4)


def chat(page: Page) -> None:
    """Ask both models, reload, and free the device."""
    page.evaluate("SFTPlay.go('chat')")
    expect(page.locator("#chat-model input")).to_have_value("short", timeout=LONG)
    page.get_by_role("button", name="How answers are written").click()
    page.locator("#chat-generate-max_new_tokens input").fill("8")
    page.locator("#chat-text textarea").fill("Wie heißt Land 1?")
    page.locator("#chat-text textarea").press("Enter")
    expect(page.locator(".said.base small").last).to_contain_text("tokens/s", timeout=LONG)
    page.get_by_role("button", name="The very prompt that was sent").click()
    expect(page.locator("#chat-prompts")).to_contain_text("Antworte kurz.")
    page.reload()
    expect(page.locator("#chat-said")).to_contain_text("Wie heißt Land 1?")


def merge(page: Page) -> None:
    """Merge; the chat's model is put away for it, and the page says so."""
    page.evaluate("SFTPlay.go('merge')")
    expect(page.locator("#merge-space")).to_contain_text("are free on that disk", timeout=LONG)
    page.locator("#merge-start").click()
    expect(page.locator("#merge-result .verdict")).to_contain_text(
        re.compile("Loaded again|came out differently"), timeout=LONG
    )
    page.evaluate("SFTPlay.go('chat')")
    expect(page.locator("#chat-state")).to_contain_text("another job needed the device")


@pytest.mark.timeout(1500)
def test_from_an_own_file_to_a_merged_model(tiny, open_page, tmp_path):
    page = open_page("data")
    bring_data(page, tmp_path)
    see_learned_tokens(page)
    start_training(page, "long", "200")
    watch_stop_and_resume(page)
    page.reload()
    start_training(page, "short", "1")
    expect(page.locator(STATE)).to_have_text("finished", timeout=LONG)
    assert (tiny.adapters / "short" / "sftplay.json").is_file()
    evaluate(page)
    chat(page)
    merge(page)
    assert (tiny.outputs / "merge-short" / "model" / "config.json").is_file()


@pytest.mark.timeout(900)
def test_one_button_walks_the_sample_and_survives_a_reload(tiny, open_page, monkeypatch):
    small = {**try_it.demo_settings(), "model.name": "models/tiny", "train.epochs": 1.0}
    monkeypatch.setattr(try_it, "demo_settings", lambda: {**small, "evaluate.limit": 2})
    page = open_page("data")
    page.get_by_role("button", name="Try it now").click()
    expect(page.locator(STATE)).to_have_text("running", timeout=LONG)
    page.reload()
    steps = page.locator(".try-it li")
    expect(steps.nth(0)).to_contain_text("210 trivia questions")
    expect(page.locator("#chat h1")).to_be_visible(timeout=LONG)
    expect(page.locator("#chat-model input")).to_have_value("try-it-now")
    page.evaluate("SFTPlay.go('evaluate')")
    expect(page.locator("#evaluate-scores .verdict")).to_contain_text("try-it-now")
