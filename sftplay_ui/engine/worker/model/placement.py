"""Whether torch can use the device that the driver speaks of.

The device is chosen without torch, by the driver's word; a torch that was built for the processor
alone would fail far from here, or train elsewhere than was told.
"""

import torch

from sftplay_ui.engine.device import DeviceInfo, detect_device
from sftplay_ui.engine.errors import BackendError


def usable_device() -> DeviceInfo:
    """Choose the device; raise BackendError where the installed torch cannot use it."""
    device = detect_device()
    if device.kind != "cuda" or torch.cuda.is_available():
        return device
    why = "is built without CUDA"
    if torch.version.cuda is not None:
        why = f"is built for CUDA {torch.version.cuda}, which the driver does not offer"
    raise BackendError(
        f"There is a GPU ({device.name}), but the installed PyTorch {torch.__version__} {why}.",
        "Install a PyTorch for this GPU (pytorch.org/get-started), or set CUDA_VISIBLE_DEVICES=-1 "
        "to use the processor.",
    )
