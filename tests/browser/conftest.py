"""A real window in a real browser: Debian's Chromium, driven by Playwright, nothing downloaded.

Every test that asks for `page` also proves that the page wrote no error to its console and asked
nobody but its own server.
"""

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sftplay_ui.app import Options, assemble, launch_options
from sftplay_ui.engine.workspace import Workspace

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# What Gradio's client says of an answer that a reload did not wait for.
CUT_BY_A_RELOAD = (
    "AbortError: signal is aborted without reason",
    "Unexpected error Connection errored out",
)
# not a measurement: a busy machine may take its time
expect.set_options(timeout=20_000)
WIDE = {"width": 1280, "height": 800}


@dataclass
class Watched:
    """What pages did that they should not have done."""

    own: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> Page:
        """Note a page's errors and its requests to anybody else."""
        page.on("console", lambda said: said.type == "error" and self.hear(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.note(request.url))
        return page

    def hear(self, text: str) -> None:
        if not text.startswith(CUT_BY_A_RELOAD):
            self.errors.append(text)

    def note(self, url: str) -> None:
        if not url.startswith((self.own, "data:", "blob:")):
            self.outside.append(url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium once; without it these tests are skipped."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


def free_port() -> int:
    """Find a port for one window; Gradio's own search leaves a socket open for each taken one."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        number: int = asked.getsockname()[1]
    return number


@pytest.fixture
def app_url(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the window of this test's workspace."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    window, live = assemble(workspace, may_install=True)
    _, url, _ = window.launch(
        server_name="127.0.0.1",
        server_port=free_port(),
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(Options(workspace)),
    )
    yield url.rstrip("/")
    live.close()
    window.close(verbose=False)


@pytest.fixture
def open_page(browser: Browser, app_url: str) -> Iterator[Callable[..., Page]]:
    """Open pages of the window; at the end none of them may have done anything wrong."""
    watched = Watched(app_url)
    contexts = []

    def open_one(tab: str = "", **options: object) -> Page:
        looks = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        context = browser.new_context(**looks)
        contexts.append(context)
        page = watched.watch(context.new_page())
        page.goto(f"{app_url}/#{tab}")
        page.locator("#statusbar .what").wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not watched.errors
    assert not watched.outside


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """Open the window's first page."""
    return open_page()
