"""How large a micro-batch may be, found out by trying: the search, without what it searches on.

A trial says how many bytes a size needed, or that memory ran out. Sizes are divisors of what a step
learns from, so that micro-batches times accumulation is the same for every one of them. How a trial
is made is left to the worker.
"""

from collections.abc import Callable
from dataclasses import dataclass

MOST_TRIALS = 5
# Kept free of what there is: batches differ, and caches grow.
SHARE = 0.9

Measure = Callable[[int], int | None]


@dataclass(frozen=True)
class Trial:
    """A size that was tried, and the bytes it needed; None: memory ran out."""

    size: int
    needed: int | None

    def __str__(self) -> str:
        need = "ran out of memory" if self.needed is None else f"took {self.needed / 1e9:.2f} GB"
        return f"{self.size} {need}"


@dataclass(frozen=True)
class Found:
    """The largest size that was tried and fits the budget; 0 where not even one example does."""

    size: int
    budget: int
    trials: tuple[Trial, ...]

    @property
    def least(self) -> int | None:
        """Bytes that one example alone needed; None where it was not tried or ran out of memory."""
        return next((trial.needed for trial in self.trials if trial.size == 1), None)

    def describe(self) -> str:
        """Say what was tried and what it needed."""
        tried = ", ".join(str(trial) for trial in sorted(self.trials, key=lambda t: t.size))
        return f"tried on the device with {self.budget / 1e9:.1f} GB to use: {tried}"


def find_size(share: int, first: int, capacity: int, measure: Measure) -> Found:
    """Find the largest divisor of `share` whose trial needs at most nine tenths of `capacity`.

    Starts at the largest divisor up to `first`. From two trials on a straight line through them
    says what to try next, since walking into the end of the memory is slow; at most five trials.
    """
    sizes = [n for n in range(1, share + 1) if share % n == 0]
    budget = int(SHARE * capacity)
    trials: list[Trial] = []
    fits, fails = -1, len(sizes)
    place = max(i for i, size in enumerate(sizes) if size == 1 or size <= first)
    while fails - fits > 1 and len(trials) < MOST_TRIALS:
        if fits < 0 and len(trials) == MOST_TRIALS - 1:
            place = 0
        needed = measure(sizes[place])
        trials.append(Trial(sizes[place], needed))
        if needed is not None and needed <= budget:
            fits = place
        else:
            fails = place
        place = next_place(sizes, fits, fails, predicted_size(trials, budget))
    return Found(sizes[fits] if fits >= 0 else 0, budget, tuple(trials))


def next_place(sizes: list[int], fits: int, fails: int, predicted: float | None) -> int:
    """Choose the place to try next between one that fits and one that does not."""
    if predicted is not None:
        near = max((i for i, size in enumerate(sizes) if size <= predicted), default=0)
        return min(max(near, fits + 1), fails - 1)
    return min(fits + 1, len(sizes) - 1) if fits >= 0 else fails // 2


def predicted_size(trials: list[Trial], budget: int) -> float | None:
    """Say which size would just fit, by a line through the two largest that could be measured."""
    measured = sorted((t.size, t.needed) for t in trials if t.needed is not None)
    if len(measured) < 2:
        return None
    (small, low), (large, high) = measured[-2:]
    if high <= low:
        return float(large)
    return small + (budget - low) * (large - small) / (high - low)
