"""How soon a page says that a worker was killed: `python -m benchmarks.lost_worker [TIMES]`.

Serves a window over a scratch workspace, opens it in headless Chromium, and kills a stand-in worker
with SIGKILL, TIMES times (default 5). Prints the seconds from the kill to the sentence on the page.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, sync_playwright

from sftplay_ui.app import Options, assemble, launch_options
from sftplay_ui.engine.workspace import Workspace
from tests import stand_in
from tests.browser.conftest import FLAGS, free_port

SAID = "ended without saying why"


def seconds_until_said(page: Page, workspace: Workspace, name: str) -> float:
    """Start a run, see it on the page, kill its worker, and wait for the sentence."""
    process = stand_in.start(stand_in.make_run(workspace, name), "--steps", "4000")
    page.wait_for_function("window.__chartN >= 5 && window.__state === 'running'")
    killed = time.monotonic()
    process.kill()
    page.locator("#train-head .problem", has_text=SAID).wait_for()
    process.wait()
    return time.monotonic() - killed


def main() -> None:
    """Print each time and the median."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    scratch = Path(tempfile.mkdtemp())
    os.environ["SFTPLAY_HOME"] = str(scratch / "home")
    workspace = Workspace(scratch / "project")
    workspace.outputs.mkdir(parents=True)
    window, live = assemble(workspace)
    port = free_port()
    window.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(Options(workspace)),
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=FLAGS
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/#train")
        found = [seconds_until_said(page, workspace, f"run-{n}") for n in range(times)]
        browser.close()
    live.close()
    window.close(verbose=False)
    shutil.rmtree(scratch, ignore_errors=True)
    print(" ".join(f"{value:.2f}" for value in found), f"median {median(found):.2f} s")


if __name__ == "__main__":
    main()
