"""Loss spikes: a jump is told once and with its size, what is usual is never told."""

import math
import random

import pytest

from sftplay_ui.engine.worker.training.spikes import WINDOW, describe_jump


def told(losses) -> dict[int, str]:
    found = {
        step: describe_jump(losses[max(0, step - WINDOW) : step], loss)
        for step, loss in enumerate(losses)
    }
    return {step: text for step, text in found.items() if text}


def falling(steps: int, seed: int) -> list[float]:
    """Make losses like a real run's: a steep start, a slow fall, the spread of small batches."""
    draw = random.Random(seed)
    return [(0.8 + 2.5 * math.exp(-n / 8)) * draw.lognormvariate(0, 0.15) for n in range(steps)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_usual_is_not_told(seed):
    assert told(falling(300, seed)) == {}


def test_a_jump_is_told_with_its_size():
    losses = falling(60, 1)
    losses[40] = 4.0
    ((step, text),) = told(losses).items()
    assert step == 40
    assert text.startswith("the loss jumped to 4.000, ")
    assert "of the 24 steps before" in text


def test_a_jump_that_lasts_is_told_once():
    losses = falling(60, 2)
    losses[40:46] = [5.0] * 6
    assert list(told(losses)) == [40]


def test_the_first_steps_and_broken_numbers_are_left_alone():
    assert told([3.0] * 10 + [30.0]) == {}
    assert describe_jump([1.0] * 20, math.nan) is None
