"""The norm in one step of autograd: the library's numbers, gradients included."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sftplay_ui.engine.worker.model.norms import use_lean_norms, use_stock_norms

WIDTH = 24


def made(dtype=torch.float32, kind=LlamaRMSNorm):
    generator = torch.Generator().manual_seed(0)
    norm = kind(WIDTH, eps=1e-5)
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0, generator=generator)
    x = torch.randn(2, 7, WIDTH, generator=generator) * 3
    upstream = torch.randn(2, 7, WIDTH, generator=generator)
    return norm.to(dtype), x.to(dtype).requires_grad_(), upstream.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_are_those_of_the_library(dtype, tolerance):
    norm, x, upstream = made(dtype)
    inputs = (x, norm.weight)
    expected = norm(x)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    assert use_lean_norms(norm) == (1, 1)
    found = norm(x)
    ours = torch.autograd.grad(found, inputs, upstream)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert (one - other).float().norm() <= tolerance * other.float().norm()


def test_the_input_is_left_as_it_was():
    norm, x, upstream = made()
    before = x.detach().clone()
    use_lean_norms(norm)
    norm(x).backward(upstream)
    torch.testing.assert_close(x.detach(), before, rtol=0, atol=0)


def test_a_norm_that_computes_something_else_keeps_its_own_forward():
    class AroundOne(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + hidden_states

    norm, x, _ = made(kind=AroundOne)
    assert use_lean_norms(norm) == (0, 1)
    torch.testing.assert_close(norm(x), AroundOne.forward(norm, x))


def test_the_switch_goes_back(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    switched, total = use_lean_norms(model)
    assert switched == total > 0
    use_stock_norms(model)
    assert not any("forward" in vars(module) for module in model.modules())
