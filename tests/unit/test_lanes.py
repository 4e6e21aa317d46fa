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
from sftplay_ui.engine.worker.model.attention import why_no_rows
from sftplay_ui.engine.worker.training.lanes import Lanes, settle_lanes
from sftplay_ui.engine.worker.training.learner import Stepper
from tests.training import adapter_bytes, config_for, of_kind, tokenised, train_here, write_examples
from tests.unit.test_model import gather, named_gradients, prepared_for, stepper_for, stir
from tests.unit.test_train import stop_after

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


def test_positions_that_one_text_stretches_for_all_have_one_lane_and_no_rows(
    tiny_llama, monkeypatch, four_threads
):
    prepared = prepared_for(tiny_llama)
    assert settled(prepared)[0] == 4
    stretched = {"rope_type": "longrope", "rope_theta": 10000.0}
    monkeypatch.setattr(prepared.base.config, "rope_parameters", stretched)
    assert settled(prepared) == (1, ["the model's positions are stretched by one text at a time"])
    assert "stretched" in why_no_rows(prepared.base, 10)


def test_a_run_goes_on_with_the_lanes_it_had(tiny_llama, workspace, monkeypatch):
    write_examples(workspace)
    config = config_for(tiny_llama, max_steps=6, save_steps=2, eval_strategy="no")

    def with_lanes(count):
        def settle(_train, resolved, _prepared):
            return replace(resolved, lanes=count)

        monkeypatch.setattr("sftplay_ui.engine.worker.training.opening.settle_lanes", settle)

    with_lanes(2)
    train_here(config, workspace, "unbroken")
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 3))
    # less memory, or fewer cores, than before
    with_lanes(1)
    used = []
    plain = Stepper.backward_in_lanes

    def count(stepper, *what):
        used.append(stepper.at_once)
        return plain(stepper, *what)

    monkeypatch.setattr(Stepper, "backward_in_lanes", count)
    train_here(config, workspace)
    assert used == [2, 2, 2]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_a_smaller_micro_batch_leaves_no_core_without_a_lane(tiny_llama):
    stepper = stepper_for(prepared_for(tiny_llama), tokenised(tiny_llama, 9), 4)
    stepper.share_cores(4)
    assert stepper.at_once == stepper.lanes.count == 4
    stepper.make_room("in a test")
    assert (stepper.batch_size, stepper.lanes.count) == (2, 2)
    stepper.share_cores(0)
    assert stepper.lanes.count == 2


def test_lanes_is_a_whole_number_from_one():
    with pytest.raises(ValueError, match="lanes"):
        TrainConfig(lanes=0)
