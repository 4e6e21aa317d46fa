"""The fused LoRA layer: peft's numbers in one step of autograd."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sftplay_ui.engine.worker.model.load import without_peft_noise
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears, use_stock_linears

IDS = torch.tensor([[5, 6, 7, 8, 9], [20, 21, 22, 23, 24]])


def with_adapter(folder: Path, dtype=torch.float32, **shape):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **shape})
    with without_peft_noise():
        model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def gradients(model):
    model.zero_grad()
    model(IDS).logits.float().logsumexp(-1).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_qwen2"])
def test_outputs_and_gradients_are_those_of_peft(fixture, request):
    model = with_adapter(request.getfixturevalue(fixture))
    logits, plain = model(IDS).logits, gradients(model)
    assert use_lean_linears(model) == (14, 14)
    torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-5, atol=1e-5)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_gradients_the_outputs_are_the_same(tiny_llama):
    model = with_adapter(tiny_llama)
    use_lean_linears(model)
    expected = model(IDS).logits
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected)


def test_a_16_bit_base_keeps_its_type_and_the_adapters_get_fp32_gradients(tiny_llama):
    model = with_adapter(tiny_llama, torch.bfloat16)
    exact = gradients(with_adapter(tiny_llama))
    use_lean_linears(model)
    assert model(IDS).logits.dtype == torch.bfloat16
    for name, grad in gradients(model).items():
        assert grad.dtype == torch.float32
        assert (grad - exact[name]).norm() < 0.1 * exact[name].norm() + 1e-4, name


def test_the_adapter_can_still_be_switched_off(tiny_llama):
    model = with_adapter(tiny_llama)
    use_lean_linears(model)
    tuned = model(IDS).logits
    with model.disable_adapter():
        base = model(IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)(IDS).logits
    torch.testing.assert_close(base, plain)
    assert (tuned - base).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_layers_that_do_more_keep_pefts_own_forward(tiny_llama, shape):
    model = with_adapter(tiny_llama, **shape)
    assert use_lean_linears(model) == (0, 14)


def test_the_switch_goes_back(tiny_llama):
    model = with_adapter(tiny_llama)
    use_lean_linears(model)
    use_stock_linears(model)
    assert not any("forward" in vars(module) for module in model.modules())
