"""The tabs' border: what a handler raises becomes words on the page.

An SFTPlayError is expected: a warning with its fix, and the page stays as it was. Anything else
is a bug and is shown as one; its traceback goes to the terminal. This is one of the two places
that may catch every exception.
"""

import functools
import html
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from sftplay_ui.engine.errors import SFTPlayError

WARNING_SECONDS = 12


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler (or a streaming one) for an event; failures leave its outputs as they are."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                yield from handler(*values)
            except gr.Error:
                raise
            except Exception as error:
                yield explained(error)

        return stream

    @functools.wraps(handler)
    def call(*values: Any) -> Any:
        try:
            return handler(*values)
        except gr.Error:
            raise
        except Exception as error:
            return explained(error)

    return call


def explained(error: Exception) -> Any:
    """Tell the person, and give the update that changes nothing."""
    if isinstance(error, SFTPlayError):
        text = as_html(f"{error.what}\n{error.fix}")
        if LocalContext.event_id.get(None) is None:
            # an unqueued event has no way to send a warning along: it can only fail
            raise gr.Error(text, WARNING_SECONDS, title="Not done", print_exception=False)
        gr.Warning(text, WARNING_SECONDS, title="Not done")
        return gr.skip()
    traceback.print_exception(error)
    raise gr.Error(
        as_html(
            f"{type(error).__name__}: {error}\nThis is a bug in SFT-Play, not a mistake of yours. "
            "The terminal shows where it happened."
        ),
        duration=None,
        title="Something unexpected happened",
        print_exception=False,
    ) from error


def as_html(text: str) -> str:
    """Escape a text for a toast, which shows HTML; lines stay lines."""
    return html.escape(text).replace("\n", "<br>")
