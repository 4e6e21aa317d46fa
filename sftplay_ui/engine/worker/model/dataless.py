"""A model without data, made from config.json alone: for tensors that are only counted.

It is put together as `load.prepare` does it with weights. What that finds out by computing is
decided from the configuration here, and 4-bit layers are laid out packed, since nothing is there to
be quantised. Wants to be called where torch makes fake tensors.
"""

import copy
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from sftplay_ui.engine.config import LoraConfig
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.simulation import Case
from sftplay_ui.engine.worker.model import attention, norms
from sftplay_ui.engine.worker.model.load import Prepared, add_adapter, recompute_activations
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears
from sftplay_ui.engine.worker.model.precision import weight_dtype

# What config.json says of files and not of the model.
NOT_OF_THE_MODEL = {"model_type", "architectures", "auto_map", "quantization_config", "torch_dtype"}


def build(case: Case, layers: int, *, plain_head: bool) -> Prepared:
    """Make the model the way `worker.model.prepare` does, without weights to load.

    What that finds out by computing is decided from the configuration here.
    """
    config = model_config(case)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    dtype = weight_dtype(case.mode, case.precision)
    try:
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"The model cannot be built as it would be trained: {reason}", "Choose another model."
        ) from error
    if case.mode == "qlora":
        quantise(base, dtype)
    model: nn.Module = base
    if case.mode != "full":
        # adapters are made in the type and on the device they stay in; moving fake ones fails
        with patch.object(nn.Module, "to", lambda module, *_args, **_kwargs: module):
            model = add_adapter(base, LoraConfig.model_validate(case.lora))
        use_lean_linears(model)
    if case.device == "cpu":
        use_lean_norms(base)
    rows = case.packing and takes_rows(base, max(case.lengths))
    if case.checkpointing:
        recompute_activations(base)
    model.train()
    head = base.get_output_embeddings()
    plain = plain_head and type(head) is nn.Linear and head.bias is None
    return Prepared(model, base, rows, plain, ())


@torch.no_grad()
def takes_rows(base: transformers.PreTrainedModel, longest: int) -> bool:
    """Switch the model to row attention where its forward takes it; what it gives is not known."""
    if attention.why_no_rows(base, longest):
        return False
    lengths = attention.PROBE_LENGTHS
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    own = attention.use_rows(base)
    try:
        base.get_decoder()(
            torch.zeros_like(positions),
            position_ids=positions,
            use_cache=False,
            row_lengths=lengths,
        )
    except (TypeError, ValueError, RuntimeError):
        base.set_attn_implementation(own)
        return False
    return True


def use_lean_norms(base: nn.Module) -> None:
    """Switch norms as a CPU's run does; whether one suits is asked of a copy that has data."""

    def suits(norm: nn.Module) -> bool:
        with unset_fake_temporarily():
            real = copy.copy(norm)
            weight = torch.ones(norm.weight.shape, dtype=norm.weight.dtype)
            real._parameters = {"weight": nn.Parameter(weight)}
            return asked(real)

    asked = norms.is_suitable
    with patch.object(norms, "is_suitable", suits):
        norms.use_lean_norms(base)


def quantise(base: nn.Module, dtype: torch.dtype) -> None:
    """Put 4-bit layers (NF4, one fp32 scale for 64 weights) in the place of the linear layers."""
    head = base.get_output_embeddings()
    for name, layer in list(base.named_modules()):
        if type(layer) is nn.Linear and layer is not head:
            parent, _, last = name.rpartition(".")
            setattr(base.get_submodule(parent), last, packed(layer, dtype))
    base.is_loaded_in_4bit = True


def packed(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """Make bitsandbytes' layer around packed weights that have no data."""
    import bitsandbytes  # only here: other modes need not wait for it

    size = layer.weight.numel()
    weight = nn.Parameter(torch.empty(size // 2, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_type, weight.compress_statistics = "nf4", False
    weight.quant_state = bitsandbytes.functional.QuantState(
        absmax=torch.empty(size // 64),
        shape=layer.weight.shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=dtype,
    )
    # its own constructor makes a tensor subclass, which fake tensors cannot be
    made = bitsandbytes.nn.Linear4bit.__new__(bitsandbytes.nn.Linear4bit)
    nn.Module.__init__(made)
    made.in_features, made.out_features = layer.in_features, layer.out_features
    made.weight, made.bias = weight, layer.bias
    made.compute_dtype, made.compute_type_is_set = dtype, True
    made.support_avx512bf16_for_cpu = False
    return made


def model_config(case: Case) -> Any:
    """Make the configuration that transformers builds the model from.

    Raises ModelError where it knows no such decoder.
    """
    values = {**case.config, **(case.config.get("text_config") or {})}
    family = str(values.get("model_type", ""))
    kept = {k: v for k, v in values.items() if k not in NOT_OF_THE_MODEL and k != "text_config"}
    try:
        config = transformers.AutoConfig.for_model(family, **kept)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot build a model of type {family!r}.",
            "Update transformers, or choose another model.",
        ) from error
    if config.is_encoder_decoder or not hasattr(config, "num_hidden_layers"):
        raise ModelError(
            f"A model of type {family!r} is not a decoder alone.", "Choose a decoder-only model."
        )
    return config
