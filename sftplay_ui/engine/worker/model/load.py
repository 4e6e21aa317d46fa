"""Load a base model and make it ready to learn: quantised or not, with an adapter or whole.

What each setting should be is decided in `resolve`; here it meets the real model, which is asked
whether the fast paths (`attention`, `losses`, `lora_linear`) suit it.
"""

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import LoraConfig as LoraSettings
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import AdapterError, ModelError
from sftplay_ui.engine.models.folder import ModelFolder, weight_files
from sftplay_ui.engine.models.safetensors_header import read_header
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.worker.model.attention import rows_fit
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears
from sftplay_ui.engine.worker.model.losses import head_is_plain
from sftplay_ui.engine.worker.model.nf4 import round_to_nf4
from sftplay_ui.engine.worker.model.norms import use_lean_norms
from sftplay_ui.engine.worker.model.precision import route_fp32_products, weight_dtype

# peft's word for every linear layer but the output head
ALL_LINEAR = "all-linear"
# the part of an adapter weight's name that no weight of a base model has
LORA = ".lora_"
MAGNITUDE = "lora_magnitude_vector.default.weight"
# how transformers words weights of other shapes than the configuration's
MISMATCH = "ignore_mismatched_sizes"


@dataclass(frozen=True)
class Prepared:
    """A model ready to learn: `base` is `model` without peft's shell, the same weights."""

    model: nn.Module
    base: PreTrainedModel
    side_by_side: bool
    plain_head: bool
    choices: tuple[Choice, ...]


def load_base(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: str,
    quantised: bool = False,
    double_quant: bool = False,
) -> PreTrainedModel:
    """Load a base model in evaluation mode; `quantised` packs its linear layers into 4 bits (NF4).

    Raises ModelError where the folder holds no language model that can be loaded whole.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        encodes = AutoConfig.from_pretrained(folder, local_files_only=True).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            **(quantisation(dtype, device, double=double_quant) if quantised else {}),
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if MISMATCH in reason:
            reason = "its weights have other shapes than its config.json says."
        raise ModelError(
            f"The base model {folder} cannot be loaded: {reason}",
            "Fetch the model again, or choose another one.",
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f"The base model {folder} lacks weights, first {sorted(report['missing_keys'])[0]}.",
            "Fetch the model again; a file is not complete.",
        )
    if quantised:
        keep_gradients(model)
    else:
        model.to(device)
    return model.eval()


def quantisation(dtype: torch.dtype, device: str, *, double: bool = False) -> dict[str, object]:
    """Give the loading options for 4-bit weights (NF4; Dettmers et al. 2023).

    `double` quantises the scales of the weights too.
    """
    return {
        "device_map": {"": device},
        # left out, the compute type is fp32: silently slow
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=double,
        ),
    }


def keep_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on AVX512-BF16 CPUs.

    A pass without gradients repacks them for good, and the packed product has no gradient: after
    one evaluation the layers below would learn from wrong gradients, without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_with_adapter(
    folder: Path, adapter: Path, *, dtype: torch.dtype, device: str, quantised: bool = False
) -> PeftModel:
    """Load a base model with an adapter on it, for evaluation, chat or merging.

    Raises AdapterError where the adapter does not fit the base model.
    """
    base = load_base(folder, dtype=dtype, device=device, quantised=quantised)
    try:
        with without_peft_noise():
            # what is missing is told by check_complete
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            model = PeftModel.from_pretrained(base, adapter, torch_device=device).eval()
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise AdapterError(
            f"The adapter {adapter} does not fit the base model {folder}: {reason}",
            "Choose the base model that the adapter was trained from.",
        ) from error
    check_complete(adapter, model)
    return model


def check_complete(adapter: Path, model: PeftModel) -> None:
    """Raise AdapterError unless the file has every adapter weight of the model, and no other.

    peft only warns: a weight that is missing would stay as it was made, at random.
    """
    in_file = [tensor.name for file in weight_files(adapter) for tensor in read_header(file)]
    in_model = [stored_name(name) for name, _ in model.named_parameters()]
    stored, here = (
        {name.removesuffix(".default") for name in names if LORA in name}
        for names in (in_file, in_model)
    )
    for name in sorted(stored ^ here):
        lack = "lacks" if name in here else "has a weight that the base model has no place for:"
        raise AdapterError(
            f"The adapter {adapter} {lack} {name}.",
            "Choose the base model that the adapter was trained from, or copy the adapter anew.",
        )


def stored_name(name: str) -> str:
    """Give the name peft stores a parameter of an adapter by: without its own name for it."""
    # the lengths that DoRA learns are stored without the name of their weight
    return name.replace(MAGNITUDE, MAGNITUDE.split(".", 1)[0]).replace(".default.", ".")


@contextmanager
def without_peft_noise() -> Iterator[None]:
    """Silence peft where it asks transformers by a name that is going away."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def prepare(
    folder: ModelFolder, config: RunConfig, resolved: Resolved, *, device: str, longest: int
) -> Prepared:
    """Load the base model and make it learn as resolved, on the fastest paths that suit it."""
    choices = [] if device != "cpu" else [route_fp32_products()]
    base = load_base(
        folder.path,
        dtype=weight_dtype(resolved.mode, resolved.precision),
        # what is going to be spread may be too large for one device
        device="cpu" if resolved.spread else device,
        quantised=resolved.mode == "qlora" and not resolved.unpacked,
        double_quant=resolved.double_quant,
    )
    if resolved.unpacked:
        round_to_nf4(base, double_quant=resolved.double_quant)
    torch.manual_seed(config.train.seed)
    model: nn.Module = base
    if resolved.mode != "full":
        model = add_adapter(base, config.tuning.lora)
        choices.append(choose_linears(model))
    if device == "cpu":
        choices.append(choose_norms(base))
    encodes = base.config.is_encoder_decoder
    plain, why = (False, "its decoder reads an encoder") if encodes else head_is_plain(base)
    choices.append(Choice("loss", "chunked" if plain else "all logits", why))
    if config.train.packing is False:
        rows, why = False, "as asked"
    elif encodes:
        rows, why = False, "the encoder's and the decoder's sides are padded apart"
    else:
        rows, why = rows_fit(base, longest)
    choices.append(Choice("train.packing", rows, why))
    if resolved.gradient_checkpointing:
        recompute_activations(base)
    model.train()
    return Prepared(model, base, rows, plain, tuple(choices))


def recompute_activations(base: PreTrainedModel) -> None:
    """Let the model recompute its activations in the backward pass: slower, and leaner."""
    # the name since transformers 5.2x; the older one still works there, with a warning
    newer = getattr(base, "activation_checkpointing_enable", None)
    (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})


def add_adapter(base: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Freeze the base model and put fresh adapters (in fp32) on the chosen layers."""
    targets = lora.target_modules
    if targets != ALL_LINEAR:
        targets = [targets] if isinstance(targets, str) else list(targets)
        check_targets(base, targets)
    shape = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
    )
    with without_peft_noise():
        return get_peft_model(base, shape)


def check_targets(base: PreTrainedModel, targets: list[str]) -> None:
    """Raise AdapterError unless every named layer is there, with the nearest names that are."""
    linear = (nn.Linear, nn.Embedding)
    names = {name.rpartition(".")[2] for name, m in base.named_modules() if isinstance(m, linear)}
    for target in targets:
        if target.rpartition(".")[2] in names:
            continue
        near = difflib.get_close_matches(target, names, n=3, cutoff=0.4) or sorted(names)
        raise AdapterError(
            f'tuning.lora.target_modules names "{target}", and the model has no such layer.',
            f"Use all-linear, or one of: {', '.join(near)}.",
        )


def choose_linears(model: nn.Module) -> Choice:
    """Switch LoRA layers to one product each where they are plain."""
    switched, total = use_lean_linears(model)
    if switched == total:
        return Choice("adapter layers", "fused", "all are plain LoRA on frozen layers")
    reason = f"{total - switched} of {total} have dropout, DoRA or 4-bit weights"
    return Choice("adapter layers", "fused" if switched else "peft's own", reason)


def choose_norms(base: PreTrainedModel) -> Choice:
    """Switch the norms to one step each where they are root mean square norms."""
    switched, total = use_lean_norms(base)
    if switched and switched == total:
        return Choice("norms", "fused", "all are root mean square norms, and keep half as much")
    reason = f"{total - switched} of {total} compute something else" if total else "of another kind"
    return Choice("norms", "fused" if switched else "the model's own", reason)
