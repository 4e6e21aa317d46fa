"""The Data tab in a browser: from an unknown file to processed examples."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

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


def drop(page: Page, folder: Path, name: str, text: str) -> None:
    """Drop a file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    page.locator("#data-drop input[type=file]").set_input_files(path)


def process(page: Page) -> None:
    """Press Process and wait for the account."""
    expect(page.locator("#data-doctor .muted, #data-doctor .note").first).to_be_visible()
    page.locator("#data-process").click()
    expect(page.locator("#data-report")).to_contain_text("Examples written")


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
    expect(page.locator("#data-file input")).to_have_value("capitals.csv")


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
    page.locator("#data-search input, #data-search textarea").fill("land 3")
    page.locator("#data-search input, #data-search textarea").press("Enter")
    expect(page.locator("#data-place")).to_contain_text("page 1 of 1")
    expect(page.locator("#data-table")).to_contain_text("Land 3")


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
