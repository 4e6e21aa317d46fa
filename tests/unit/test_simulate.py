"""Steps without data: what each part of them needs, and that shallow models tell of deep ones."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from sftplay_ui.engine.config import LoraConfig
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.simulation import Case
from sftplay_ui.engine.worker import simulate as simulating
from sftplay_ui.engine.worker.model import attention, losses
from sftplay_ui.engine.worker.model.dataless import build
from sftplay_ui.engine.worker.simulate import simulate, take_step, worst_moment
from tests.model_configs import ALL, TIED, config

NARROW = config("llama", (64, 192), 7, (4, 2), 500, **TIED)


def case(model: dict[str, Any] = NARROW, **how: Any) -> Case:
    settings: dict[str, Any] = {
        "mode": "lora",
        "precision": "bf16",
        "device": "cuda",
        "lengths": (96, 32),
        "learned": 128,
        "optim": "adamw",
        "checkpointing": False,
        "lora": LoraConfig(r=4).model_dump(),
    }
    return Case(model, **{**settings, **how})


@pytest.mark.parametrize(
    "how",
    [
        {"checkpointing": True},
        {"device": "cpu"},
        {"mode": "full"},
        {"mode": "qlora", "precision": "fp16", "optim": "adamw_8bit"},
    ],
    ids=str,
)
def test_two_shallow_models_tell_of_the_deep_one_to_the_byte(how: dict[str, Any]) -> None:
    asked = case(**how)
    found = simulate(asked)
    whole = worst_moment(take_step(asked, layers=7), (7,))
    assert found.layers == (2, 4)
    assert found.phase == whole.phase
    assert vars(found.parts) == pytest.approx(vars(whole.parts), abs=1)


def test_the_parts_that_stay_are_those_of_the_configuration() -> None:
    shape = ModelShape.of(NARROW)
    adapter = shape.adapter_weights(4, "all-linear")
    found = simulate(case()).parts
    assert found.embedding_and_head == 2 * shape.embedding_weights
    assert found.adapter == found.gradients == 4 * adapter
    assert found.optimizer == pytest.approx(8 * adapter, rel=0.05)
    assert found.weights == pytest.approx(2 * (shape.linear_weights + shape.other_weights), abs=200)


def test_4_bit_weights_count_as_packed_and_their_scales_apart() -> None:
    shape = ModelShape.of(NARROW)
    once, twice = (
        simulate(case(mode="qlora", optim="adamw_8bit", double_quant=double)).parts
        for double in (False, True)
    )
    assert once.weights == pytest.approx(
        shape.linear_weights / 2 + 2 * shape.other_weights, abs=200
    )
    # each layer has a table of the sixteen values besides
    assert once.quant_state == pytest.approx(shape.linear_weights / 16, abs=64 * 7 * 7)
    assert twice.quant_state == pytest.approx(once.quant_state * 16 / 63)
    assert twice.activations == once.activations


def test_paged_states_lie_outside_of_the_card_where_they_are_large() -> None:
    wide = config("llama", (512, 1024), 2, (4, 2), 500, **TIED)
    paged, not_paged = (
        simulate(case(wide, mode="full", optim=optim)).parts.optimizer
        for optim in ("paged_adamw_8bit", "adamw_8bit")
    )
    assert paged < 0.1 * not_paged


def test_a_cpu_keeps_scores_and_fuses_norms_and_a_card_does_not() -> None:
    before = attention.LONGEST_WITH_SCORES, losses.CACHED
    cpu, cuda = simulate(case(device="cpu")).parts, simulate(case()).parts
    assert cpu.activations != cuda.activations
    assert cpu.logits < cuda.logits
    assert before == (attention.LONGEST_WITH_SCORES, losses.CACHED)


def rows_of(model: dict[str, Any], length: int) -> bool:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return build(case(model, lengths=(length,)), 2, plain_head=True).side_by_side


def test_examples_are_padded_where_the_model_looks_back_a_window_only() -> None:
    window = {**NARROW, "model_type": "mistral", "sliding_window": 64}
    assert rows_of(window, 64)
    assert not rows_of(window, 65)
    padded = replace(case(window), lengths=(96, 32))
    assert simulate(padded).parts.activations > simulate(case()).parts.activations


def test_layers_in_a_pattern_are_cut_at_its_ends() -> None:
    hybrid = {
        **config("qwen3_next", (64, 128), 12, (4, 2), 500, head_dim=16, **TIED),
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    }
    hybrid["layer_types"] = hybrid["layer_types"] * 3
    assert simulating.depths(case(hybrid)) == (12, (4, 8))
    assert simulating.depths(case(NARROW)) == (7, (2, 4))
    assert simulating.depths(case({**NARROW, "num_hidden_layers": 3})) == (3, (3, 3))


def test_a_model_that_caps_its_attention_keeps_its_own() -> None:
    capped = {**NARROW, "model_type": "gemma2", "query_pre_attn_scalar": 16}
    assert not rows_of(capped, 64)
    assert simulate(case(capped)).parts.activations > simulate(case()).parts.activations


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ({**NARROW, "model_type": "unheard-of"}, "cannot build a model of type 'unheard-of'"),
        (ALL["FLAN-T5-small"], "not a decoder alone"),
    ],
    ids=["unknown", "encoder"],
)
def test_what_cannot_be_built_is_said(model: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError, match=what):
        simulate(case(model))


def test_a_model_with_its_own_head_gives_all_scores() -> None:
    capped = {**config("granite", (64, 192), 3, (4, 2), 500, **TIED), "logits_scaling": 8.0}
    plain = simulate(case({**NARROW, "num_hidden_layers": 3})).parts.logits
    assert simulate(case(capped)).parts.logits > plain


def test_nothing_of_it_stays_in_this_process() -> None:
    simulate(case(device="cpu"))
    mask = attention.causal_mask(96, 96, 2, torch.bfloat16)
    assert type(mask) is torch.Tensor
    layer = nn.Linear(2, 2).to(torch.bfloat16)
    assert layer.weight.dtype is torch.bfloat16
