"""Pages of a long table: back, forward, and where one is."""

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class Pager:
    """Three small controls; the page number is what a handler gets and what it may set back."""

    page: gr.Number
    back: gr.Button
    forward: gr.Button
    place: gr.HTML

    @classmethod
    def lay_out(cls, prefix: str, what: str) -> "Pager":
        """Put the controls in a row of their own; `what` is what is being leafed through."""
        with gr.Row(elem_classes=["toolbar", "pager"]):
            back = gr.Button(
                f"Previous {what}", size="sm", min_width=110, scale=0, elem_id=f"{prefix}-back"
            )
            page = gr.Number(
                1,
                label="Page",
                precision=0,
                minimum=1,
                min_width=84,
                scale=0,
                container=False,
                elem_id=f"{prefix}-page",
            )
            forward = gr.Button(
                f"Next {what}", size="sm", min_width=110, scale=0, elem_id=f"{prefix}-forward"
            )
            place = gr.HTML(elem_id=f"{prefix}-place", elem_classes=["flush"], padding=False)
        return cls(page, back, forward, place)


@dataclass(frozen=True)
class Place:
    """Which rows a page shows: numbers from 1, `first` 0 where there are none."""

    page: int
    pages: int
    first: int
    last: int
    total: int

    @property
    def sentence(self) -> str:
        if self.total == 0:
            return "<span class='muted'>nothing to show</span>"
        if self.pages == self.total:
            return f"<span class='muted'>{self.first:,} of {self.total:,}</span>"
        return (
            f"<span class='muted'>{self.first:,} to {self.last:,} of {self.total:,}, "
            f"page {self.page:,} of {self.pages:,}</span>"
        )


def place_of(page: float | None, total: int, size: int) -> Place:
    """Find the place of a page; numbers outside are brought back inside."""
    pages = max(1, -(-total // size))
    number = min(max(1, int(page or 1)), pages)
    first = (number - 1) * size
    return Place(number, pages, min(first + 1, total), min(first + size, total), total)
