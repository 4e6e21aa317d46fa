"""The Data tab in a browser: from an unknown file to processed examples."""

import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from sftplay_ui.engine.data.process import DataProgress
from sftplay_ui.tabs import data_tab
from tests.browser.steps import choose
from tests.browser.test_shell import CONTRAST, UNNAMED

CAPITALS = "Frage;Antwort\n" + "".join(
    f"What is the capital of Land {n}?;City {n}\n" for n in range(40)
)
ELEMENTS = "symbol\tweight\telement\n" + "".join(f"S{n}\t{n}.5\tElement {n}\n" for n in range(40))
HOSTILE = "question,answer\n" + "".join(
    f"Ask {n} <script>window.hacked=1</script>,<img src=x onerror='window.hacked=1'>{n}\n"
    for n in range(40)
)


TWICE = CAPITALS + "".join(f"What is the capital of Land {n}?;City {n}\n" for n in range(5))


def drop(page: Page, folder: Path, name: str, text: str, **more: str) -> None:
    """Drop a file with this text, and others by their names."""
    paths = []
    for called, written in {
        name: text,
        **{k.replace("_", "."): v for k, v in more.items()},
    }.items():
        (folder / called).write_text(written, encoding="utf-8")
        paths.append(folder / called)
    page.locator("#data-drop input[type=file]").set_input_files(paths)


def process(page: Page) -> None:
    """Press Process and wait for the account."""
    expect(page.locator("#data-doctor .muted, #data-doctor .note").first).to_be_visible()
    page.locator("#data-process").click()
    expect(page.locator("#data-report")).to_contain_text("Examples")


def row(page: Page, number: int) -> Locator:
    """Find a row of the table by its number, and let its buttons appear."""
    found = page.locator(f"#data-table tr[data-row='{number - 1}']")
    found.hover()
    return found


def test_a_foreign_csv_is_processed_with_two_clicks(open_page, tmp_path):
    page = open_page("data")
    expect(page.locator("#data-empty")).to_contain_text("Use the sample")
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    expect(page.locator("#data-role-user input")).to_have_value("Frage")
    expect(page.locator("#data-role-assistant input")).to_have_value("Antwort")
    expect(page.locator("#data-preview")).to_contain_text("City 0")
    process(page)
    expect(page.locator("#data-table")).to_contain_text("City")
    page.reload()
    expect(page.locator("#data-report")).to_contain_text("of 40 rows")
    expect(page.locator("#data-file")).to_contain_text("capitals.csv")


def test_an_unknown_csv_is_processed_and_styled_with_five_clicks(open_page, tmp_path):
    page = open_page("data")
    page.evaluate(
        "addEventListener('click', e => e.isTrusted && (window.n = (window.n || 0) + 1), true)"
    )
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    process(page)
    page.locator("#data-to-style").click()
    page.locator("#style-preset input").click()
    page.get_by_role("option", name="concise").click()
    page.locator("#style-apply").click()
    expect(page.locator("#style-done")).to_contain_text("32 of 32 examples changed")
    assert page.evaluate("window.n") <= 5


def test_all_dropped_files_are_taken_each_by_its_own_columns(open_page, tmp_path):
    page = open_page("data")
    others = {
        "asked_csv": "prompt,completion\n" + "".join(f"Ask {n}?,Say {n}\n" for n in range(20))
    }
    drop(page, tmp_path, "capitals.csv", CAPITALS, **others)
    expect(page.locator("#data-facts")).to_contain_text("The files differ")
    expect(page.locator("#data-preview")).to_contain_text("Say 0")
    process(page)
    expect(page.locator("#data-report")).to_contain_text("of 60 rows")


def test_a_first_row_that_is_an_example_can_be_said_to_be_one(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "plain.csv", CAPITALS.replace("Frage;Antwort", "Why?;Because."))
    choose(page, "#data-header", "is an example")
    for role, column in (("user", "column_1"), ("assistant", "column_2")):
        choose(page, f"#data-role-{role}", column)
    expect(page.locator("#data-preview")).to_contain_text("Because.")


def test_findings_are_mended_by_their_switches(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "twice.csv", TWICE)
    expect(page.locator("#data-doctor")).to_contain_text("The same example again")
    page.locator("#data-doctor .switch input").check()
    page.locator("#data-process").click()
    expect(page.locator("#data-report .finding", has_text="same example")).to_contain_text("mended")
    expect(page.locator("#data-report")).to_contain_text("of 45 rows")
    page.reload()
    expect(page.locator("#data-doctor .switch input")).to_be_checked()


def test_rows_of_a_finding_are_edited_deleted_and_brought_back(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "twice.csv", TWICE)
    process(page)
    page.locator("#data-report [data-kind=exact_duplicates]").click()
    expect(page.locator("#data-kind input")).to_have_value(re.compile("same example again"))
    choose(page, "#data-kind", "All rows")
    expect(page.locator("#data-place")).to_contain_text("1 to 25")
    row(page, 2).locator("[data-do=edit]").last.click()
    page.locator("#data-table textarea").fill("Typed <b>here</b>")
    page.locator("#data-table textarea").press("Control+Enter")
    expect(row(page, 2)).to_contain_text("Typed <b>here</b>")
    row(page, 1).locator("[data-do=delete]").click()
    expect(page.locator("#data-undo")).to_have_text("Undo (2)")
    page.reload()
    expect(row(page, 1)).to_contain_text("Typed <b>here</b>")
    page.locator("#data-undo").click()
    expect(row(page, 2)).to_contain_text("Typed <b>here</b>")
    expect(page.locator("#data-undo")).to_have_text("Undo (1)")


def test_a_text_that_is_left_is_saved_and_escape_leaves_it_as_it_was(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    process(page)
    was = row(page, 1).inner_text()
    row(page, 1).locator(".cell-text").last.dblclick()
    page.locator("#data-table textarea").fill("Not wanted")
    page.locator("#data-table textarea").press("Escape")
    assert row(page, 1).inner_text() == was
    row(page, 1).locator(".cell-text").last.dblclick()
    page.locator("#data-table textarea").fill("Typed and left")
    page.locator("#data-search textarea, #data-search input").click()
    expect(row(page, 1)).to_contain_text("Typed and left")


def test_progress_is_seen_on_every_page_and_processing_can_be_stopped(
    open_page, tmp_path, monkeypatch
):
    going = threading.Event()

    def slow(config, workspace, tell, **more):
        tell(DataProgress("read", 12_000, None))
        going.wait(60)
        tell(DataProgress("read", 14_000, None))

    monkeypatch.setattr(data_tab, "process_files", slow)
    page, other = open_page("data"), open_page("data")
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    expect(page.locator("#data-doctor .note")).to_be_visible()
    page.locator("#data-process").click()
    expect(page.locator("#data-progress")).to_contain_text("12,000")
    drop(other, tmp_path, "capitals.csv", CAPITALS)
    expect(other.locator("#data-progress")).to_contain_text("12,000")
    other.locator("#data-stop").click()
    going.set()
    expect(page.locator("#data-process-note")).to_contain_text("Processing was stopped")
    expect(other.locator("#data-progress .job-panel")).to_be_hidden()


def test_columns_are_chosen_by_hand_where_no_guess_is_safe(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "elements.tsv", ELEMENTS)
    expect(page.locator("#data-facts")).to_contain_text("Please choose the columns")
    page.locator("#data-process").click()
    expect(page.locator("#data-process-note")).to_contain_text("please choose")
    for role, column in (("user", "element"), ("assistant", "symbol")):
        choose(page, f"#data-role-{role}", column)
    expect(page.locator("#data-preview")).to_contain_text("Element 0")
    process(page)
    expect(page.locator("#data-process-note")).to_have_text("")


def test_the_delimiter_can_be_set_right(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    expect(page.locator("#data-preview")).to_contain_text("City 0")
    choose(page, "#data-delimiter", "tab")
    expect(page.locator("#data-preview")).not_to_contain_text("City 0")
    choose(page, "#data-delimiter", "semicolon")
    expect(page.locator("#data-preview")).to_contain_text("City 0")


def test_a_search_leafs_through_the_processed_rows(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    process(page)
    page.locator("#data-forward").click()
    expect(page.locator("#data-place")).to_contain_text("page 2 of 2")
    page.locator("#data-search input, #data-search textarea").fill("city 3")
    page.locator("#data-search input, #data-search textarea").press("Enter")
    expect(page.locator("#data-place")).to_contain_text("page 1 of 1")
    expect(page.locator("#data-table")).to_contain_text("City 3")


def test_markup_in_a_file_is_shown_and_never_run(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "hostile.csv", HOSTILE)
    expect(page.locator("#data-preview")).to_contain_text("<script>")
    process(page)
    expect(page.locator("#data-table")).to_contain_text("<img src=x")
    assert page.evaluate("window.hacked") is None


def test_what_cannot_be_read_is_said_beside_the_drop_zone(open_page, tmp_path):
    page = open_page("data")
    drop(page, tmp_path, "capitals.csv", "  \n \n")
    expect(page.locator("#data-empty")).to_contain_text("nothing but white space")
    expect(page.locator("#data-process")).to_be_hidden()


def test_the_sample_is_one_click_away(open_page):
    page = open_page("data")
    page.locator("#data-sample").click()
    expect(page.locator("#data-preview")).to_contain_text("37th President")
    expect(page.locator("#data-doctor")).to_contain_text("Answers of a single character")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_filled_page_is_readable_and_fits_a_phone(open_page, tmp_path, scheme):
    page = open_page("data", color_scheme=scheme, viewport={"width": 390, "height": 844})
    drop(page, tmp_path, "capitals.csv", CAPITALS)
    process(page)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
