"""How the examples of a step are shared out: micro-batches, recomputation, and lanes of a CPU.

Pure functions, as those of `resolve`, which asks them; what they decide is done by `learner`.
"""

import math
from dataclasses import dataclass

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig, TrainConfig
from sftplay_ui.engine.device import DeviceInfo

# Micro-batches below this many tokens keep no device busy.
ENOUGH_TOKENS = 256
LANES = "train.lanes"
# Of the free RAM, for the gradients that the lanes beyond the first keep.
GRADIENT_SHARE = 0.1


@dataclass(frozen=True)
class BatchFit:
    """How a step's examples are cut into micro-batches, and whether activations are recomputed."""

    batch_size: int
    grad_accum: int
    checkpointing: bool
    both_given: bool
    reasons: tuple[str, str, str]

    def effective_batch(self, train: TrainConfig, processes: int) -> int:
        """Count a step's examples: what both sizes give, or what they were made to keep."""
        given = self.batch_size * self.grad_accum * processes
        return given if self.both_given else train.effective_batch

    def choices(self) -> tuple[Choice, ...]:
        return (
            Choice("train.batch_size", self.batch_size, self.reasons[0]),
            Choice("train.grad_accum", self.grad_accum, self.reasons[1]),
            Choice("train.gradient_checkpointing", self.checkpointing, self.reasons[2]),
        )


def fit_batch(
    train: TrainConfig,
    *,
    budget: float,
    needs: tuple[float, ...],
    longest: int,
    processes: int,
) -> BatchFit:
    """Cut the effective batch so that a micro-batch of the longest examples fits the budget.

    `needs` are the bytes of one such example as kept, and as recomputed with checkpointing.
    """
    share = max(1, train.effective_batch // processes)

    def largest(checkpointing: bool) -> int:
        need = needs[checkpointing]
        return max(
            n for n in range(1, share + 1) if share % n == 0 and (n == 1 or n * need <= budget)
        )

    size, accum = train.batch_size, train.grad_accum
    # a size that was asked for must fit as it is
    fitting = largest(False) if needs[0] * (1 if size == "auto" else size) <= budget else 0
    checkpointing, why = choose_checkpointing(train, fitting, share, longest)
    whole = f"keeps {train.effective_batch} examples a step"
    if size != "auto" and accum != "auto":
        return BatchFit(size, accum, checkpointing, True, ("as asked", "as asked", why))
    if size != "auto":
        reasons = ("as asked", whole, why)
        return BatchFit(size, math.ceil(share / size), checkpointing, False, reasons)
    if accum != "auto":
        reasons = (whole, "as asked", why)
        return BatchFit(math.ceil(share / accum), accum, checkpointing, False, reasons)
    chosen = largest(checkpointing)
    reason = f"{chosen} examples of {longest} tokens fit {budget / 1e9:.1f} GB of activations"
    return BatchFit(chosen, share // chosen, checkpointing, False, (reason, whole, why))


def choose_checkpointing(
    train: TrainConfig, fitting: int, share: int, longest: int
) -> tuple[bool, str]:
    """Recompute activations only where keeping them would leave micro-batches tiny."""
    if train.gradient_checkpointing != "auto":
        return train.gradient_checkpointing, "as asked"
    if fitting == share or fitting * longest >= ENOUGH_TOKENS:
        return False, "activations fit, and keeping them is faster"
    return True, f"only {fitting} examples of {longest} tokens would fit without"


def why_one_lane(config: RunConfig, *, mode: str, backend: str, processes: int) -> str:
    """Say why examples must be learned from one after the other; empty where they need not be.

    `mode` is lora for 4-bit weights that are unpacked once.
    """
    train = config.train
    if max(processes, train.processes) > 1:
        return "the processes share the cores already"
    if backend != "bnb":
        return f"{backend} goes its own way"
    if mode == "qlora":
        return "each lane would unpack all 4-bit weights anew"
    if train.neftune_noise_alpha or (mode == "lora" and config.tuning.lora.dropout):
        return "what is random is drawn in one order"
    return ""


def choose_lanes(
    train: TrainConfig, device: DeviceInfo, batch_size: int, *, learning: int, why_not: str
) -> Choice:
    """Choose how many lanes share a CPU's cores: as many as keep most of them busy.

    `learning` is the number of weights of which each lane keeps gradients, where that counts.
    """
    if why_not:
        return Choice(LANES, 1, why_not)
    if train.lanes != "auto":
        fits = train.lanes <= batch_size
        why = "as asked" if fits else f"only {batch_size} example(s) are learned at a time"
        return Choice(LANES, min(train.lanes, batch_size), why)
    count = best_split(device.cores, batch_size)
    if count == 1:
        return Choice(LANES, 1, f"{device.cores} core(s), {batch_size} example(s) at a time")
    extra = (count - 1) * 4 * learning
    if extra > GRADIENT_SHARE * device.free_bytes:
        return Choice(LANES, 1, f"more would keep {extra / 1e9:.1f} GB of gradients besides")
    return Choice(LANES, count, f"each has its own examples and its share of {device.cores} cores")


def best_split(cores: int, examples: int) -> int:
    """Give the number of lanes that leaves the fewest of the cores idle; the most such lanes."""
    return max(
        range(1, max(1, min(cores, examples)) + 1),
        key=lambda count: (count * (cores // count), count),
    )
