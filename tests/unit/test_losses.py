"""The chunked loss: the same sum and the same gradients as the library's, without the logits."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from sftplay_ui.engine.worker.model import losses
from sftplay_ui.engine.worker.model.losses import head_is_plain, summed_loss, summed_plain_loss

TOKENS, WIDTH, VOCABULARY = 13, 8, 50


@pytest.fixture
def made():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    target = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    return hidden, weight, target


@pytest.mark.parametrize(("chunk", "cached"), [(1, 16), (4, 3), (256, 16), (256, 5)])
def test_sum_and_gradients_are_those_of_cross_entropy(made, monkeypatch, chunk, cached):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    monkeypatch.setattr(losses, "CACHED", cached)
    hidden, weight, target = made
    expected = functional.cross_entropy(hidden @ weight.t(), target, reduction="sum")
    loss = summed_loss(hidden, weight, target)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(loss * 0.5, (hidden, weight))
    theirs = torch.autograd.grad(expected * 0.5, (hidden, weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_smoothed_targets_give_the_sum_and_gradients_of_torch(made, monkeypatch, smoothing):
    monkeypatch.setattr(losses, "CHUNK", 4)
    hidden, weight, target = made
    logits = hidden @ weight.t()
    expected = functional.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    loss = summed_loss(hidden, weight, target, smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    plain = summed_plain_loss(logits, target, smoothing=smoothing)
    torch.testing.assert_close(plain, expected)
    ours = torch.autograd.grad(loss, (hidden, weight))
    theirs = torch.autograd.grad(expected, (hidden, weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient(made):
    hidden, weight, target = made
    summed_loss(hidden, weight.detach(), target).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_learned_token_is_a_loss_of_zero_with_a_gradient_of_zero(made):
    hidden, weight, target = made
    loss = summed_loss(hidden[:0], weight, target[:0])
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()


def test_autocast_computes_in_its_own_type(made):
    hidden, weight, target = made
    exact = summed_loss(hidden, weight, target)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = summed_loss(hidden, weight, target)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded - exact) < 0.05 * exact


def test_the_plain_loss_is_the_same_sum(made):
    hidden, weight, target = made
    plain = summed_plain_loss(hidden @ weight.t(), target)
    torch.testing.assert_close(plain, summed_loss(hidden, weight, target))


def test_a_plain_head_is_told_from_others(tiny_llama: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    assert head_is_plain(model)[0]
    model.register_forward_hook(
        lambda _model, _inputs, output: output.__setitem__("logits", output.logits.tanh())
    )
    assert head_is_plain(model) == (False, "the model scales or caps its scores")
    model.lm_head = nn.Linear(64, 400, bias=True)
    assert head_is_plain(model) == (False, "the output head is not a plain matrix")
