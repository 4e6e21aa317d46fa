"""The window's frame: top bar, rail of tabs, status bar, and the one poll that feeds every live
part.

What is on a page is the tabs' business; how the window is served is `app`'s.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import gradio as gr

from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.chat_tab import ChatTab
from sftplay_ui.tabs.data_tab import DataTab
from sftplay_ui.tabs.evaluate_tab import EvaluateTab
from sftplay_ui.tabs.merge_tab import MergeTab
from sftplay_ui.tabs.style_tab import StyleTab
from sftplay_ui.tabs.train_tab import TrainTab
from sftplay_ui.tabs.try_it import TryIt

TITLE = "SFT-Play"

TOP_BAR = """
<header class="topbar">
  <span class="brand"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M3 17c4 0 4-10 9-10
  s5 10 9 10" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round"/></svg>
  SFT-Play</span>
  <span class="project hide-s" title="Project folder" data-part="project"></span>
  <span class="grow"></span>
  <button type="button" class="pill" data-part="run" title="Show this run"></button>
  <span class="device pill hide-s" data-part="device"></span>
  <button type="button" class="icon" data-part="theme" aria-label="Switch between light and dark">
    <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z"
    fill="none" stroke="currentColor" stroke-width="1.8" stroke-linejoin="round"/></svg>
  </button>
</header>
"""

STATUS_BAR = """
<footer class="statusbar">
  <span class="dot" aria-hidden="true"></span>
  <span class="what" data-part="what">Ready</span>
  <span class="bar" role="progressbar" aria-label="Progress of the run" aria-valuemin="0"
    aria-valuemax="100" aria-valuenow="0"><i></i></span>
  <span class="muted hide-s" data-part="speed"></span>
  <span class="muted" data-part="eta"></span>
  <span class="sr-only" role="status" aria-live="polite" data-part="spoken"></span>
</footer>
"""


class Page(Protocol):
    """What the shell asks of a tab; see `tabs`."""

    name: str
    title: str

    def build(self, page: gr.Tab) -> None: ...


TABS: tuple[type, ...] = (DataTab, StyleTab, TrainTab, EvaluateTab, ChatTab, MergeTab)


def build_window(workspace: Workspace, live: LiveRuns) -> gr.Blocks:
    """Lay out the window around the tabs there are."""

    def since(query: Mapping[str, Any]) -> dict[str, Any]:
        return live.since(query)

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as window:
        gr.HTML(
            html_template=TOP_BAR,
            js_on_load="SFTPlay.topBar(element)",
            elem_id="topbar",
            elem_classes=["flush"],
            apply_default_css=False,
        )
        with gr.Tabs(elem_id="shell", overflow_behavior="wrap"):
            for kind in TABS:
                tab: Page = kind(workspace, live)
                with gr.Tab(tab.title, id=tab.name, elem_id=tab.name) as page:
                    tab.build(page)
        try_it = TryIt(workspace, live)
        try_it.build()
        try_it.go_on()
        gr.HTML(
            html_template=STATUS_BAR,
            js_on_load="SFTPlay.statusBar(element); SFTPlay.poll(element, server.since)",
            server_functions=[since],
            elem_id="statusbar",
            elem_classes=["flush"],
            apply_default_css=False,
        )
    return window
