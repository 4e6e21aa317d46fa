"""Will it fit: a run's memory by category, a verdict in a sentence, and what to change.

All from config.json and the settings, in an instant and before any download. What a real card adds
is known only roughly before it was measured, so the answer is a band, not a number.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.advice import Change, best_changes, pinned, with_train
from sftplay_ui.engine.memory.basis import Basis, Kind
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.need import GIB, Correction, Need, longest_example, need
from sftplay_ui.engine.memory.shapes import ModelShape

Verdict = Literal["fits", "tight", "no"]
CLOSED_FORM = Basis()
MOST_EXAMPLES = 4096


@dataclass(frozen=True)
class Categories:
    """Bytes at the worst moment, by what they are for; together they are `device_bytes`."""

    weights: int
    quant_state: int
    embedding_and_head: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    slack: int
    context: int


@dataclass(frozen=True)
class Estimate:
    """What a run needs against what is free; `device_bytes` is the likeliest need.

    `peak_allocated_bytes` are tensors alone; `figures` are the numbers of `sentence`.
    `largest_batch` counts examples of the longest length that fit into one micro-batch; 0 means not
    even one does. `basis` is where the figures come from, `basis_words` says so.
    """

    peak_allocated_bytes: int
    device_bytes: int
    low_bytes: int
    high_bytes: int
    free_bytes: int
    device: str
    categories: Categories
    phase_of_peak: str
    verdict: Verdict
    sentence: str
    figures: str
    batch_size: int
    tokens: int
    largest_batch: int
    changes: tuple[Change, ...]
    basis: Kind
    basis_words: str
    need: Need

    def to_json(self) -> dict[str, Any]:
        """Give the estimate as plain values."""
        value = asdict(replace(self, need=None))  # type: ignore[arg-type]
        del value["need"]
        return value


def estimate(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    lengths: TokenLengths | None = None,
    basis: Basis = CLOSED_FORM,
) -> Estimate:
    """Estimate a training run on a device; without lengths every example is as long as allowed.

    The basis may correct the closed form by what is known better.
    Raises ConfigError or BackendError for what the device cannot do at all.
    """
    now = need(config, shape, device, lengths, basis.correction)
    likely = now.device_bytes
    low, high = (int(likely * share) for share in basis.band)
    verdict = judge(likely, high, device.free_bytes)
    changes = best_changes(config, shape, device, lengths, now)
    figures = compare((low, likely, high), device)
    return Estimate(
        peak_allocated_bytes=int(now.peak.parts.total),
        device_bytes=likely,
        low_bytes=low,
        high_bytes=high,
        free_bytes=device.free_bytes,
        device=device.name,
        categories=categorise(now),
        phase_of_peak=now.peak.phase,
        verdict=verdict,
        sentence=say(verdict, figures, changes),
        figures=figures,
        batch_size=now.resolved.batch_size,
        tokens=now.setup.tokens,
        largest_batch=largest_batch(pinned(config, now), shape, device, lengths, now.correction),
        changes=changes,
        basis=basis.kind,
        basis_words=basis.words,
        need=now,
    )


def judge(likely: int, high: int, free: int) -> Verdict:
    """Say whether even the high end fits, only the likely figure, or not."""
    if high <= free:
        return "fits"
    return "tight" if likely <= free else "no"


def categorise(now: Need) -> Categories:
    """Round the parts to bytes."""
    parts = {name: int(size) for name, size in vars(now.peak.parts).items()}
    return Categories(**parts, slack=int(now.slack), context=int(now.context))


def compare(band: tuple[int, int, int], device: DeviceInfo) -> str:
    """Word what is needed (low, likely, high) beside what is free."""
    low, likely, high = (size / GIB for size in band)
    free = device.free_bytes / GIB
    return (
        f"about {likely:.1f} GiB ({low:.1f} to {high:.1f}) are needed, "
        f"{free:.1f} GiB are free on {device.name}"
    )


def say(verdict: Verdict, figures: str, changes: tuple[Change, ...]) -> str:
    """Put the verdict into a sentence with its figures."""
    if verdict == "fits":
        return f"Fits: {figures}."
    best = f" What saves most: {changes[0]}." if changes else " Choose a smaller model."
    word = "Tight" if verdict == "tight" else "Does not fit"
    return f"{word}: {figures}.{best}"


def largest_batch(
    fixed: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    lengths: TokenLengths | None,
    correction: Correction | None,
) -> int:
    """Count the examples of the longest length that one micro-batch has room for."""
    longest = longest_example(fixed, lengths)
    alike = lengths and replace(lengths, longest_first=(longest,))

    def fits(examples: int) -> bool:
        trial = with_train(fixed, batch_size=examples)
        needed = need(trial, shape, device, alike, correction)
        return needed.device_bytes <= device.free_bytes

    low, high = 0, MOST_EXAMPLES + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
