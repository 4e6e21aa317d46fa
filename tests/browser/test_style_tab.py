"""The Style tab in a browser: a rule, a template, and the learned-token view."""

import json
import re

import pytest
from playwright.sync_api import expect

from sftplay_ui.engine.project import CurrentData, set_current_data
from tests.browser.steps import choose
from tests.browser.test_shell import CONTRAST, UNNAMED

ROWS = [
    {"user": "What is <b>bold</b>?", "assistant": "A <i>weight</i>."},
    {"user": "ما هي عاصمة مصر؟", "assistant": "القاهرة"},
    {"user": "日本の首都は？", "assistant": "東京です。"},
]
LOSES_THE_ANSWER = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.fixture
def styled(workspace, tiny_llama):
    """Give the workspace three examples and a base model to look at them with."""
    folder = workspace.data / "processed"
    folder.mkdir()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    set_current_data(workspace, CurrentData(model=str(tiny_llama)))
    return workspace


def test_a_rule_shows_in_the_preview_before_it_is_applied(styled, open_page):
    page = open_page("style")
    expect(page.locator("#style-change .turn").first).to_be_visible()
    page.locator("#style-system textarea").fill("Be brief.")
    expect(page.locator("#style-change ins")).to_have_text("Be brief.")
    expect(page.locator("#style-tokens")).to_contain_text("Be brief.")
    page.locator("#style-apply").click()
    expect(page.locator("#style-done")).to_contain_text("3 of 3 examples changed")
    page.reload()
    expect(page.locator("#style-system textarea")).to_have_value("Be brief.")


def test_learned_tokens_stand_out_and_tell_their_ids(styled, open_page):
    page = open_page("style")
    expect(page.locator(".tokens .tok.learned").first).to_have_attribute(
        "title", re.compile(r"token \d+, learned")
    )
    learned = page.locator(".tokens .tok.learned").all_inner_texts()
    assert "".join(learned) == "A <i>weight</i>.<|im_end|>"
    page.locator("#style-max-seq-len input").fill("20")
    expect(page.locator(".tokens .tok.cut").first).to_be_visible()


def test_every_script_reads_in_its_own_direction(styled, open_page):
    page = open_page("style")
    page.locator("#style-forward").click()
    answer = page.locator("#style-change section").nth(1).locator(".turn.assistant [dir=auto]")
    expect(answer).to_have_text("القاهرة")
    assert answer.evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.locator("#style-forward").click()
    expect(page.locator("#style-change")).to_contain_text("東京です。")
    expect(page.locator("#style-place")).to_contain_text("3 of 3")


def write_source(page, text):
    """Write a template into the editor, in place of what stands there."""
    editor = page.locator("#style-editor .cm-content")
    expect(editor).to_be_visible()
    editor.fill(text)


def test_a_template_is_edited_checked_and_kept(styled, open_page):
    page = open_page("style")
    page.get_by_role("button", name="Edit the chat template").click()
    # what is chosen stands in the editor
    expect(page.locator("#style-editor .cm-content")).to_contain_text("<|im_start|>")
    expect(page.locator("#style-checked")).to_contain_text("training uses")
    write_source(page, LOSES_THE_ANSWER)
    expect(page.locator("#style-checked")).to_contain_text("never writes the assistant turn")
    expect(page.locator("#style-checked")).to_contain_text("A draft")
    write_source(page, "{% for m in messages %}\n{{ m.content }}\n{% endfo %}")
    expect(page.locator("#style-checked .findings b")).to_have_text("Line 3")
    expect(page.locator("#style-checked .excerpt .at")).to_contain_text("{% endfo %}")
    expect(page.locator("#style-tokens .problem")).to_contain_text("draft.jinja:3")
    good = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    prompt = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    write_source(page, good + prompt)
    expect(page.locator("#style-tokens")).to_contain_text("draft.jinja (being edited")
    page.locator("#style-name input, #style-name textarea").fill("mine")
    page.locator("#style-save").click()
    expect(page.locator("#style-template input")).to_have_value("mine.jinja")
    expect(page.locator("#style-tokens")).to_contain_text("mine.jinja was chosen")


def test_answers_that_break_the_rule_are_counted_and_reached(styled, open_page):
    folder = styled.data / "processed"
    rows = [{"user": f"Q{n}?", "assistant": "One. " * n} for n in range(1, 9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "val.jsonl").write_text(text, encoding="utf-8")
    page = open_page("style")
    expect(page.locator("#style-change .turn").first).to_be_visible()
    page.get_by_role("radio", name="Validation").check()
    expect(page.locator("#style-place")).to_contain_text("1 of 8")
    choose(page, "#style-preset", "concise")
    demand = page.locator("#style-adherence .demand")
    expect(demand).to_contain_text("75% of the answers (6 of 8) break it: at most 2 sentences.")
    demand.locator("summary").click()
    demand.get_by_role("button", name="Example 5").click()
    expect(page.locator("#style-place")).to_contain_text("5 of 8")
    expect(page.locator("#style-change")).to_contain_text("Q5?")
    page.locator("#style-splits").get_by_label("Validation").uncheck()
    expect(page.locator("#style-change")).to_contain_text("This example stays as it is")
    expect(demand).to_have_count(0)


def test_applying_nothing_says_what_is_missing(styled, open_page):
    page = open_page("style")
    page.locator("#style-apply").click()
    expect(page.locator("#style-note")).to_contain_text("there is no style to apply")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_filled_page_is_readable_and_fits_a_phone(styled, open_page, scheme):
    page = open_page("style", color_scheme=scheme, viewport={"width": 390, "height": 844})
    expect(page.locator("#style-change .turn").first).to_be_visible()
    page.locator("#style-system textarea").fill("Be brief.")
    page.locator("#style-max-seq-len input").fill("20")
    expect(page.locator(".tokens .tok.cut").first).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
