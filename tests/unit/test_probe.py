"""The probe on a device of a given capacity: what it finds, and that it leaves no trace."""

import shutil

import pytest
import torch

from sftplay_ui.engine.device import cpu_device
from sftplay_ui.engine.errors import DeviceMemoryError
from sftplay_ui.engine.events import ConfigResolved, PhaseStarted, RunFinished, StepLogged, Warned
from sftplay_ui.engine.memory.prospect import look_ahead
from sftplay_ui.engine.memory.simulation import Case
from sftplay_ui.engine.models.folder import read_config
from sftplay_ui.engine.worker.model.attention import causal_mask
from sftplay_ui.engine.worker.simulate import simulate
from sftplay_ui.engine.worker.training import opening, probe
from sftplay_ui.engine.worker.training.learner import rng_state
from sftplay_ui.engine.worker.training.probe import Probe
from sftplay_ui.engine.workspace import PROJECT_ROOT
from tests.small_device import SmallDevice
from tests.training import adapter_bytes, config_for, of_kind, train_here, write_examples


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    shutil.copytree(PROJECT_ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)
    return workspace


@pytest.fixture
def stepper(workspace, monkeypatch):
    """Open a session as a run does, on any configuration, and give its stepper."""
    from accelerate.state import AcceleratorState

    def make(config):
        AcceleratorState._reset_state(reset_partial_state=True)
        run_dir = workspace.outputs / "probed"
        run_dir.mkdir(exist_ok=True)
        opened = opening.open_session(config, run_dir)
        while True:
            try:
                next(opened)
            except StopIteration as end:
                return end.value.stepper

    return make


def train_on(device, monkeypatch, config, workspace, name="run"):
    """Train while every tensor is counted, on a device whose memory is asked for."""
    monkeypatch.setattr(probe, "memory_of", lambda _device: device)
    with device:
        return train_here(config, workspace, name)


def needs(stepper, sizes=(1, 2, 4)):
    with SmallDevice() as device:
        found = Probe(stepper, device, 100)
        return {size: found.needed(size) for size in sizes}


@pytest.mark.parametrize(
    "how",
    [{"lora": {"dropout": 0.2}}, {"mode": "full"}],
    ids=["lora", "full"],
)
def test_after_the_probe_all_is_as_before_bit_for_bit(tiny_llama, stepper, how):
    made = stepper(config_for(tiny_llama, **how))
    weights = [weight.detach().clone() for weight in made.weights]
    rng = rng_state()["cpu"]
    with SmallDevice() as device:
        assert Probe(made, device, 100).find(4, 2).size == 4
    assert all(map(torch.equal, weights, made.weights))
    assert torch.equal(rng, rng_state()["cpu"])
    assert all(weight.grad is None for weight in made.weights)
    assert not made.optimizer.state


def test_memory_that_runs_out_in_a_trial_leaves_no_trace_either(tiny_llama, stepper):
    made = stepper(config_for(tiny_llama))
    need = needs(made)
    weights = [weight.detach().clone() for weight in made.weights]
    with SmallDevice() as device:
        device.capacity = (need[2] + need[4]) // 2
        trials = Probe(made, device, 100)
        assert trials.find(4, 4).size in (1, 2)
        live = device.live
        trials.find(4, 4)
        assert device.refusals >= 2
        assert device.most <= device.capacity
        assert device.live == live
    assert all(map(torch.equal, weights, made.weights))
    assert not made.optimizer.state


def test_a_larger_micro_batch_is_seen_to_need_more(tiny_llama, stepper):
    need = needs(stepper(config_for(tiny_llama)))
    assert need[1] < need[2] < need[4]


def test_a_step_without_data_needs_what_the_probe_measures(tiny_llama, stepper):
    config = config_for(tiny_llama)
    made = stepper(config)
    causal_mask.cache_clear()
    with SmallDevice() as device:
        for weight in made.prepared.model.parameters():  # they were there before
            device.seen[weight.untyped_storage()] = True
        needed = Probe(made, device, 100).needed(2)
    case = Case(
        read_config(tiny_llama),
        mode="lora",
        precision="fp32",
        device="cpu",
        lengths=(100, 100),
        learned=200,
        optim="adamw",
        checkpointing=False,
        lora=config.tuning.lora.model_dump(),
    )
    found = simulate(case).parts
    # the copies of what learns, which the probe puts back, lie beside
    expected = found.activations + found.logits + found.gradients + found.optimizer + found.adapter
    assert needed == pytest.approx(expected, rel=0.02)


def test_what_a_run_measured_is_what_the_next_estimate_rests_on(tiny_llama, workspace, monkeypatch):
    config = config_for(tiny_llama, max_steps=1)
    before = look_ahead(config, cpu_device(), workspace).memory
    roomy = SmallDevice()
    train_on(roomy, monkeypatch, config, workspace)
    after = look_ahead(config, cpu_device(), workspace).memory
    assert (before.basis, after.basis) == ("closed form", "measured")
    assert "Measured on this device" in after.basis_words
    wide, narrow = ((e.high_bytes - e.low_bytes) / e.device_bytes for e in (before, after))
    assert narrow < wide
    assert after.categories.slack == 0  # this device takes nothing around its tensors
    other = config_for(tiny_llama, max_steps=1, lora={"r": 8})
    assert look_ahead(other, cpu_device(), workspace).memory.basis == "closed form"


def test_a_size_that_ran_out_of_memory_is_not_remembered(tiny_llama, stepper):
    made = stepper(config_for(tiny_llama))
    need = needs(made)
    with SmallDevice() as device:
        device.capacity = (need[2] + need[4]) // 2
        probe = Probe(made, device, 100)
        assert probe.needed(4) is None
        assert probe.needed(2) is not None
    assert [(each.tokens, each.longest) for each in probe.seen] == [(200, 100)]


def test_a_run_on_a_small_device_is_cut_to_it_and_learns_the_same(
    tiny_llama, workspace, stepper, monkeypatch
):
    how = {"lora": {"dropout": 0.2}, "max_steps": 4, "gradient_checkpointing": False}
    made = stepper(config_for(tiny_llama, **how))
    longest = max(made.plan.lengths)
    with SmallDevice() as device:
        need = Probe(made, device, longest).needed(1)
    with monkeypatch.context() as patch:
        patch.setattr("sftplay_ui.engine.resolve.CPU_ACTIVATION_BYTES", 1)
        given = train_here(config_for(tiny_llama, **how), workspace, "given")
    small = SmallDevice(int(need / 0.85))
    events = train_on(small, monkeypatch, config_for(tiny_llama, **how), workspace)
    assert isinstance(events[-1], RunFinished)
    assert "probe" in [event.phase for event in of_kind(events, PhaseStarted)]
    assert small.most <= small.capacity
    (resolved,) = of_kind(events, ConfigResolved)
    chosen = {choice.setting: choice for choice in resolved.choices}
    assert chosen["train.batch_size"].value == 1
    assert chosen["train.grad_accum"].value == 4
    assert "2 ran out of memory" in chosen["train.batch_size"].reason
    for value in ("tokens", "loss"):
        ours, theirs = of_kind(events, StepLogged), of_kind(given, StepLogged)
        assert [getattr(e, value) for e in ours] == [getattr(e, value) for e in theirs]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "given")


def test_a_device_too_small_for_one_example_is_said_before_the_first_step(
    tiny_llama, workspace, monkeypatch
):
    with pytest.raises(DeviceMemoryError, match="Not even one example of") as problem:
        train_on(SmallDevice(700_000), monkeypatch, config_for(tiny_llama), workspace)
    assert "max_seq_len" in problem.value.fix
    assert not (workspace.outputs / "run/checkpoints").exists()


def test_a_size_that_was_asked_for_is_not_tried_but_worked_around(
    tiny_llama, workspace, monkeypatch
):
    one = config_for(tiny_llama, batch_size=1, eval_strategy="no", max_steps=3)
    roomy = SmallDevice()
    plain = train_on(roomy, monkeypatch, one, workspace, "plain")
    small = SmallDevice(int(roomy.most * 1.1))
    four = config_for(tiny_llama, batch_size=4, eval_strategy="no", max_steps=3)
    events = train_on(small, monkeypatch, four, workspace)
    assert "probe" not in [event.phase for event in of_kind(events, PhaseStarted)]
    warned = [event for event in of_kind(events, Warned) if event.code == "out_of_memory"]
    assert "micro-batches of 1" in warned[-1].what
    assert small.most <= small.capacity
    assert [e.loss for e in of_kind(events, StepLogged)] == [
        e.loss for e in of_kind(plain, StepLogged)
    ]
