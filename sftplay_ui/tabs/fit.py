"""Will it fit: a stacked bar of what a run needs against what is free, as HTML.

Colours and layout are in `assets/fit.css`; the figures come from `engine.memory`.
"""

import html

from sftplay_ui.engine.memory.estimate import Estimate
from sftplay_ui.engine.memory.forecast import Forecast
from sftplay_ui.engine.memory.prospect import Prospect

GIB = 1 << 30
LABELS = {
    "weights": "weights",
    "quant_state": "4-bit scales",
    "embedding_and_head": "embedding and head",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "loss",
    "slack": "slack",
    "context": "process",
}
VERDICTS = {"fits": ("good", "Fits"), "tight": ("busy", "Tight"), "no": ("bad", "Does not fit")}
# Parts below this share of the bar are only listed, being too thin to be seen.
THINNEST = 0.004


def prospect_html(ahead: Prospect) -> str:
    """Show memory and time of a run that has not started."""
    return fit_html(ahead.memory) + time_html(ahead.time)


def fit_html(found: Estimate) -> str:
    """Draw the bar, its key and what to change; everything that is text is escaped."""
    tone, word = VERDICTS[found.verdict]
    whole = max(found.high_bytes, found.free_bytes)
    parts = {name: size for name, size in vars(found.categories).items() if size}
    segments = "".join(
        f'<i class="{name}" style="width:{100 * size / whole:.2f}%" '
        f'title="{LABELS[name]}: {gib(size)}"></i>'
        for name, size in parts.items()
        if size > THINNEST * whole
    )
    key = "".join(
        f'<li class="{name}"><span>{LABELS[name]}</span> {gib(size)}</li>'
        for name, size in parts.items()
    )
    changes = "".join(f"<li>{html.escape(str(change))}</li>" for change in found.changes)
    advice = f'<p class="muted">What saves most:</p><ul class="advice">{changes}</ul>'
    sentence = html.escape(found.sentence)
    # the pill says the verdict, the list says what saves most
    figures = html.escape(found.figures)
    examples = "1 example" if found.batch_size == 1 else f"{found.batch_size} examples"
    return (
        f'<section class="fit" aria-label="Will it fit">'
        f'<p><span class="pill {tone}">{word}</span> {figures}</p>'
        f'<div class="fit-bar" role="img" aria-label="{sentence}">{segments}'
        f'<b style="left:{100 * found.free_bytes / whole:.2f}%" title="free"></b></div>'
        f'<ul class="fit-key">{key}</ul>'
        f'<p class="muted">{examples} ({found.tokens:,} tokens) at a time, '
        f"room for {found.largest_batch:,}. {html.escape(found.basis_words)}</p>"
        f"{advice if found.changes else ''}</section>"
    )


def time_html(time: Forecast | None) -> str:
    """Say how long it takes, and how that is known."""
    if time is None:
        return '<p class="muted">How long it takes is known once there are examples.</p>'
    total, epoch = duration(time.total_seconds), duration(time.seconds_per_epoch)
    return (
        f"<p>About <strong>{total}</strong>, {epoch} for each epoch, without evaluations "
        f'<span class="muted">({html.escape(time.source)}).</span></p>'
    )


def gib(size: int) -> str:
    """Word a size."""
    return f"{size / GIB:.2f} GiB"


def duration(seconds: float) -> str:
    """Word a duration as coarsely as it is known."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
