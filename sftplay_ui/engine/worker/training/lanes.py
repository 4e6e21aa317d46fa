"""Lanes: threads of a CPU that each learn from part of a step's examples by themselves.

The threads of one product share its work well, but much of a step is small operations, in which
they wait for each other. So the cores are shared out instead: each lane takes examples of its own
through the same weights. It keeps its own gradients, and they are added up in the lanes' order, so
that a run can be repeated bit for bit. What a lane computes is left to `learner`.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import psutil
import torch
from torch import nn

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.worker.model.load import Prepared

Result = TypeVar("Result")
SETTING = "train.lanes"
# of the free RAM, for the gradients that the lanes beyond the first keep
GRADIENT_SHARE = 0.1


class Lanes:
    """So many threads, each with its share of the cores; a single lane is the caller's thread."""

    def __init__(self, count: int = 1) -> None:
        """Start the threads; together they use as many cores as the caller does."""
        self.count = count
        self.pool = None
        if count == 1:
            return
        threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(
            count, "lane", initializer=take_cores, initargs=(max(1, threads // count),)
        )
        # once all have met, all are there; each has set the number of the whole process too
        meeting = threading.Barrier(count)
        wait([self.pool.submit(meeting.wait) for _ in range(count)])
        torch.set_num_threads(threads)

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Do the jobs at the same time and give their results in order.

        Where some fail, raises the first one's error, after all have ended.
        """
        if self.pool is None or len(jobs) == 1:
            return [job() for job in jobs]
        outcomes = [self.pool.submit(job) for job in jobs]
        wait(outcomes)
        return [outcome.result() for outcome in outcomes]


def take_cores(count: int) -> None:
    """Let torch use so many threads for what the calling thread computes."""
    # a new thread takes over the process's number when it is first asked, and forgets its own
    torch.get_num_threads()
    torch.set_num_threads(count)


def choose_lanes(
    train: TrainConfig, prepared: Prepared, resolved: Resolved, *, processes: int
) -> Choice:
    """Choose how many lanes share the cores: as many as keep most of them busy, where any may."""
    why_not = obstacle(prepared, resolved, processes)
    if not why_not and (train.neftune_noise_alpha or drops_out(prepared)):
        why_not = "what is random in the model is drawn in one order"
    if why_not:
        return Choice(SETTING, 1, why_not)
    if train.lanes != "auto":
        return Choice(SETTING, min(train.lanes, resolved.batch_size), "as asked")
    threads = torch.get_num_threads()
    count = best_split(threads, resolved.batch_size)
    if count == 1:
        return Choice(SETTING, 1, f"{threads} core(s), {resolved.batch_size} example(s) at a time")
    learning = [weight for weight in prepared.model.parameters() if weight.requires_grad]
    extra = (count - 1) * sum(weight.numel() * weight.element_size() for weight in learning)
    if extra > GRADIENT_SHARE * psutil.virtual_memory().available:
        return Choice(SETTING, 1, f"more would keep {extra / 1e9:.1f} GB of gradients besides")
    return Choice(SETTING, count, f"each has its own examples and its share of {threads} cores")


def obstacle(prepared: Prepared, resolved: Resolved, processes: int) -> str:
    """Say why examples must be learned from one after the other; empty where they need not be."""
    if prepared.base.device.type != "cpu":
        return "lanes share the cores of a CPU"
    if processes > 1:
        return "the processes share the cores already"
    if resolved.backend != "bnb":
        return f"{resolved.backend} goes its own way"
    if resolved.mode == "qlora" and not resolved.unpacked:
        return "each lane would unpack all 4-bit weights anew"
    return ""


def drops_out(prepared: Prepared) -> bool:
    """Tell whether anything in the model may be dropped out at random."""
    settings = prepared.base.config.to_dict()
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in prepared.model.modules()) or any(
        "drop" in name and isinstance(value, float) and value > 0
        for name, value in settings.items()
    )


def best_split(threads: int, examples: int) -> int:
    """Give the number of lanes that leaves the fewest of the threads idle; the most such lanes."""
    return max(
        range(1, max(1, min(threads, examples)) + 1),
        key=lambda count: (count * (threads // count), count),
    )
