"""Learning rates: the shapes people know from transformers, one step earlier off zero."""

import pytest
import torch
from transformers import get_scheduler

from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.worker.training.schedule import learning_rate

PEAK, STEPS = 1e-3, 40
KINDS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")


def rates(kind: str, **train) -> list[float]:
    chosen = TrainConfig(lr_scheduler_type=kind, **train)
    return [learning_rate(chosen, PEAK, step, (STEPS,)) for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_warmup_the_rates_are_those_of_transformers(kind):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(kind, optimizer, 0, STEPS)
    theirs = []
    for _ in range(STEPS):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(kind, warmup_ratio=0) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "constant"])
def test_the_rate_rises_to_its_peak_with_the_last_warmup_step(kind):
    found = rates(kind, warmup_steps=4)
    assert found[:4] == pytest.approx([PEAK * n / 4 for n in (1, 2, 3, 4)])
    assert max(found) == pytest.approx(PEAK)


def test_warmup_steps_win_over_the_ratio_and_no_rate_is_zero():
    assert rates("cosine", warmup_ratio=0.5)[19] == PEAK
    assert rates("cosine", warmup_ratio=0.5, warmup_steps=2)[1] == PEAK
    assert min(rates("cosine")) > 0


def test_a_run_that_is_all_warmup_still_has_rates():
    assert rates("linear", warmup_ratio=1.0)[-1] == PEAK


def test_an_extension_rises_and_falls_for_itself_and_leaves_what_was_as_it_was():
    chosen = TrainConfig(warmup_steps=2)
    parts = (STEPS, 10)
    whole = [learning_rate(chosen, PEAK, step, parts) for step in range(1, STEPS + 11)]
    alone = [learning_rate(chosen, PEAK, step, (10,)) for step in range(1, 11)]
    assert whole[:STEPS] == rates("cosine", warmup_steps=2)
    assert whole[STEPS:] == alone
    assert max(alone) == PEAK
