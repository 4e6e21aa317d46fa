"""Fold an adapter into the weights of its base model, one tensor at a time.

The weight files are read and written as a stream, so a model needs the memory of its largest tensor
and not of the whole. Each changed weight is computed in fp32 and rounded once. What goes around the
weights (tokenizer, card, proof) is left to `merge`.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sftplay_ui.engine.errors import AdapterError, ModelError, NotFiniteError
from sftplay_ui.engine.models.folder import INDEX, weight_files

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FORMAT_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16"}
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
# buffers such as positions: bytes of a number; they are copied as they are
WHOLE_NUMBERS = {"I64": 8, "I32": 4, "BOOL": 1}
# ways of tuning whose weights are neither W + scale * B A nor that with rows of learned length
UNFOLDABLE = ("use_qalora", "lora_bias", "corda_config", "eva_config")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one weight: scale * up @ down, all in fp32.

    With DoRA (Liu et al. 2024) each output's row gets the length `magnitude` [out] afterwards.
    """

    down: Tensor
    up: Tensor
    scale: float
    transposed: bool
    magnitude: Tensor | None = None

    def delta(self) -> Tensor:
        """Multiply out, in the layout of the weight."""
        product = (self.up @ self.down) * self.scale
        return product.T if self.transposed else product

    def change(self, weight: Tensor) -> Tensor:
        """Give the tuned weight of an fp32 one."""
        tuned = weight + self.delta()
        if self.magnitude is None:
            return tuned
        outputs = self.magnitude if self.transposed else self.magnitude[:, None]
        return tuned * (outputs / tuned.norm(dim=0 if self.transposed else 1, keepdim=True))


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the folded model: where it comes from and what it will be."""

    name: str
    shape: tuple[int, ...]
    byte_count: int
    format_name: str
    changed: bool


@dataclass(frozen=True)
class FilePlan:
    """One weight file of the folded model."""

    source: Path
    tensors: tuple[TensorPlan, ...]

    @property
    def byte_count(self) -> int:
        return sum(tensor.byte_count for tensor in self.tensors)


def read_low_ranks(adapter: Path) -> dict[str, LowRank]:
    """Read a LoRA adapter as {name of the weight it changes: what it adds}.

    Raises AdapterError for kinds of adapter that cannot be folded exactly.
    """
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    check_foldable(adapter, config)
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    modules = {name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)}
    parts = (DOWN, UP, MAGNITUDE) if config.get("use_dora") else (DOWN, UP)
    strangers = tensors.keys() ^ {module + part for module in modules for part in parts}
    if strangers or not modules:
        raise AdapterError(
            f"{adapter} holds weights that are no LoRA pairs: {', '.join(sorted(strangers)[:3])}.",
            "Choose an adapter that changes linear layers only.",
        )
    low_ranks = {}
    for stored in modules:
        module = stored.removeprefix(PEFT_PREFIX)
        down = tensors[stored + DOWN]
        low_ranks[f"{module}.weight"] = LowRank(
            down,
            tensors[stored + UP],
            scale_of(module, len(down), config),
            bool(config.get("fan_in_fan_out")),
            tensors.get(stored + MAGNITUDE),
        )
    return low_ranks


def check_foldable(adapter: Path, config: Mapping[str, object]) -> None:
    """Refuse adapters that are more than low-rank additions."""
    kind = config.get("peft_type")
    extras = [name for name in (*UNFOLDABLE, "modules_to_save") if config.get(name)]
    if config.get("bias", "none") != "none":
        extras.append("bias")
    if kind != "LORA" or extras:
        raise AdapterError(
            f"{adapter} is not a plain LoRA adapter ({', '.join(extras) or kind}).",
            "Train with mode lora or qlora, whose adapters can be folded in exactly.",
        )


def scale_of(module: str, rank: int, config: Mapping[str, object]) -> float:
    """Give alpha / rank (or alpha / sqrt(rank), Kalajdzievski 2023), with the layer's own alpha."""
    patterns = config.get("alpha_pattern") or {}
    named = [value for key, value in patterns.items() if module.endswith(key)]
    alpha = float(named[0] if named else config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def plan_files(base: Path, low_ranks: Mapping[str, LowRank], dtype: str) -> list[FilePlan]:
    """Lay out the folded model's weight files; nothing but headers is read.

    Raises AdapterError where the adapter does not fit the base, ModelError for a base in 4 bit.
    """
    plans = [plan_file(path, low_ranks, DTYPES[dtype]) for path in weight_files(base)]
    changed = {tensor.name for plan in plans for tensor in plan.tensors if tensor.changed}
    missing = sorted(low_ranks.keys() - changed)
    if missing:
        raise AdapterError(
            f"The adapter changes {missing[0]}, which the base model {base} does not have.",
            "Merge it into the base model it was trained from.",
        )
    return plans


def plan_file(path: Path, low_ranks: Mapping[str, LowRank], dtype: torch.dtype) -> FilePlan:
    """Lay out one weight file."""
    tensors = []
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  not a dict
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            kind = part.get_dtype()
            if kind not in FLOATS and kind not in WHOLE_NUMBERS:
                raise ModelError(
                    f"{path} holds {name} as {kind}: the base model is quantised.",
                    "Name the same model in 16 bit as model.name; adapters fit it too.",
                )
            check_shape(name, shape, low_ranks.get(name))
            size = math.prod(shape) * WHOLE_NUMBERS.get(kind, dtype.itemsize)
            kind = FORMAT_NAMES[dtype] if kind in FLOATS else kind
            tensors.append(TensorPlan(name, shape, size, kind, name in low_ranks))
    return FilePlan(path, tuple(tensors))


def check_shape(name: str, shape: tuple[int, ...], low_rank: LowRank | None) -> None:
    """Refuse an adapter whose matrices do not fit the weight."""
    if low_rank is None:
        return
    fitting = (len(low_rank.up), low_rank.down.shape[1])
    if shape != (fitting[::-1] if low_rank.transposed else fitting):
        raise AdapterError(
            f"The adapter changes {name} as {fitting[0]} x {fitting[1]}, "
            f"the base model has it as {' x '.join(map(str, shape))}.",
            "Merge it into the base model it was trained from.",
        )


def fold_file(
    plan: FilePlan, low_ranks: Mapping[str, LowRank], out: Path, dtype: str
) -> Iterator[int]:
    """Write one folded weight file into `out`; yield the bytes of each tensor as it is done.

    The format: 8 bytes with the header's length, the header as JSON, then the tensors' bytes.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in plan.tensors:
        end = offset + tensor.byte_count
        header[tensor.name] = {
            "dtype": tensor.format_name,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # readers map the tensors, so these begin aligned
    with (
        safe_open(plan.source, framework="pt") as source,
        (out / plan.source.name).open("wb") as file,
    ):
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in plan.tensors:
            folded = fold(
                tensor.name,
                source.get_tensor(tensor.name),
                low_ranks.get(tensor.name),
                DTYPES[dtype],
            )
            file.write(memoryview(folded.view(-1).view(torch.uint8).numpy()))
            yield tensor.byte_count
        file.flush()
        os.fsync(file.fileno())


def fold(name: str, weight: Tensor, low_rank: LowRank | None, dtype: torch.dtype) -> Tensor:
    """Add an adapter in fp32 and round once; NotFiniteError where the type cannot hold it."""
    if not weight.is_floating_point():
        return weight.contiguous()
    if low_rank is not None:
        weight = low_rank.change(weight.float())
    folded = weight.to(dtype).contiguous()
    if not torch.isfinite(folded).all():
        largest = weight.float().abs().max().item()
        raise NotFiniteError(
            f"{name} has values up to {largest:.3g}, which {dtype} cannot hold.",
            "Merge with dtype bf16, which has the range of fp32.",
        )
    return folded


def write_index(plans: list[FilePlan], out: Path) -> None:
    """Write which tensor lies in which file; one file needs no index."""
    if len(plans) == 1:
        return
    names = {tensor.name: plan.source.name for plan in plans for tensor in plan.tensors}
    total = sum(plan.byte_count for plan in plans)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=2)
    (out / INDEX).write_text(text, encoding="utf-8")
