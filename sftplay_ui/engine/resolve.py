"""What every `auto` of the training settings becomes on this machine, each with its reason.

Pure functions of the configuration, the device and the model's size: the worker trains by them, and
anybody may ask before a start. What only the loaded model can tell is left to the worker.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.batch_fit import LANES, choose_lanes, fit_batch, why_one_lane
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig, TrainConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import BackendError, ConfigError
from sftplay_ui.engine.models.folder import weight_files

Mode = Literal["qlora", "lora", "full"]
Precision = Literal["bf16", "fp16", "fp32"]
BNB = Choice("tuning.backend", "bnb", "as asked")
SMALL_MODEL = 1_000_000_000
# Bytes of activations per token, layer and unit of (residual, feed-forward) width: for frozen
# 16-bit linear layers, and for 4-bit ones, whose adapters keep their inputs in fp32.
PER_WIDTH, PER_WIDTH_PACKED = (24.8, 8.3), (37.0, 10.0)
CPU_ACTIVATION_BYTES = 2.5e9
DEVICE_SHARE = 0.4
# NF4 with its scales; above this share of a GPU's memory a smaller form is worth its time.
PACKED_BYTES, CROWDED = 0.56, 0.4
# Unpacked once, 4-bit weights may take this share of all RAM.
ROOMY = 0.4


# Metrics of an evaluation that need no answer; the lowest is best. Of all others the highest is.
LOSS_METRICS = ("eval_loss", "eval_perplexity")
ANSWERS_SCORED = 32


@dataclass(frozen=True)
class ModelSize:
    """The few numbers of a base model that decide what fits; `encodes`: it has an encoder too."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    encodes: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], parameters: int) -> "ModelSize":
        """Read config.json's names; encoder-decoder models call them otherwise."""
        hidden = int(config.get("hidden_size") or config.get("d_model") or 0)
        layers = int(config.get("num_hidden_layers") or config.get("num_layers") or 1)
        wide = config.get("intermediate_size") or config.get("d_ff") or 4 * hidden
        encodes = bool(config.get("is_encoder_decoder"))
        return cls(parameters, layers * (1 + encodes), hidden, int(wide), encodes)

    def label(self) -> str:
        """Name the size the way people do: 135M, 1.5B."""
        billions = self.parameters / 1e9
        return f"{billions:.1f}B" if billions >= 1 else f"{self.parameters / 1e6:.0f}M"

    def activation_bytes(self, mode: str, precision: str, *, checkpointing: bool) -> float:
        """Estimate the activations kept per token; with checkpointing one layer's at a time."""
        packed = mode == "qlora" and precision == "bf16"
        hidden, wide_hidden = PER_WIDTH_PACKED if packed else PER_WIDTH
        layer = hidden * self.hidden + wide_hidden * self.intermediate
        wide = 2 if precision == "fp32" else 1
        kept = self.layers * 2 * self.hidden + layer if checkpointing else self.layers * layer
        return kept * wide

    def needs(self, mode: str, precision: str, longest: int) -> tuple[float, ...]:
        """Estimate one example's activations: as kept, and as recomputed with checkpointing."""
        ways = (False, True)
        return tuple(
            longest * self.activation_bytes(mode, precision, checkpointing=way) for way in ways
        )


@dataclass(frozen=True)
class Resolved:
    """The settings of a run with no `auto` left; `choices` tells each with its reason."""

    mode: Mode
    precision: Precision
    learning_rate: float
    optim: str
    gradient_checkpointing: bool
    batch_size: int
    grad_accum: int
    effective_batch: int
    choices: tuple[Choice, ...]
    double_quant: bool = False
    unpacked: bool = False
    backend: str = "bnb"
    spread: bool = False
    lanes: int = 1


def resolve(
    config: RunConfig,
    device: DeviceInfo,
    model: ModelSize,
    longest: int,
    processes: int = 1,
    backend: Choice = BNB,
) -> Resolved:
    """Decide every `auto`; `longest` is the longest example in tokens.

    The backend was decided before the worker was started. Raises ConfigError or BackendError for
    what this machine cannot do.
    """
    config = without_needless_sharding(config, processes)
    mode = choose_mode(config, device, encodes=model.encodes)
    precision = choose_precision(config.train, device, encodes=model.encodes)
    rate = choose_learning_rate(config.train, str(mode.value), model)
    optim = choose_optimizer(config.train, device)
    packing = (str(mode.value), str(precision.value))
    unpacking = choose_unpacking(config, *packing, device, model) if backend.value == "bnb" else ()
    unpacked = bool(unpacking and unpacking[0].value)
    way = "lora" if unpacked else str(mode.value)
    scales = choose_double_quant(config, str(mode.value), device, model)
    budget, needs = activation_budget(device, model, way), model.needs(way, packing[1], longest)
    fit = fit_batch(config.train, budget=budget, needs=needs, longest=longest, processes=processes)
    found = Resolved(
        mode=mode.value,  # type: ignore[arg-type]
        precision=precision.value,  # type: ignore[arg-type]
        learning_rate=float(rate.value),
        optim=str(optim.value),
        gradient_checkpointing=fit.checkpointing,
        batch_size=fit.batch_size,
        grad_accum=fit.grad_accum,
        effective_batch=fit.effective_batch(config.train, processes),
        choices=(
            mode,
            backend,
            precision,
            *scales,
            *unpacking,
            rate,
            optim,
            *fit.choices(),
            *choose_scored(config.train),
        ),
        double_quant=bool(scales and scales[0].value),
        unpacked=unpacked,
        backend=str(backend.value),
    )
    return with_lanes(found, config, device, parameters=model.parameters, processes=processes)


def with_lanes(
    found: Resolved, config: RunConfig, device: DeviceInfo, *, parameters: int, processes: int
) -> Resolved:
    """Share out a CPU's cores; other devices have no lanes."""
    if device.kind != "cpu":
        if config.train.lanes == "auto":
            return found
        none = Choice(LANES, 1, "lanes share the cores of a CPU")
        return replace(found, choices=(*found.choices, none))
    way = "lora" if found.unpacked else found.mode
    why_not = why_one_lane(config, mode=way, backend=found.backend, processes=processes)
    learning = parameters if way == "full" else 0
    lanes = choose_lanes(config.train, device, found.batch_size, learning=learning, why_not=why_not)
    return replace(found, lanes=int(lanes.value), choices=(*found.choices, lanes))


def is_shared_out(train: TrainConfig, processes: int = 1) -> bool:
    """Tell whether weights are to be spread over several processes."""
    return train.sharding != "no" and max(processes, train.processes) > 1


def without_needless_sharding(config: RunConfig, processes: int) -> RunConfig:
    """Leave sharding out of account where a single process has all of the weights anyway."""
    if is_shared_out(config.train, processes):
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"sharding": "no"})})


def choose_mode(config: RunConfig, device: DeviceInfo, *, encodes: bool = False) -> Choice:
    """Choose how much learns; 4-bit weights need a device bitsandbytes knows.

    A model that encodes (T5) is tuned whole.
    """
    asked = config.tuning.mode
    if encodes and asked not in ("auto", "full"):
        raise ConfigError(
            f"tuning.mode is {asked}, but an encoder-decoder model is tuned whole.",
            "Set tuning.mode: full.",
        )
    if encodes and asked == "auto":
        return Choice("tuning.mode", "full", "an encoder-decoder model is tuned whole")
    if asked == "qlora" and device.kind == "mps":
        raise BackendError(
            "tuning.mode qlora needs bitsandbytes, which does not run on Apple's GPU.",
            "Set tuning.mode: lora.",
        )
    if asked != "auto":
        return Choice("tuning.mode", asked, "as asked")
    if config.train.sharding != "no":
        return Choice("tuning.mode", "lora", "4-bit weights cannot be spread over processes")
    if device.kind == "cuda":
        return Choice("tuning.mode", "qlora", f"4-bit weights leave most room on {device.name}")
    return Choice("tuning.mode", "lora", f"16-bit weights are fastest on {device.name}")


def choose_double_quant(
    config: RunConfig, mode: str, device: DeviceInfo, model: ModelSize
) -> tuple[Choice, ...]:
    """Choose whether the scales of 4-bit weights are quantised too (QLoRA, section 3): one choice.

    Only where the weights would fill much of a GPU: it costs a little time. None without such
    weights.
    """
    if mode != "qlora":
        return ()
    setting, asked = "tuning.double_quant", config.tuning.double_quant
    if asked != "auto":
        return (Choice(setting, asked, "as asked"),)
    if device.kind != "cuda":
        return (Choice(setting, False, f"saves nothing that counts on {device.name}"),)
    share = PACKED_BYTES * model.parameters / max(1, device.free_bytes)
    reason = f"4-bit weights take {share:.0%} of the free memory on {device.name}"
    return (Choice(setting, share > CROWDED, reason),)


def choose_unpacking(
    config: RunConfig, mode: str, precision: str, device: DeviceInfo, model: ModelSize
) -> tuple[Choice, ...]:
    """Choose whether 4-bit weights are unpacked once: one choice on a CPU, none elsewhere.

    By all the RAM there is, not by what is free, so that a run that goes on decides the same.
    """
    if mode != "qlora" or device.kind != "cpu":
        return ()
    setting, asked = "tuning.unpack_4bit", config.tuning.unpack_4bit
    if asked != "auto":
        return (Choice(setting, asked, "as asked"),)
    size = model.parameters * (4 if precision == "fp32" else 2)
    share = size / max(1, device.total_bytes)
    reason = f"unpacked weights take {share:.0%} of the RAM, and no time in every step"
    return (Choice(setting, share < ROOMY, reason),)


def choose_precision(train: TrainConfig, device: DeviceInfo, *, encodes: bool = False) -> Choice:
    """Choose what is computed in: bf16 where the hardware has it, else fp16 on CUDA, else fp32.

    A model that encodes (T5) was made in bf16 and overflows in fp16.
    """
    if train.fp16 is True:
        if device.kind != "cuda":
            raise ConfigError(
                f"train.fp16 is true, but {device.name} is hundreds of times slower in fp16.",
                "Set train.fp16: auto.",
            )
        return Choice("precision", "fp16", "as asked")
    if train.bf16 is True:
        if device.kind == "cuda" and not device.bf16:
            raise BackendError(
                f"train.bf16 is true, but {device.name} has no bf16 ({device.reason}).",
                "Set train.bf16: auto.",
            )
        return Choice("precision", "bf16", "as asked")
    if train.bf16 == "auto" and device.bf16:
        return Choice("precision", "bf16", device.reason)
    if encodes and device.kind == "cuda":
        return Choice("precision", "fp32", "encoder-decoder models overflow in fp16")
    if train.fp16 == "auto" and device.kind == "cuda":
        return Choice("precision", "fp16", device.reason)
    reason = "as asked" if train.bf16 is False else device.reason
    return Choice("precision", "fp32", reason)


def scored_answers(train: TrainConfig) -> int:
    """Count the validation questions that are answered and scored at every evaluation."""
    if train.eval_answers != "auto":
        return train.eval_answers
    return 0 if train.metric_for_best_model in LOSS_METRICS else ANSWERS_SCORED


def choose_scored(train: TrainConfig) -> tuple[Choice, ...]:
    """Tell how many answers are scored, where any are."""
    count = scored_answers(train)
    if not count:
        return ()
    why = f"train.metric_for_best_model is {train.metric_for_best_model}"
    return (
        Choice("train.eval_answers", count, why if train.eval_answers == "auto" else "as asked"),
    )


def choose_learning_rate(train: TrainConfig, mode: str, model: ModelSize) -> Choice:
    """Choose the highest learning rate: small models and few weights take larger steps."""
    if train.learning_rate != "auto":
        return Choice("train.learning_rate", train.learning_rate, "as asked")
    small = model.parameters < SMALL_MODEL
    rate = (2e-5 if small else 1e-5) if mode == "full" else (4e-4 if small else 2e-4)
    way = "all weights learn" if mode == "full" else f"{mode} learns few weights"
    return Choice("train.learning_rate", rate, f"a model of {model.label()}, {way}")


def choose_optimizer(train: TrainConfig, device: DeviceInfo) -> Choice:
    """Choose the optimizer; 8-bit states pay off on CUDA only."""
    if train.sharding != "no":
        return Choice("train.optim", "adamw", "the only one that knows spread weights")
    if device.kind == "cuda":
        if train.optim == "auto":
            return Choice("train.optim", "adamw_8bit", "a quarter of the memory on CUDA")
        return Choice("train.optim", train.optim, "as asked")
    if train.optim in ("auto", "adamw"):
        return Choice("train.optim", "adamw", f"fastest on {device.name}")
    return Choice("train.optim", "adamw", f"{train.optim} is many times slower on {device.name}")


def activation_budget(device: DeviceInfo, model: ModelSize, mode: str) -> float:
    """Estimate the bytes activations may take; on a CPU more than so much gains no speed."""
    if device.kind != "cuda":
        return min(CPU_ACTIVATION_BYTES, DEVICE_SHARE * device.free_bytes)
    per_parameter = {"qlora": 0.6, "lora": 2.0, "full": 10.0}[mode]
    room = device.free_bytes - per_parameter * model.parameters
    return max(DEVICE_SHARE * room, 0.05 * device.free_bytes)


def parameter_count(folder: Path) -> int:
    """Count a model folder's weights from the headers of its safetensors files."""
    total = 0
    for path in weight_files(folder):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(math.prod(shape) for shape in shapes)
    return total
