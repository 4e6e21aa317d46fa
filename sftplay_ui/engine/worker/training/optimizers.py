"""The optimizer: AdamW from torch, or with 8-bit states from bitsandbytes."""

import torch
from torch import nn

from sftplay_ui.engine.errors import BackendError
from sftplay_ui.engine.resolve import Resolved


def make_optimizer(
    model: nn.Module, resolved: Resolved, weight_decay: float
) -> torch.optim.Optimizer:
    """Make the optimizer for the weights that learn; vectors (norms, biases) do not decay."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if resolved.optim == "adamw":
        return torch.optim.AdamW(groups, lr=resolved.learning_rate, fused=True)
    try:
        # only here: importing it takes longer than loading a small model
        from bitsandbytes import optim
    except ImportError as error:
        raise BackendError(
            f"train.optim {resolved.optim} needs bitsandbytes, which is not installed here.",
            "Set train.optim: adamw, or install bitsandbytes.",
        ) from error
    kind = optim.PagedAdamW8bit if resolved.optim == "paged_adamw_8bit" else optim.AdamW8bit
    return kind(groups, lr=resolved.learning_rate)
