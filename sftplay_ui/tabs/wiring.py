"""How a tab's events are wired: failures appear inline, beside the form that caused them.

What a handler raises as SFTPlayError is shown in the tab's note and every other output stays as it
was, so nothing typed is lost. Bugs are left to `guard`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import problem


def told_inline(handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """Wrap a handler with `outputs` values: one more value says what is wrong, or is empty."""

    @functools.wraps(handler)
    def call(*values: Any) -> Any:
        try:
            found = handler(*values)
        except SFTPlayError as error:
            return (*(gr.skip() for _ in range(outputs)), problem(error.what, error.fix))
        if outputs == 0:
            return ""
        return (*(found if isinstance(found, tuple) else (found,)), "")

    return call


def wire(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: Sequence[Component],
    outputs: Sequence[Component],
    *,
    note: gr.HTML,
    slow: bool = False,
) -> Any:
    """Let an event call a handler; `slow` ones are queued and show that they are at work."""
    return event(
        guarded(told_inline(handler, len(outputs))),
        inputs=list(inputs),
        outputs=[*outputs, note],
        queue=slow,
        concurrency_id=handler.__qualname__ if slow else None,
        show_progress="minimal" if slow else "hidden",
        api_visibility="private",
    )
