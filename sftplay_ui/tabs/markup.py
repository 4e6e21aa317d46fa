"""Small pieces of HTML with a person's own text in them, always escaped.

What they look like is in `assets/tabs.css`. Nothing here knows a tab or the engine.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import gradio as gr

Tone = Literal["", "good", "bad", "busy"]


@dataclass(frozen=True)
class Figure:
    """One labelled value; `detail` stands small below it."""

    label: str
    value: str
    detail: str = ""


def escape(text: object) -> str:
    """Make a text safe inside HTML, in attributes too; what is no character becomes visible."""
    safe = html.escape(str(text))
    # a zero byte or a lone surrogate would break the page's JSON or its parser
    return "".join(shown(c) for c in safe) if not safe.isprintable() else safe


def shown(character: str) -> str:
    """Show a control character as its picture; line breaks and tabs stay."""
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 32:
        return chr(0x2400 + code)
    return "\ufffd" if 0xD800 <= code <= 0xDFFF or code == 127 else character


def board(value: str = "", *, elem_id: str, live: bool = False) -> gr.HTML:
    """Make a place for HTML of ours; `live` ones are read out when they change."""
    return gr.HTML(
        value,
        elem_id=elem_id,
        elem_classes=["flush", *(["live-note"] if live else [])],
        apply_default_css=False,
        padding=False,
    )


def problem(what: str, fix: str = "") -> str:
    """Say what went wrong, and the one thing to do."""
    return (
        f"<div class='problem' role='alert'><strong>{escape(what)}</strong>"
        f"<span>{escape(fix)}</span></div>"
    )


def note(text: str, tone: Tone = "busy") -> str:
    """Say something that is neither a problem nor a result."""
    return f"<div class='note {tone}' role='status'>{escape(text)}</div>"


def figures(cells: Iterable[Figure]) -> str:
    """Lay out labelled values as small cards."""
    return (
        "<dl class='kpis'>"
        + "".join(
            f"<div class='kpi' title='{escape(cell.value)}'><dt>{escape(cell.label)}</dt>"
            f"<dd>{escape(cell.value)}<small>{escape(cell.detail)}</small></dd></div>"
            for cell in cells
        )
        + "</dl>"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, label: str) -> str:
    """Lay out rows whose cells are HTML already."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td data-label='{escape(name)}'>{cell}</td>"
            for name, cell in zip(heads, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f"<div class='scroll-x' role='region' aria-label='{escape(label)}' tabindex='0'>"
        f"<table class='table stacked'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def empty(title: str, lead: str) -> str:
    """Say that there is nothing here yet, and what to do next."""
    return (
        f"<div class='empty'><strong>{escape(title)}</strong>"
        f"<p class='muted'>{escape(lead)}</p></div>"
    )


def bytes_text(size: float) -> str:
    """Write a size the way people do."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
