"""Pieces of a page that several tabs share: its head, the panel of a running job, the first look.

What they look like is in `assets/app.css`; what fills the live ones is in `assets/app.js`.
"""

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import Context

from sftplay_ui.engine.errors import SFTPlayError

PANEL = """
<section class="job-panel" data-job="${job}" aria-label="Progress" hidden>
  <div class="job-line">
    <span class="pill" data-part="state"></span>
    <strong data-part="sentence"></strong>
    <span class="muted" data-part="eta"></span>
  </div>
  <div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100">
    <i></i>
  </div>
  <div class="problem" role="alert" hidden>
    <strong data-part="what"></strong>
    <span data-part="fix"></span>
  </div>
</section>
"""


def page_head(title: str, lead: str) -> gr.HTML:
    """Open a page: its title, and one sentence about what it is for."""
    return gr.HTML(
        f"<header class='page-head'><h1>{html.escape(title)}</h1>"
        f"<p class='muted'>{html.escape(lead)}</p></header>",
        elem_classes=["flush"],
        apply_default_css=False,
    )


def empty_state(title: str, lead: str) -> gr.HTML:
    """Say that there is nothing here yet, and what to do next."""
    return gr.HTML(
        f"<div class='empty'><strong>{html.escape(title)}</strong>"
        f"<p class='muted'>{html.escape(lead)}</p></div>",
        elem_classes=["flush"],
        apply_default_css=False,
    )


def card_title(text: str) -> gr.HTML:
    """Head a card."""
    return gr.HTML(
        f"<h2 class='card-title'>{html.escape(text)}</h2>",
        elem_classes=["flush"],
        apply_default_css=False,
    )


def live_part(template: str, script: str, elem_id: str) -> gr.HTML:
    """Place markup that never changes from here; `script` (which sees `element`) fills it."""
    return gr.HTML(
        html_template=template,
        js_on_load=script,
        elem_id=elem_id,
        elem_classes=["flush"],
        apply_default_css=False,
    )


def note_box(elem_id: str) -> gr.HTML:
    """Make room for what a handler has to say: fill it with `said` or `problem`."""
    return gr.HTML(elem_id=elem_id, elem_classes=["flush"], apply_default_css=False)


def said(text: str) -> str:
    """Word a note for a note box."""
    return f'<div class="note" role="status">{html.escape(text)}</div>'


def problem(error: SFTPlayError) -> str:
    """Word a failure for a note box: what happened, and what to do."""
    what, fix = html.escape(error.what), html.escape(error.fix)
    return f'<div class="problem" role="alert"><strong>{what}</strong><span>{fix}</span></div>'


def job_panel(job: str) -> gr.HTML:
    """Show phase, progress, ETA and failure of the newest run of a job.

    Its event `done` fires when a run of that job ends while the page looks on.
    """
    return gr.HTML(
        html_template=PANEL,
        job=job,
        js_on_load="SFTPlay.panel(element, () => trigger('done'))",
        elem_id=f"{job}-panel",
        elem_classes=["flush"],
        apply_default_css=False,
    )


def on_load(handler: Callable[..., Any], outputs: Any) -> Any:
    """Fill components with what is true when a page is opened; slow things go into its `then`."""
    window = Context.root_block
    if window is None:
        raise RuntimeError("on_load belongs into a tab's build()")
    return window.load(
        handler, outputs=outputs, queue=False, show_progress="hidden", api_visibility="private"
    )
