"""What an estimate rests on: a step measured on this device, one simulated, or the closed form.

The best that is there is used, and said. Simulating takes seconds and happens when it is asked for;
what was measured is remembered by the worker that measured it (`measured`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.measured import Measurement, recall
from sftplay_ui.engine.memory.need import Correction, Need, need
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.simulation import Simulated, case_of, remembered, simulate
from sftplay_ui.engine.memory.terms import Parts, peak

Kind = Literal["closed form", "simulated", "measured"]
# How far a real device may lie from the likeliest figure, below and above it: no card has been
# measured for the first three; what steps were seen to need differs by little from run to run.
BAND, BAND_OF_STRANGERS = (0.95, 1.2), (0.8, 1.4)
BAND_MEASURED, BAND_MEASURED_ALIKE = (0.97, 1.05), (0.95, 1.1)
# Micro-batches whose tokens differ by no more than this share count as the same.
SAME = 0.02
RECKONED = (
    "Reckoned from the model's shape, not measured; a real card may lie anywhere in the band."
)


@dataclass(frozen=True)
class Basis:
    """Where the figures come from, in words too, how wide their band is, and what they correct."""

    kind: Kind = "closed form"
    words: str = RECKONED
    band: tuple[float, float] = BAND
    correction: Correction | None = None


@dataclass(frozen=True)
class Question:
    """A run to be estimated: its model's config.json, its settings, where, and on what examples."""

    model: Mapping[str, Any]
    config: RunConfig
    device: DeviceInfo
    lengths: TokenLengths | None = None

    @property
    def shape(self) -> ModelShape:
        return ModelShape.of(self.model)

    def closed(self) -> Need:
        """Answer by the closed form."""
        return need(self.config, self.shape, self.device, self.lengths)


def best_basis(
    question: Question, *, simulated: Literal["never", "strangers", "always"] = "never"
) -> Basis:
    """Choose the best there is; `simulated` says for which shapes a step may be simulated now.

    Strangers are shapes the closed form was not compared with. A step that was simulated before is
    used without being asked for. Raises what `need` raises.
    """
    shape, now = question.shape, question.closed()
    seen = recall(shape, question.device, now)
    if seen:
        return by_measurement(seen, shape, now)
    case = case_of(question.model, question.config, now, question.device, question.lengths)
    wanted = simulated == "always" or (simulated == "strangers" and not shape.compared)
    found = simulate(case) if wanted else remembered(case)
    if isinstance(found, Simulated):
        return by_simulation(found, shape, now)
    return by_shape(shape, found)


def by_shape(shape: ModelShape, why_not: str | None) -> Basis:
    """Rest on the closed form; say where it is weak, and why nothing better is there."""
    reason = f" It is not simulated: {why_not.rstrip('.')}." if why_not else ""
    if shape.compared:
        return Basis(words=RECKONED + reason)
    hint = "" if why_not else " `estimate --simulate` is nearer, and takes some seconds."
    return Basis(
        words="Reckoned from the model's shape, and no model built like this one "
        f"({shape.family or 'of no named type'}) was compared with real steps, so the band is "
        f"wide.{reason}{hint}",
        band=BAND_OF_STRANGERS,
    )


def by_simulation(found: Simulated, shape: ModelShape, now: Need) -> Basis:
    """Rest on a step without data: its parts are right, what a card or lanes add is reckoned."""
    closed = peak(shape, replace(now.setup, lanes=1)).parts
    correction = Correction.between(closed, found.parts)
    return Basis("simulated", f"S{str(found)[1:]}; no card was measured.", BAND, correction)


def by_measurement(seen: tuple[Measurement, ...], shape: ModelShape, now: Need) -> Basis:
    """Rest on the measured step nearest in size; the same size needs no reckoning at all."""
    tokens = now.setup.tokens
    nearest = min(seen, key=lambda each: abs(each.tokens - tokens))
    setup = replace(
        now.setup,
        tokens=nearest.tokens,
        learned=nearest.tokens,
        row=min(now.setup.row, nearest.longest),
    )
    closed = peak(shape, setup).parts
    correction = Correction.between(
        closed,
        fitted(closed, nearest.allocated),
        slack=max(0.0, nearest.reserved / nearest.allocated - 1),
        context=nearest.context,
    )
    same = abs(nearest.tokens - tokens) <= SAME * tokens
    words = f"Measured on this device with {nearest.tokens:,} tokens at a time"
    if same:
        return Basis("measured", words + ".", BAND_MEASURED, correction)
    words += f", reckoned from there for {tokens:,}."
    return Basis("measured", words, BAND_MEASURED_ALIKE, correction)


def fitted(closed: Parts, allocated: float) -> Parts:
    """Divide what was measured: what stays is known well, so the rest takes the difference."""
    moving = closed.activations + closed.logits
    left = allocated - (closed.total - moving)
    if left <= 0 or not moving:
        share = allocated / closed.total
        return Parts(**{name: size * share for name, size in vars(closed).items()})
    share = left / moving
    return replace(closed, activations=closed.activations * share, logits=closed.logits * share)
