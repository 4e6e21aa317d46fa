"""Lanes: threads that learn from parts of a step compute what one thread computes."""

import threading
from dataclasses import replace

import pytest
import torch

from sftplay_ui.engine.batch_fit import LANES
from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.device import cpu_device
from sftplay_ui.engine.events import ConfigResolved, StepLogged
from sftplay_ui.engine.resolve import ModelSize, resolve
from sftplay_ui.engine.worker.training.lanes import Lanes, settle_lanes
from sftplay_ui.engine.worker.training.learner import Stepper
from tests.training import config_for, of_kind, tokenised, train_here, write_examples
from tests.unit.test_model import gather, named_gradients, prepared_for, stepper_for, stir

SIZE = ModelSize(1_000_000, 2, 64, 128)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("packing", ["auto", False])
@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("lanes", [2, 3])
def test_lanes_learn_what_one_thread_learns(tiny_llama, lanes, mode, packing):
    examples = tokenised(tiny_llama, 9)
    found = []
    for count in (1, lanes):
        prepared = prepared_for(tiny_llama, mode=mode, packing=packing)
        stir(prepared.model)
        stepper = stepper_for(prepared, examples, 6)
        stepper.lanes = Lanes(count)
        found.append((gather(stepper), named_gradients(prepared.model)))
    (loss, gradients), (other, others) = found
    assert other == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-7)


def test_lanes_learn_at_the_same_time_and_again_bit_for_bit(tiny_llama, workspace, monkeypatch):
    write_examples(workspace)
    meeting = threading.Barrier(2, timeout=60)
    plain = Stepper.find_gradients

    def meet(stepper, batches, learned):
        meeting.wait()
        return plain(stepper, batches, learned)

    config = config_for(tiny_llama, lanes=2, batch_size=4, max_steps=4, eval_strategy="no")
    apart = train_here(config, workspace, "apart")
    monkeypatch.setattr(Stepper, "find_gradients", meet)
    together = train_here(config, workspace, "together")
    losses = [[step.loss for step in of_kind(events, StepLogged)] for events in (apart, together)]
    assert losses[0] == losses[1]
    (resolved,) = of_kind(together, ConfigResolved)
    assert [(c.value, c.reason) for c in resolved.choices if c.setting == "train.lanes"] == [
        (2, "as asked")
    ]


def test_jobs_come_back_in_order_and_all_end_before_an_error_is_told():
    lanes = Lanes(2)
    assert lanes.run([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    first_failed, ended = threading.Event(), []

    def fail():
        first_failed.set()
        raise ValueError("first")

    def go_on():
        assert first_failed.wait(60)
        ended.append(True)

    with pytest.raises(ValueError, match="first"):
        lanes.run([fail, go_on])
    assert ended == [True]


@pytest.mark.usefixtures("four_threads")
def test_lanes_share_the_cores_and_leave_the_caller_its_own():
    assert Lanes(2).run([torch.get_num_threads] * 2) == [2, 2]
    assert Lanes(1).run([torch.get_num_threads]) == [4]
    assert torch.get_num_threads() == 4
    with_new_thread = []
    thread = threading.Thread(target=lambda: with_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert with_new_thread == [4]


def settled(prepared, *, cores=4, **train) -> tuple[int, list[str]]:
    config = config_for("model", **train)
    resolved = resolve(config, replace(cpu_device(), cores=cores), SIZE, longest=10)
    found = settle_lanes(config.train, resolved, prepared)
    return found.lanes, [c.reason for c in found.choices if c.setting == LANES]


@pytest.mark.usefixtures("four_threads")
def test_lanes_are_given_up_where_only_the_model_or_torch_tells(tiny_llama, monkeypatch):
    prepared = prepared_for(tiny_llama)
    assert settled(prepared) == (4, ["each has its own examples and its share of 4 cores"])
    torch.set_num_threads(2)
    assert settled(prepared) == (1, ["torch computes with 2 thread(s)"])
    assert settled(prepared, lanes=3) == (3, ["as asked"])
    monkeypatch.setattr(prepared.base.config, "attention_dropout", 0.1)
    assert settled(prepared, lanes=3) == (
        1,
        ["what the model drops out is drawn in one order"],
    )
    dropping = prepared_for(tiny_llama, lora={"dropout": 0.1})
    assert settled(dropping, cores=2)[0] == 1


def test_lanes_is_a_whole_number_from_one():
    with pytest.raises(ValueError, match="lanes"):
        TrainConfig(lanes=0)
