"""What torch can use of the device that the driver speaks of."""

from types import SimpleNamespace

import pytest
import torch

from sftplay_ui.engine.device import DeviceInfo, cpu_device
from sftplay_ui.engine.errors import BackendError
from sftplay_ui.engine.worker.model import placement

CARD = DeviceInfo("cuda:0", "cuda", "NVIDIA A100", 80 * 10**9, 79 * 10**9, True, "asked NVML")


@pytest.mark.parametrize(
    ("built", "said"), [(None, "built without CUDA"), ("13.0", r"built for CUDA 13\.0")]
)
def test_a_card_that_this_torch_cannot_use_is_named_with_the_way_out(monkeypatch, built, said):
    monkeypatch.setattr(placement, "detect_device", lambda: CARD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=built))
    with pytest.raises(BackendError, match=rf"NVIDIA A100.*{said}.*CUDA_VISIBLE_DEVICES=-1"):
        placement.usable_device()


def test_a_card_that_torch_sees_and_the_processor_are_used(monkeypatch):
    monkeypatch.setattr(placement, "detect_device", lambda: CARD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placement.usable_device() is CARD
    monkeypatch.setattr(placement, "detect_device", cpu_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement.usable_device().kind == "cpu"
