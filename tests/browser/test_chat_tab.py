"""The Chat tab in a browser, before any model is loaded; talking is in `test_newcomer`."""

from playwright.sync_api import expect


def test_an_empty_question_is_answered_by_a_hint(open_page):
    page = open_page("chat")
    expect(page.locator("#chat-said")).to_contain_text("type a question and press Send")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-note")).to_contain_text("There is no question.")


def test_a_wrong_setting_is_named_and_the_question_stays(open_page):
    page = open_page("chat")
    page.get_by_role("button", name="How answers are written").click()
    page.locator("#chat-generate-temperature input").fill("99")
    page.locator("#chat-text textarea").fill("Why?")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-note")).to_contain_text("temperature")
    expect(page.locator("#chat-text textarea")).to_have_value("Why?")


def test_correcting_nothing_says_what_is_missing(open_page):
    page = open_page("chat")
    page.get_by_role("button", name="Correct the answer and learn from it").click()
    page.locator("#chat-keep").click()
    expect(page.locator("#chat-note")).to_contain_text("Nothing was asked yet.")
