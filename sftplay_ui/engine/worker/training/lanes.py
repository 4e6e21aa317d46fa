"""Lanes: threads of a CPU that each learn from part of a step's examples by themselves.

The threads of one product share its work well, but much of a step is small operations, in which
they wait for each other. So the cores are shared out instead: each lane takes examples of its own
through the same weights. It keeps its own gradients, and they are added up in the lanes' order, so
that a run can be repeated bit for bit. What a lane computes is left to `learner`.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from sftplay_ui.engine.batch_fit import LANES
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.worker.model.attention import stretches_positions
from sftplay_ui.engine.worker.model.load import Prepared

Result = TypeVar("Result")


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


def settle_lanes(train: TrainConfig, resolved: Resolved, prepared: Prepared) -> Resolved:
    """Go back to one lane where only the loaded model, or torch, tells that more would be wrong."""
    threads, why = torch.get_num_threads(), ""
    if drops_out(prepared):
        why = "what the model drops out is drawn in one order"
    elif stretches_positions(prepared.base):
        why = "the model's positions are stretched by one text at a time"
    elif train.lanes == "auto" and threads < resolved.lanes:
        why = f"torch computes with {threads} thread(s)"
    if resolved.lanes == 1 or not why:
        return resolved
    others = (each if each.setting != LANES else Choice(LANES, 1, why) for each in resolved.choices)
    return replace(resolved, lanes=1, choices=tuple(others))


def drops_out(prepared: Prepared) -> bool:
    """Tell whether anything in the model may be dropped out at random."""
    settings = prepared.base.config.to_dict()
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in prepared.model.modules()) or any(
        "drop" in name and isinstance(value, float) and value > 0
        for name, value in settings.items()
    )
