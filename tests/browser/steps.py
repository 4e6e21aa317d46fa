"""Steps that several browser tests take."""

from playwright.sync_api import Page, expect


def choose(page: Page, box: str, option: str) -> None:
    """Choose in a drop-down, and wait till its list has faded out before anything else is done."""
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=option).click()
    expect(page.get_by_role("listbox")).to_have_count(0)
