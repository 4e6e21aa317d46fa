"""Take the README's pictures from the real app: `python docs/take_screenshots.py WORKSPACE`.

The workspace is one that `python launch.py demo --workspace WORKSPACE` has filled. Needs Chromium.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "screenshots"
PORT = 7897
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def wait_until_it_answers(url: str, seconds: float = 120) -> None:
    """Return when the window answers; TimeoutError when it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/config", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


def open_tab(page: Page, name: str) -> None:
    """Go to a tab and let it settle."""
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(3000)


def fill_data(page: Page) -> None:
    """Choose the bundled sample and process it."""
    page.get_by_role("button", name="Use the sample").click()
    process = page.get_by_role("button", name="Process", exact=True)
    process.wait_for()
    page.wait_for_timeout(4000)
    process.click()
    page.wait_for_timeout(6000)


def ask(page: Page) -> None:
    """Ask both models one question and wait for their answers."""
    page.get_by_label("Your message").fill("What year was President John F. Kennedy assassinated?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(60_000)


def main(workspace: Path) -> None:
    """Serve the workspace, walk through its tabs, and keep a picture of each."""
    TARGET.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sftplay_ui.app", "--no-browser", "--port", str(PORT)]
    command += ["--workspace", str(workspace)]
    url = f"http://127.0.0.1:{PORT}"
    with subprocess.Popen(command, cwd=ROOT, env=os.environ.copy()) as window:
        try:
            wait_until_it_answers(url)
            take(url)
        finally:
            window.terminate()


def take(url: str) -> None:
    """Take one picture of each tab."""
    steps = {"Data": fill_data, "Chat": ask}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=FLAGS
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.get_by_role("tab", name="Data").wait_for()
        for name in ("Data", "Style", "Train", "Evaluate", "Chat", "Merge"):
            open_tab(page, name)
            steps.get(name, lambda _page: None)(page)
            page.screenshot(path=TARGET / f"{name.lower()}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
