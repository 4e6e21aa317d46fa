"""How long the examples of a processed file are in tokens, and what `max_seq_len` would cut."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.data.row_checks import TokenLengths
from sftplay_ui.engine.data.table import Table

MEASURED_AT_MOST = 2000
BINS = 24

MeasureAny = Callable[[Example | RenderedExample], TokenLengths]


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """Token lengths of a sample of a file: `counts` [BINS] between `edges` [BINS + 1]."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    measured: int
    rows: int
    longest: int
    cut_examples: int
    cut_tokens: int
    cut_learned: int

    @property
    def is_sample(self) -> bool:
        """Tell whether only a part of the file was measured."""
        return self.measured < self.rows


def measure_lengths(
    path: Path, measure: MeasureAny, *, at_most: int = MEASURED_AT_MOST
) -> LengthHistogram:
    """Measure examples spread evenly over a file; all of them where there are few enough."""
    table = Table(path)
    count = min(at_most, len(table))
    rows = np.linspace(0, len(table) - 1, count).round().astype(int).tolist() if count else []
    lengths = [measure(table.page(row, 1)[0].example) for row in rows]
    tokens = [length.tokens for length in lengths]
    # whole numbers as edges: half a token is nothing a person can read off
    step = max(1, -(-max(tokens, default=1) // BINS))
    edges = [step * n for n in range(BINS + 1)]
    counts, _ = np.histogram(tokens, [*edges[:-1], edges[-1] + 1])
    return LengthHistogram(
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
        measured=count,
        rows=len(table),
        longest=max(tokens, default=0),
        cut_examples=sum(length.cut_tokens > 0 for length in lengths),
        cut_tokens=sum(length.cut_tokens for length in lengths),
        cut_learned=sum(length.cut_learned for length in lengths),
    )
