"""Two runs beside each other: which settings differ, and how their losses fell."""

import math
from collections.abc import Sequence
from typing import Any

import gradio as gr

from sftplay_ui.engine.config_file import SETTINGS
from sftplay_ui.engine.runs import find_run
from sftplay_ui.engine.settings import show
from sftplay_ui.form import values_of
from sftplay_ui.live import LiveRuns
from sftplay_ui.story import Series, Story
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.markup import board, escape
from sftplay_ui.tabs.parts import said

POINTS = 240
WIDTH, HEIGHT = 640.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 630.0, 8.0, 192.0
# so much of the average before stays at every step
KEEP = 0.9
Points = list[tuple[int, float]]


class RunComparison:
    """Two choices, a button, and what it finds."""

    def __init__(self, live: LiveRuns) -> None:
        self.live = live

    def build(self, page: gr.Tab) -> None:
        """Lay out the comparison, closed; the choices are those of the moment it is looked at."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        with gr.Accordion("Compare two runs", open=False, elem_id="train-compare") as part:
            with gr.Row(elem_classes=["pair"]):
                one = gr.Dropdown([], label="One run", elem_id="train-compare-one")
                other = gr.Dropdown([], label="Another run", elem_id="train-compare-other")
            button = gr.Button("Compare", size="sm", elem_id="train-compare-go")
            found = board(elem_id="train-compared")
        for event in (page.select, part.expand):
            event(guarded(self.choices), outputs=[one, other], queue=False, **quiet)
        button.click(guarded(self.compare), inputs=[one, other], outputs=[found], **quiet)

    def choices(self) -> tuple[Any, Any]:
        """Offer the training runs, newest first."""
        names = [row.run for row in self.live.summaries("train")]
        return tuple(gr.update(choices=names) for _ in range(2))  # type: ignore[return-value]

    def compare(self, one: str | None, other: str | None) -> str:
        """Lay two runs beside each other."""
        if not one or not other or one == other:
            return said("Choose two different runs.")
        stories = [self.live.story(name) for name in (one, other)]
        return f"{legend(stories)}{curves(stories)}{figures(stories)}{differences(stories)}"


def legend(stories: Sequence[Story]) -> str:
    """Say whose line is whose; the dots are evaluations."""
    keys = "".join(
        f'<span class="key" style="--line: var({line})">{escape(story.run.name)}</span>'
        for story, line in zip(stories, ("--train-line", "--eval-line"), strict=True)
    )
    return (
        f'<p class="legend">{keys}<span class="muted">train loss, smoothed; dots: eval</span></p>'
    )


def curves(stories: Sequence[Story]) -> str:
    """Draw the losses of both runs over their steps on one pair of axes."""
    lines = [thinned(smoothed(story.steps)) for story in stories]
    dots = [points_of(story.evaluations) for story in stories]
    everything = [point for points in (*lines, *dots) for point in points]
    if not everything:
        return said("Neither run has logged a loss yet.")
    last = max(1, *(step for step, _ in everything))
    low, high = (pick(loss for _, loss in everything) for pick in (min, max))
    span = high - low or 1.0

    def place(step: int, loss: float) -> str:
        x = LEFT + (RIGHT - LEFT) * step / last
        return f"{x:.1f},{TOP + (BOTTOM - TOP) * (high - loss) / span:.1f}"

    drawn = [
        f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.2f}</text>'
        for value, y in ((high, TOP + 8), (low, BOTTOM))
    ]
    drawn.append(f'<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {last:,}</text>')
    for name, line, evaluated in zip(("one", "other"), lines, dots, strict=True):
        where = " ".join(place(*point) for point in line)
        drawn.append(f'<polyline class="{name}" points="{where}"/>')
        for point in evaluated:
            x, y = place(*point).split(",")
            drawn.append(f'<circle class="{name}" cx="{x}" cy="{y}" r="3.5"/>')
    label = escape(" and ".join(story.run.name for story in stories))
    return (
        f'<svg class="compare-curves" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="Losses of {label}">{"".join(drawn)}</svg>'
    )


def points_of(series: Series) -> Points:
    """Pair steps with losses, without those that are no numbers."""
    pairs = zip(series.step, series.columns["loss"], strict=True)
    return [(step, loss) for step, loss in pairs if math.isfinite(loss)]


def smoothed(series: Series) -> Points:
    """Average each loss with those before it, the start corrected."""
    found: Points = []
    mean = weight = 0.0
    for step, loss in points_of(series):
        mean, weight = KEEP * mean + loss, KEEP * weight + 1
        found.append((step, mean / weight))
    return found


def thinned(points: Points) -> Points:
    """Keep as many points as a line can show, the last among them."""
    stride = max(1, len(points) // POINTS)
    return points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])


def figures(stories: Sequence[Story]) -> str:
    """Set the last and best figures of both side by side."""
    rows = []
    for title, figure in (
        ("state", lambda story: story.state),
        ("steps", lambda story: f"{story.last_step.step:,}" if story.last_step else "–"),
        ("last train loss", lambda story: number(points_of(story.steps)[-1:])),
        ("last eval loss", lambda story: number(points_of(story.evaluations)[-1:])),
        ("lowest eval loss", lambda story: lowest(points_of(story.evaluations))),
    ):
        rows.append((title, *(figure(story) for story in stories)))
    return table("", stories, rows)


def number(points: Points) -> str:
    return f"{points[0][1]:.4f}" if points else "–"


def lowest(points: Points) -> str:
    """Give the lowest loss and its step."""
    if not points:
        return "–"
    step, loss = min(points, key=lambda point: point[1])
    return f"{loss:.4f} at step {step:,}"


def differences(stories: Sequence[Story]) -> str:
    """List the settings that differ."""
    values = [
        values_of(find_run(story.run.name, story.run.workspace).config(), SETTINGS)
        for story in stories
    ]
    rows = [
        (path, *(show(each[path]).strip("`") or "–" for each in values))
        for path in SETTINGS
        if values[0][path] != values[1][path] and path != "run_name"
    ]
    if not rows:
        return said("Their settings are the same.")
    return table("Settings that differ", stories, rows)


def table(title: str, stories: Sequence[Story], rows: Sequence[tuple[str, ...]]) -> str:
    """Lay out rows of a name and two values."""
    heads = "".join(f'<th scope="col">{escape(story.run.name)}</th>' for story in stories)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    head = f'<h3 class="small-title">{escape(title)}</h3>' if title else ""
    return (
        f'{head}<div class="scroll"><table class="table"><thead><tr><th scope="col"></th>{heads}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )
