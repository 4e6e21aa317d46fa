"""4-bit weights unpacked once on a CPU: the same weights and gradients, told and estimated."""

import pytest
import torch

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.memory.estimate import estimate
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.resolve import ModelSize, resolve
from sftplay_ui.engine.worker.model.load import load_base
from sftplay_ui.engine.worker.model.nf4 import round_to_nf4
from sftplay_ui.engine.worker.training.batches import side_by_side
from sftplay_ui.engine.worker.training.learner import Learner
from tests.model_configs import ALL
from tests.training import tokenised
from tests.unit.test_memory_estimate import card, cpu
from tests.unit.test_model import named_gradients, prepared_for, stir

SIZE = ModelSize(10**9, 24, 2048, 8192)


def qlora(**tuning) -> RunConfig:
    return RunConfig.model_validate({"tuning": {"mode": "qlora", **tuning}})


@pytest.mark.parametrize("double", [False, True])
def test_the_weights_are_those_that_4_bits_are_unpacked_to(tiny_llama, double):
    from bitsandbytes.functional import dequantize_4bit

    dtype = torch.bfloat16
    rounded = load_base(tiny_llama, dtype=dtype, device="cpu")
    round_to_nf4(rounded, double_quant=double)
    packed = load_base(tiny_llama, dtype=dtype, device="cpu", quantised=True, double_quant=double)
    for name, layer in packed.named_modules():
        weight = getattr(layer, "weight", None)
        if hasattr(weight, "quant_state"):
            unpacked = dequantize_4bit(weight.data, weight.quant_state)
            assert torch.equal(rounded.get_submodule(name).weight, unpacked), name
        elif name == "lm_head":
            assert torch.equal(rounded.lm_head.weight, weight)


def test_unpacking_once_gives_the_gradients_of_unpacking_in_every_step(tiny_llama):
    batch = side_by_side(tokenised(tiny_llama, 4))
    found = {}
    for unpacked in (True, False):
        prepared = prepared_for(tiny_llama, mode="qlora", tuning={"unpack_4bit": unpacked})
        stir(prepared.model)
        loss = Learner(prepared)(batch)
        loss.backward()
        found[unpacked] = (loss.item(), named_gradients(prepared.model))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    for name, gradient in found[False][1].items():
        assert torch.allclose(found[True][1][name], gradient, rtol=1e-3, atol=1e-4), name


def test_it_is_done_on_a_cpu_with_the_ram_for_it_and_told():
    def decided(config, device):
        return {c.setting: c for c in resolve(config, device, SIZE, 512).choices}

    told = decided(qlora(), cpu())["tuning.unpack_4bit"]
    assert told.value is True
    assert "of the RAM" in told.reason
    assert decided(qlora(unpack_4bit=False), cpu())["tuning.unpack_4bit"].value is False
    assert "tuning.unpack_4bit" not in decided(qlora(), card(8))


def test_the_estimate_counts_16_bit_weights_and_knows_the_way_back():
    shape = ModelShape.of(ALL["Qwen2.5-1.5B"])
    lean = {"train": {"batch_size": 1, "gradient_checkpointing": True}}
    short = {**lean, "model": {"max_seq_len": 128}}
    once, each = (
        estimate(RunConfig.model_validate({**short, "tuning": tuning}), shape, cpu())
        for tuning in ({"mode": "qlora"}, {"mode": "qlora", "unpack_4bit": False})
    )
    assert once.categories.quant_state == 0
    assert once.categories.weights > 3 * each.categories.weights
    assert "tuning.unpack_4bit" in [change.setting for change in once.changes]
