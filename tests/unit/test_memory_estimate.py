"""The answer to *will it fit*: categories, verdict, largest batch and advice."""

import dataclasses
from typing import Any

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.shapes import ModelShape
from tests.model_configs import ALL

GIB = 1 << 30
# an encoder-decoder model is tuned whole
DECODERS = [name for name in ALL if "T5" not in name]


def card(gigabytes: float, *, bf16: bool = True) -> DeviceInfo:
    size = int(gigabytes * GIB)
    return DeviceInfo("cuda:0", "cuda", "Test card", size, size, bf16, "in a test")


def cpu(*, bf16: bool = True) -> DeviceInfo:
    return DeviceInfo("cpu", "cpu", "CPU, 4 cores", 16 * GIB, 12 * GIB, bf16, "in a test")


def estimated(
    model: str, device: DeviceInfo, *, length: int = 512, mode: str = "qlora", **train: Any
) -> Estimate:
    config = RunConfig.model_validate(
        {
            "model": {"max_seq_len": length},
            "tuning": {"mode": mode},
            "train": {"batch_size": 1, "gradient_checkpointing": True, **train},
        }
    )
    return estimate(config, ModelShape.of(ALL[model]), device)


def test_the_categories_add_up_to_the_device_bytes() -> None:
    found = estimated("Qwen2.5-3B", card(8))
    assert sum(vars(found.categories).values()) == pytest.approx(found.device_bytes, abs=20)
    assert found.peak_allocated_bytes < found.device_bytes < found.high_bytes


def test_a_3b_model_fits_an_8_gb_card_with_long_examples_too() -> None:
    assert estimated("Qwen2.5-3B", card(8)).verdict == "fits"
    assert estimated("Qwen2.5-3B", card(8), length=4096).verdict == "fits"


@pytest.mark.parametrize("model", ["Qwen2.5-3B", "Qwen2.5-1.5B", "Llama-3.2-1B"])
@pytest.mark.parametrize("length", [256, 512, 1024, 2048])
@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_what_is_decided_for_an_8_gb_card_fits_it(
    model: str, length: int, batch_size: int | str
) -> None:
    left_alone = {"gradient_checkpointing": "auto", "batch_size": batch_size}
    assert estimated(model, card(8), length=length, **left_alone).verdict == "fits"


def test_a_7b_model_is_tight_on_8_gb_and_does_not_fit_with_longer_examples() -> None:
    assert estimated("Qwen2.5-7B", card(8)).verdict == "tight"
    assert estimated("Qwen2.5-7B", card(8), length=2048).verdict == "no"


def test_a_verdict_names_what_is_needed_and_what_is_free() -> None:
    sentence = estimated("Qwen2.5-7B", card(6)).sentence
    assert sentence.startswith("Does not fit: about ")
    assert "6.0 GiB are free on Test card" in sentence


@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("mode", ["qlora", "lora", "full"])
def test_longer_examples_never_need_less(model: str, mode: str) -> None:
    needs = [
        estimated(model, card(80), mode=mode, length=length).device_bytes
        for length in (64, 512, 4096)
    ]
    assert needs == sorted(needs)


@pytest.mark.parametrize("model", DECODERS)
def test_learning_all_weights_needs_most_and_4_bits_need_least(model: str) -> None:
    needs = [
        estimated(model, card(80), mode=mode, optim="adamw").device_bytes
        for mode in ("qlora", "lora", "full")
    ]
    assert needs == sorted(needs)


def test_the_largest_batch_is_the_last_one_that_fits() -> None:
    found = estimated("Qwen2.5-1.5B", card(8))
    most = found.largest_batch
    assert estimated("Qwen2.5-1.5B", card(8), batch_size=most).device_bytes <= 8 * GIB
    assert estimated("Qwen2.5-1.5B", card(8), batch_size=most + 1).device_bytes > 8 * GIB


def test_no_batch_fits_where_the_weights_alone_do_not() -> None:
    assert estimated("Qwen2.5-7B", card(4)).largest_batch == 0


def test_each_change_saves_what_it_says() -> None:
    kept = {"gradient_checkpointing": False, "batch_size": 8, "grad_accum": 1}
    found = estimated("Qwen2.5-1.5B", card(8), **kept)
    first = found.changes[0]
    assert len(found.changes) == 3
    assert first.setting == "train.gradient_checkpointing"
    changed = estimated("Qwen2.5-1.5B", card(8), **{**kept, "gradient_checkpointing": True})
    assert found.device_bytes - changed.device_bytes == first.saved_bytes
    assert [c.saved_bytes for c in found.changes] == sorted(
        (c.saved_bytes for c in found.changes), reverse=True
    )


def test_full_tuning_is_advised_to_learn_an_adapter() -> None:
    settings = [change.setting for change in estimated("Qwen2.5-3B", card(24), mode="full").changes]
    assert "tuning.mode" in settings


def test_an_8_bit_optimizer_needs_a_quarter_of_the_state() -> None:
    wide = estimated("Qwen2.5-3B", card(24), optim="adamw").categories.optimizer
    narrow = estimated("Qwen2.5-3B", card(24), optim="adamw_8bit").categories.optimizer
    assert narrow == pytest.approx(wide / 4, rel=0.02)


def test_measured_lengths_count_instead_of_the_longest_allowed() -> None:
    train = {"batch_size": 4, "gradient_checkpointing": False}
    config = RunConfig.model_validate({"train": train})
    shape = ModelShape.of(ALL["SmolLM2-135M"])
    short = TokenLengths.of([100, 60, 50, 40, 30], learned=140)
    found = estimate(config, shape, cpu(), short)
    assert found.tokens == 100 + 60 + 50 + 40
    assert found.device_bytes < estimate(config, shape, cpu()).device_bytes


def test_padding_makes_every_example_as_long_as_the_longest() -> None:
    config = RunConfig.model_validate({"train": {"batch_size": 4, "packing": False}})
    shape = ModelShape.of(ALL["SmolLM2-135M"])
    found = estimate(config, shape, cpu(), TokenLengths.of([100, 60, 50, 40], learned=140))
    assert found.tokens == 4 * 100


def test_numbers_of_32_bits_need_about_twice_the_memory() -> None:
    narrow, wide = (
        estimated("Qwen2.5-0.5B", cpu(bf16=bf16), mode="lora").peak_allocated_bytes
        for bf16 in (True, False)
    )
    assert 1.4 < wide / narrow < 2


def test_what_a_cpu_cannot_do_is_an_error_and_no_estimate() -> None:
    with pytest.raises(ConfigError, match="fp16"):
        estimated("SmolLM2-135M", cpu(), fp16=True)


def test_an_estimate_becomes_plain_values() -> None:
    found = estimated("Qwen2.5-3B", card(8))
    value = found.to_json()
    assert value["categories"] == dataclasses.asdict(found.categories)
    assert value["changes"][0].keys() == {"setting", "value", "saved_bytes", "price"}
    assert "need" not in value


def test_an_encoder_decoder_is_estimated_whole_and_never_advised_an_adapter() -> None:
    found = estimated("FLAN-T5-small", card(8), mode="auto")
    with pytest.raises(ConfigError, match="tuned whole"):
        estimated("FLAN-T5-small", card(8), mode="lora")
    assert found.need.setup.mode == "full"
    assert "tuning.mode" not in {change.setting for change in found.changes}


def test_unsloth_is_reckoned_without_what_only_our_own_ways_do() -> None:
    lengths = TokenLengths.of([400, 30, 30, 30], learned=245)
    values = {"train": {"batch_size": 4, "effective_batch": 4}, "tuning": {"mode": "lora"}}
    shape = ModelShape.of(ALL["Qwen2.5-1.5B"])
    ours = estimate(RunConfig.model_validate(values), shape, card(8), lengths)
    values["tuning"]["backend"] = "unsloth"
    padded = estimate(RunConfig.model_validate(values), shape, card(8), lengths)
    assert (ours.tokens, padded.tokens) == (490, 1600)
    assert padded.need.resolved.backend == "unsloth"
    # what is left to bnb is reckoned as bnb
    values["tuning"]["mode"] = "full"
    assert estimate(RunConfig.model_validate(values), shape, card(8)).need.resolved.backend == "bnb"


def test_short_examples_are_counted_as_many_as_a_run_takes_at_a_time() -> None:
    lengths = TokenLengths.of([2048, *[300] * 7], learned=1000)
    tokens = [
        estimate(
            RunConfig.model_validate({"model": {"max_seq_len": 2048}, "train": train}),
            ModelShape.of(ALL["SmolLM2-135M"]),
            cpu(),
            lengths,
        ).need.setup.tokens
        for train in (
            {"batch_size": 4, "grad_accum": 2},
            {"batch_size": "auto", "grad_accum": 2},
        )
    ]
    assert tokens == [2048 + 3 * 300, 2048 + 7 * 300]


def test_nothing_is_advised_that_cannot_be_spread() -> None:
    spread = {"sharding": "fsdp", "processes": 2}
    alone = estimated("Qwen2.5-3B", card(8), mode="full", optim="adamw")
    advised = [
        {(change.setting, change.value) for change in found.changes}
        for found in (alone, estimated("Qwen2.5-3B", card(8), mode="full", **spread))
    ]
    leaner = {("tuning.mode", "qlora"), ("train.optim", "adamw_8bit")}
    assert advised[0] & leaner
    assert not advised[1] & leaner
