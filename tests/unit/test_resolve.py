"""What `auto` becomes: by device, model and mode, and always with a reason."""

from dataclasses import replace

import pytest

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig, TrainConfig, TuningConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import BackendError, ConfigError
from sftplay_ui.engine.resolve import ModelSize, parameter_count, resolve

GB = 10**9
CPU = DeviceInfo("cpu", "cpu", "CPU, 2 cores", 16 * GB, 12 * GB, True, "the CPU has avx512_bf16")
OLD_CPU = DeviceInfo("cpu", "cpu", "CPU, 2 cores", 8 * GB, 6 * GB, False, "no bf16 instructions")
CARD = DeviceInfo("cuda:0", "cuda", "RTX 4060", 8 * GB, 7 * GB, True, "compute capability 8.9")
OLD_CARD = DeviceInfo("cuda:0", "cuda", "T4", 15 * GB, 14 * GB, False, "compute capability 7.5")
APPLE = DeviceInfo("mps", "mps", "Apple GPU", 16 * GB, 10 * GB, False, "Apple silicon")
STARTER = ModelSize(134_515_008, 30, 576, 1536)
THREE_BILLION = ModelSize(3_085_938_688, 36, 2048, 11008)


def resolved(device=CPU, model=STARTER, *, mode="auto", longest=400, **train):
    tuning = TuningConfig(mode=mode)
    return resolve(RunConfig(tuning=tuning, train=TrainConfig(**train)), device, model, longest)


@pytest.mark.parametrize(
    ("device", "mode", "precision", "optim"),
    [
        (CPU, "lora", "bf16", "adamw"),
        (OLD_CPU, "lora", "fp32", "adamw"),
        (CARD, "qlora", "bf16", "adamw_8bit"),
        (OLD_CARD, "qlora", "fp16", "adamw_8bit"),
        (APPLE, "lora", "fp32", "adamw"),
    ],
)
def test_each_device_gets_what_suits_it(device, mode, precision, optim):
    found = resolved(device)
    assert (found.mode, found.precision, found.optim) == (mode, precision, optim)
    assert all(choice.reason for choice in found.choices)


@pytest.mark.parametrize(
    ("model", "mode", "rate"),
    [
        (STARTER, "lora", 4e-4),
        (THREE_BILLION, "qlora", 2e-4),
        (STARTER, "full", 2e-5),
        (THREE_BILLION, "full", 1e-5),
    ],
)
def test_the_learning_rate_goes_by_size_and_mode_and_says_so(model, mode, rate):
    found = resolved(CARD, model, mode=mode)
    assert found.learning_rate == rate
    (choice,) = (c for c in found.choices if c.setting == "train.learning_rate")
    assert model.label() in choice.reason


def test_what_was_asked_for_is_taken():
    found = resolved(CARD, mode="lora", learning_rate=0.5, optim="adamw", bf16=False, fp16=False)
    assert (found.mode, found.learning_rate, found.optim) == ("lora", 0.5, "adamw")
    assert found.precision == "fp32"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="fp16"):
        resolved(CPU, fp16=True)


def test_bf16_on_a_card_without_it_is_refused():
    with pytest.raises(BackendError, match=r"7\.5"):
        resolved(OLD_CARD, bf16=True)


def test_qlora_on_apples_gpu_is_refused():
    with pytest.raises(BackendError, match="bitsandbytes"):
        resolved(APPLE, mode="qlora")


def test_4bit_weights_of_another_backend_stay_as_it_packs_them():
    config = RunConfig(tuning=TuningConfig(mode="qlora", unpack_4bit=True))
    other = Choice("tuning.backend", "unsloth", "it works here")
    found = resolve(config, CPU, STARTER, 400, 1, other)
    assert (found.backend, found.unpacked) == ("unsloth", False)
    assert other in found.choices
    assert resolve(config, CPU, STARTER, 400).unpacked


@pytest.mark.parametrize("longest", [16, 400, 4000, 40000])
@pytest.mark.parametrize("device", [CPU, CARD])
def test_auto_keeps_the_effective_batch(device, longest):
    found = resolved(device, THREE_BILLION, longest=longest, effective_batch=12)
    assert found.batch_size * found.grad_accum == found.effective_batch == 12


def test_longer_examples_get_smaller_micro_batches_and_then_recompute():
    short, long, endless = (resolved(longest=n) for n in (100, 1500, 50_000))
    assert short.batch_size > long.batch_size
    assert not long.gradient_checkpointing
    assert endless.gradient_checkpointing
    assert endless.batch_size == 1


def test_a_cpu_with_room_takes_the_whole_step_of_a_small_model_at_once():
    assert resolved(longest=300).batch_size == 8
    cramped = replace(CPU, free_bytes=2 * GB)
    assert resolved(cramped, longest=300).batch_size == 2


@pytest.mark.parametrize(
    ("given", "size", "accum", "effective"),
    [
        ({"batch_size": 2}, 2, 4, 8),
        ({"grad_accum": 4}, 2, 4, 8),
        ({"batch_size": 3}, 3, 3, 8),
        ({"batch_size": 4, "grad_accum": 8}, 4, 8, 32),
    ],
)
def test_what_is_given_decides_the_rest(given, size, accum, effective):
    found = resolved(**given)
    assert (found.batch_size, found.grad_accum, found.effective_batch) == (size, accum, effective)


def test_weights_are_counted_from_the_files(tiny_llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert parameter_count(tiny_llama) == sum(p.numel() for p in model.parameters())


def double_quant(device, model, asked="auto", mode="auto"):
    config = RunConfig(tuning=TuningConfig(mode=mode, double_quant=asked))
    return resolve(config, device, model, 400)


def test_scales_are_quantised_too_where_4_bit_weights_crowd_the_card():
    seven = ModelSize(7_600_000_000, 28, 3584, 18944)
    assert double_quant(CARD, seven).double_quant
    found = double_quant(CARD, STARTER)
    assert not found.double_quant
    (choice,) = (c for c in found.choices if c.setting == "tuning.double_quant")
    assert "of the free memory on RTX 4060" in choice.reason
    assert double_quant(CARD, STARTER, asked=True).double_quant
    assert not double_quant(CPU, seven, mode="qlora").double_quant


def test_without_4_bit_weights_there_are_no_scales_to_quantise():
    found = double_quant(CPU, STARTER, asked=True)
    assert not found.double_quant
    assert "tuning.double_quant" not in {choice.setting for choice in found.choices}
