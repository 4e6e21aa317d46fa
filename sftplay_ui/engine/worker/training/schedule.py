"""The learning rate of every step, as a function of the step alone: nothing to save or to drift."""

import math
from collections.abc import Sequence

from sftplay_ui.engine.config import TrainConfig

POLYNOMIAL_END = 1e-7
INVERSE_SQRT_SCALE = 10_000


def warmup_steps(train: TrainConfig, total: int) -> int:
    """Count the steps the rate rises; `warmup_steps` wins over `warmup_ratio`."""
    if train.lr_scheduler_type == "constant":
        return 0
    return min(train.warmup_steps or math.ceil(train.warmup_ratio * total), total)


def learning_rate(train: TrainConfig, peak: float, step: int, parts: Sequence[int]) -> float:
    """Give the learning rate of a step (counted from 1) of a run of so many steps in each part.

    Each part (the run as it was begun, and each extension) rises and falls for itself: what was
    added learns as well as what was planned, and the rates of steps that were taken never change.
    """
    before = 0
    for total in parts[:-1]:
        if step <= before + total:
            return rate_within(train, peak, step - before, total)
        before += total
    return rate_within(train, peak, step - before, parts[-1])


def rate_within(train: TrainConfig, peak: float, step: int, total: int) -> float:
    """Give the learning rate of a step (counted from 1) of `total`.

    It rises in a line, reaches `peak` with the last warm-up step, and falls so that the step after
    the last one would have nothing left. The shapes are those of transformers' schedulers.
    """
    warmup = warmup_steps(train, total)
    if step <= warmup:
        return peak * step / warmup
    done = (step - 1 - warmup) / max(1, total - warmup)
    match train.lr_scheduler_type:
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "polynomial":
            return POLYNOMIAL_END + (peak - POLYNOMIAL_END) * (1 - done)
        case "inverse_sqrt":
            scale = warmup or INVERSE_SQRT_SCALE
            return peak / math.sqrt((step - 1 + scale - warmup) / scale)
        case "constant" | "constant_with_warmup":
            return peak
