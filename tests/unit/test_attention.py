"""Row attention: examples side by side compute what they compute alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sftplay_ui.engine.worker.model import attention
from sftplay_ui.engine.worker.model.attention import (
    BLOCK,
    attend_by_scores,
    attend_fused,
    rows_fit,
)

LENGTHS = (9, 1, 5)


@pytest.fixture
def model(tiny_llama: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval()


def run_alone(model, ids):
    parts = [model(part).logits for part in ids.split(LENGTHS, 1)]
    return torch.cat(parts, 1)


def run_in_rows(model, ids):
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    return model(ids, position_ids=positions, row_lengths=LENGTHS, use_cache=False).logits


@pytest.mark.parametrize("longest_with_scores", [1024, 0])
def test_rows_give_the_scores_and_gradients_of_examples_on_their_own(
    model, monkeypatch, longest_with_scores
):
    monkeypatch.setattr(attention, "LONGEST_WITH_SCORES", longest_with_scores)
    ids = torch.randint(0, 400, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    weight = model.model.layers[0].self_attn.k_proj.weight
    alone = run_alone(model, ids)
    (alone_grad,) = torch.autograd.grad(alone.logsumexp(-1).sum(), weight)
    attention.use_rows(model)
    rows = run_in_rows(model, ids)
    (rows_grad,) = torch.autograd.grad(rows.logsumexp(-1).sum(), weight)
    torch.testing.assert_close(rows, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows_grad, alone_grad, rtol=1e-5, atol=1e-5)


# in one piece, and in blocks of which the last is short, whole or long
@pytest.mark.parametrize("length", [11, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 70, 700])
def test_both_ways_to_attend_agree_on_shared_keys(length):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(6, length, 8, generator=generator, requires_grad=True)
    key, value = torch.randn(2, 3, length, 8, generator=generator).requires_grad_()
    weight = torch.randn(6, length, 8, generator=generator)
    found = []
    for attend in (attend_by_scores, attend_fused):
        output = attend(query, key, value, 0.3)
        gradients = torch.autograd.grad((output * weight).sum(), (query, key, value))
        found.append((output, *gradients))
    for scores, fused in zip(*found, strict=True):
        torch.testing.assert_close(scores, fused, rtol=1e-4, atol=1e-5)


def test_a_plain_model_takes_rows_and_a_switched_one_goes_back(model):
    fits, reason = rows_fit(model, 128)
    assert fits, reason
    assert model.config._attn_implementation == attention.NAME
    model.set_attn_implementation("sdpa")
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 400)


def test_a_model_with_a_short_window_keeps_its_own_attention(model):
    model.config.sliding_window = 16
    fits, reason = rows_fit(model, 128)
    assert not fits
    assert "16 tokens" in reason
    assert model.config._attn_implementation == "sdpa"


def test_a_model_whose_examples_mix_keeps_its_own_attention(model):
    layer = model.model.layers[0].self_attn.o_proj
    # a layer that looks at what was there before: examples are no longer independent
    layer.register_forward_hook(lambda _layer, _inputs, output: output.cumsum(1) * 5)
    fits, reason = rows_fit(model, 128)
    assert not fits
    assert "independent" in reason
    assert model.config._attn_implementation == "sdpa"


def test_rows_without_their_lengths_are_refused(model):
    attention.use_rows(model)
    with pytest.raises(ValueError, match="row_lengths"):
        model(torch.tensor([[1, 2, 3]]), use_cache=False)
