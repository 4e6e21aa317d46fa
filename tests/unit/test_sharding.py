"""Whether weights are spread over processes; how they learn so is tested with real processes."""

import pytest
import torch
from torch import nn

from sftplay_ui.engine.config import RunConfig, TrainConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import BackendError, DeviceMemoryError
from sftplay_ui.engine.resolve import ModelSize, resolve
from sftplay_ui.engine.worker.training.sharding import (
    gathered,
    is_spread,
    own_part,
    settle_sharding,
    take_over,
)

CARD = DeviceInfo("cuda:0", "cuda", "a card", 24 * 10**9, 24 * 10**9, True, "it has bf16")
OLD_CARD = DeviceInfo(
    "cuda:0", "cuda", "an old card", 8 * 10**9, 8 * 10**9, False, "it has no bf16"
)
SIZE = ModelSize(10**9, 16, 2048, 8192)
SPREAD = TrainConfig(sharding="fsdp")


def settled(config: RunConfig, device=CARD, processes=2):
    return settle_sharding(resolve(config, device, SIZE, 128, processes), config.train, processes)


def told(resolved) -> dict[str, object]:
    return {choice.setting: choice.value for choice in resolved.choices}


def test_weights_are_spread_only_where_that_is_asked():
    assert not settled(RunConfig()).spread
    assert "train.sharding" not in told(settled(RunConfig()))
    spread = settled(RunConfig(train=SPREAD))
    assert spread.spread
    assert told(spread)["train.sharding"] == "fsdp"


def test_what_is_auto_becomes_what_can_be_spread():
    spread = settled(RunConfig(train=SPREAD))
    assert (spread.mode, spread.optim) == ("lora", "adamw")


def test_a_single_process_has_nothing_to_spread():
    alone = settled(RunConfig(train=SPREAD), processes=1)
    assert not alone.spread
    assert told(alone)["train.sharding"] == "no"


@pytest.mark.parametrize(
    ("settings", "device", "instead"),
    [
        ({"tuning": {"mode": "qlora"}}, CARD, "tuning.mode: lora"),
        ({"tuning": {"mode": "full"}}, OLD_CARD, "train.fp16: false"),
    ],
)
def test_what_cannot_be_spread_is_refused_with_what_to_set(settings, device, instead):
    config = RunConfig.model_validate({**settings, "train": {"sharding": "fsdp"}})
    with pytest.raises(BackendError) as refused:
        settled(config, device)
    assert instead in refused.value.fix
    assert "train.sharding: no" in refused.value.fix


def test_an_accelerate_configuration_may_ask_for_it():
    environment = {"ACCELERATE_USE_FSDP": "true", "HOME": "/"}
    assert take_over(RunConfig(), environment).train.sharding == "fsdp"
    # the libraries would act on it in their own ways
    assert environment == {"HOME": "/"}
    assert take_over(RunConfig(), environment) == RunConfig()


def test_deepspeed_is_refused_with_what_to_use_instead():
    with pytest.raises(BackendError) as refused:
        take_over(RunConfig(), {"ACCELERATE_USE_DEEPSPEED": "true"})
    assert "train.sharding: fsdp" in refused.value.fix


def test_weights_that_are_not_spread_are_passed_on_as_they_are():
    weight = nn.Parameter(torch.ones(2))
    assert gathered({"weight": weight}, keep=True)["weight"] is weight
    assert gathered({"weight": weight}, keep=False) == {}
    assert own_part(weight, weight) is weight
    assert not is_spread(nn.Linear(1, 1))


def test_lack_of_memory_is_not_worked_around_by_one_process_alone(tiny_llama):
    from sftplay_ui.engine.worker.training.learner import Stepper

    stepper = Stepper.__new__(Stepper)
    stepper.spread = True
    with pytest.raises(DeviceMemoryError, match="spread weights"):
        stepper.make_room("it is full")


def test_a_single_process_keeps_what_only_spreading_would_forbid():
    alone = resolve(RunConfig(train=SPREAD), CARD, SIZE, 128)
    assert (alone.mode, alone.optim) == ("qlora", "adamw_8bit")
    together = resolve(RunConfig(train=SPREAD), CARD, SIZE, 128, 2)
    assert (together.mode, together.optim) == ("lora", "adamw")
