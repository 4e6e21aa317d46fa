"""What may be added to plain tuning: each does what its paper says, and a resume stays exact."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sftplay_ui.engine.events import ConfigResolved, StepLogged
from sftplay_ui.engine.worker.model.load import (
    load_with_adapter,
    quantisation,
    without_peft_noise,
)
from sftplay_ui.engine.worker.training.batches import padded, side_by_side
from sftplay_ui.engine.worker.training.learner import Learner, noisy
from tests.training import (
    adapter_bytes,
    config_for,
    of_kind,
    tokenised,
    train_here,
    write_examples,
)
from tests.unit.test_model import prepared_for
from tests.unit.test_train import losses, stop_after


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    templates = Path(__file__).parents[2] / "chat_templates"
    shutil.copytree(templates, workspace.templates, dirs_exist_ok=True)


def chosen(events) -> dict[str, str]:
    (resolved,) = of_kind(events, ConfigResolved)
    return {choice.setting: f"{choice.value}: {choice.reason}" for choice in resolved.choices}


def lora_layers(model):
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def test_rslora_scales_by_the_root_of_the_rank(tiny_llama):
    prepared = prepared_for(tiny_llama, lora={"r": 9, "alpha": 6, "use_rslora": True})
    assert {layer.scaling["default"] for layer in lora_layers(prepared.model)} == {6 / math.sqrt(9)}
    # the fused layer knows the scale
    assert all("forward" in vars(layer) for layer in lora_layers(prepared.model))


def test_dora_begins_with_the_lengths_of_the_weights_and_learns_them(tiny_llama, workspace):
    prepared = prepared_for(tiny_llama, lora={"use_dora": True})
    for layer in lora_layers(prepared.model):
        lengths = layer.base_layer.weight.norm(dim=1)
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, lengths)
    config = config_for(tiny_llama, lora={"use_dora": True}, learning_rate=1e-2, max_steps=3)
    events = train_here(config, workspace)
    assert "14 of 14 have dropout, DoRA" in chosen(events)["adapter layers"]
    folder = workspace.adapters / "run"
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with without_peft_noise():
        plain = PeftModel.from_pretrained(base, folder)
    ours = load_with_adapter(tiny_llama, folder, dtype=torch.float32, device="cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(plain(ids).logits, ours(ids).logits)
    before = {k: v for k, v in prepared.model.named_parameters() if "magnitude" in k}
    after = dict(ours.named_parameters())
    assert len(before) == 14
    assert all((after[name] - old).abs().max() > 1e-4 for name, old in before.items())


@pytest.mark.parametrize("lay", [side_by_side, lambda rows: padded(rows, 0)])
def test_noise_is_as_loud_as_neftune_says_for_each_example(tiny_llama, lay):
    """Uniform between plus and minus alpha / sqrt(L d), with L the tokens of that example."""
    batch = lay(tokenised(tiny_llama, 3))
    width = 4096
    plain = torch.zeros(*batch.input_ids.shape, width)
    noise = noisy(plain, batch.noise_scale(5.0))
    starts = [sum(batch.row_lengths[:n]) for n in range(3)]
    for n, length in enumerate(batch.row_lengths):
        own = noise[n, :length] if len(noise) == 3 else noise[0, starts[n] : starts[n] + length]
        bound = 5.0 / math.sqrt(length * width)
        assert own.abs().max() <= bound
        assert own.abs().max() > 0.99 * bound
        assert own.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(own.mean()) < 0.02 * bound


def test_noise_and_smoothing_end_where_learning_ends(tiny_llama):
    prepared = prepared_for(tiny_llama)
    batch = side_by_side(tokenised(tiny_llama, 3))
    plain = Learner(prepared)
    disturbed = Learner(prepared, noise=5.0)
    smoothed = Learner(prepared, smoothing=0.1)
    assert disturbed(batch) != plain(batch)
    assert smoothed(batch) != plain(batch)
    prepared.model.eval()
    assert disturbed(batch) == plain(batch) == smoothed(batch)


def test_a_learner_with_noise_off_reads_the_tokens_as_ever(tiny_llama):
    prepared = prepared_for(tiny_llama)
    batch = side_by_side(tokenised(tiny_llama, 3))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    Learner(prepared)(batch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "trick",
    [
        {"lora": {"use_dora": True, "use_rslora": True}},
        {"neftune_noise_alpha": 5.0, "label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0, "packing": False, "mode": "full"},
    ],
    ids=["dora", "noise", "padded"],
)
def test_a_resume_stays_exact_with_it(tiny_llama, workspace, trick):
    config = config_for(tiny_llama, max_steps=6, eval_strategy="no", **trick)
    unbroken = train_here(config, workspace, "unbroken")
    stopped = train_here(
        config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 3)
    )
    resumed = train_here(config, workspace)
    assert losses(stopped) + losses(resumed) == losses(unbroken)
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


@pytest.mark.parametrize("double", [False, True])
def test_4_bit_weights_are_always_told_what_to_compute_in(double):
    given = quantisation(torch.bfloat16, "cpu", double=double)["quantization_config"]
    assert given.bnb_4bit_compute_dtype == torch.bfloat16
    assert given.bnb_4bit_use_double_quant is double
