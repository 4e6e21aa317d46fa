"""The frame of the window, in a browser."""

import json
import re
import urllib.request

import pytest
from playwright.sync_api import expect

from sftplay_ui.shell import TABS
from tests import stand_in

NAMES = [tab.name for tab in TABS]
DARK = re.compile(r"\bdark\b")
SELECTED = "#shell > .tab-wrapper [role=tab][aria-selected=true]:visible"
CONTRAST = """() => {
  const rgba = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const under = element => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at), colour = rgba(style.backgroundColor);
      if (style.backgroundImage !== 'none') return null;
      if (style.backgroundColor.startsWith('color(')) return null;
      if (colour.length === 3 || colour[3] === 1) return colour;
      if (colour[3] > 0) return null;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility({visibilityProperty: true})) continue;
    const style = getComputedStyle(element), back = under(element), front = rgba(style.color);
    if (!back || front.length < 3 || element.closest('.sr-only,[disabled]')) continue;
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5))
      found.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(found)];
}"""
UNNAMED = """() => [...document.querySelectorAll('button, input, textarea, [role=tab]')]
  .filter(e => e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim()
    || e.title || e.closest('label') || (e.labels && e.labels.length)))
  .map(e => e.outerHTML.slice(0, 120))"""


def test_the_window_opens_on_its_first_tab(page):
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", NAMES[0])
    expect(page.locator("#topbar [data-part=device]")).to_contain_text("GiB")
    expect(page.locator("#statusbar .what")).to_have_text("Ready")


def test_no_page_holds_a_connection_open(app_url):
    with urllib.request.urlopen(f"{app_url}/config") as answer:
        assert json.load(answer)["connect_heartbeat"] is False


def test_nine_pages_are_open_at_once(open_page):
    pages = [open_page() for _ in range(9)]
    for page in pages:
        expect(page.locator("#topbar [data-part=device]")).to_contain_text("GiB")


@pytest.mark.parametrize("name", NAMES)
def test_every_tab_opens_with_a_heading(page, name):
    page.locator(f"#{name}-button:visible").click()
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", name)
    expect(page.locator(f"#{name} h1")).to_be_visible()


def test_the_open_tab_survives_a_reload(open_page):
    page = open_page(NAMES[-1])
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", NAMES[-1])
    page.reload()
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", NAMES[-1])


def test_another_tab_begins_at_its_top(open_page):
    page = open_page("data", viewport={"width": 1280, "height": 300})
    page.evaluate("window.scrollTo(0, 200)")
    page.wait_for_function("() => window.scrollY > 100")
    page.get_by_role("tab", name="Train").click()
    page.wait_for_function("() => window.scrollY === 0")


def test_arrow_keys_move_along_the_rail_and_around_its_ends(page):
    page.locator(SELECTED).focus()
    for name in [*NAMES[1:], NAMES[0]]:
        page.keyboard.press("ArrowDown")
        expect(page.locator(SELECTED)).to_have_attribute("aria-controls", name)
    page.keyboard.press("ArrowUp")
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", NAMES[-1])
    page.keyboard.press("Home")
    expect(page.locator(SELECTED)).to_have_attribute("aria-controls", NAMES[0])


def test_the_chosen_light_survives_a_reload(open_page):
    page = open_page(color_scheme="light")
    body = page.locator("body")
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(body).to_have_class(DARK)
    page.reload()
    expect(body).to_have_class(DARK)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_stands_out_and_every_control_has_a_name(open_page, name, scheme):
    page = open_page(name, color_scheme=scheme)
    expect(page.locator(f"#{name} h1")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(UNNAMED) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_shows_every_page_without_scrolling_sideways(open_page, name):
    page = open_page(name, viewport={"width": 390, "height": 844})
    expect(page.locator(f"#{name} h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_bars_tell_of_a_run_started_elsewhere(page, workspace):
    process = stand_in.start(stand_in.make_run(workspace, "abroad"), "--pause", "0.2")
    expect(page.locator("#topbar [data-part=run]")).to_have_text("abroad")
    expect(page.locator("#statusbar .what")).to_contain_text("abroad: Training, step")
    expect(page.locator("#statusbar .bar")).to_be_visible()
    process.kill()
    process.wait()
    expect(page.locator("#statusbar .what")).to_contain_text("abroad: Lost")
