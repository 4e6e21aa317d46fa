"""Load a base model with unsloth and put its adapter on; the loop around it stays ours.

The worker has imported unsloth before this module, as it must be: it changes what comes after. Its
trainers are not used, and neither are our fast paths, which know the stock layers only.
"""

import sys

import torch

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import LoraConfig as LoraSettings
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import BackendError
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.worker.model.load import (
    ALL_LINEAR,
    Prepared,
    check_targets,
    keep_gradients,
    without_peft_noise,
)
from sftplay_ui.engine.worker.model.losses import head_is_plain
from sftplay_ui.engine.worker.model.precision import weight_dtype

# what all-linear means to unsloth's fast paths; the output head stays as it is
EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def prepare_with_unsloth(
    folder: ModelFolder, config: RunConfig, resolved: Resolved, *, device: str, longest: int
) -> Prepared:
    """Load the base model with unsloth, frozen, with fresh adapters in fp32.

    Raises BackendError where all weights are to learn; whatever unsloth raises means that it does
    not know this model, and bnb can take its place.
    """
    if resolved.mode == "full":
        raise BackendError(
            "unsloth is used for adapters, and this model is tuned whole.",
            "Set tuning.backend: bnb.",
        )
    fast = sys.modules["unsloth"].FastLanguageModel
    torch.manual_seed(config.train.seed)
    base, _tokenizer = fast.from_pretrained(
        str(folder.path),
        max_seq_length=max(longest, config.model.max_seq_len),
        dtype=weight_dtype(resolved.mode, resolved.precision),
        load_in_4bit=resolved.mode == "qlora",
        use_gradient_checkpointing=False,
        random_state=config.train.seed,
        local_files_only=True,
    )
    lora = config.tuning.lora
    with without_peft_noise():
        model = fast.get_peft_model(
            base,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets_of(base, lora),
            use_rslora=lora.use_rslora,
            bias="none",
            use_gradient_checkpointing="unsloth" if resolved.gradient_checkpointing else False,
            random_state=config.train.seed,
        )
    stock = model.get_base_model()
    if device == "cpu":
        keep_gradients(stock)
    plain, why = head_is_plain(stock)
    choices = (
        Choice("adapter layers", "unsloth's own", "unsloth loaded the model"),
        Choice("loss", "chunked" if plain else "all logits", why),
        Choice("train.packing", False, "unsloth's attention knows no rows side by side"),
    )
    model.train()
    return Prepared(model, stock, False, plain, choices)


def targets_of(base: torch.nn.Module, lora: LoraSettings) -> list[str]:
    """List the layers that get an adapter; AdapterError where one is not there."""
    targets = lora.target_modules
    if targets == ALL_LINEAR:
        names = {name.rpartition(".")[2] for name, _module in base.named_modules()}
        return [name for name in EVERY_LAYER if name in names]
    named = [targets] if isinstance(targets, str) else list(targets)
    check_targets(base, named)
    return named
