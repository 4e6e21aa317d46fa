"""The closed form: bytes of every part of a training step, at the moment when most are needed.

A term is a number of bytes times a width of the model, for each token (and layer). The numbers of
our own ways come from steps taken with tensors without data (`worker.simulate`), of the families
that `shapes.COMPARED` names; those of `STOCK` and `AUTOCAST` are fits to the same kind of steps,
within 0.4 % where the loss needs most and -6 to +8 % where the layers' backward pass does. What a
device adds is left to `need`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from sftplay_ui.engine.memory.shapes import ModelShape

Loss = Literal["chunked", "selected", "all"]
Phase = Literal["loss", "backward", "embedding gradient", "optimizer step"]
CHUNK = 256
# Of a chunk a CPU turns so many tokens at a time into fp32 scores, a card all.
CHUNK_ON_CPU = 16
# Positions that attend at once in a long row, where scores are kept.
ATTENTION_BLOCK = 128
# AdamW keeps two fp32 numbers for each weight; in 8 bits two bytes and their scales.
ADAM_BYTES = {"adamw": 8.0, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03}
# bitsandbytes pages weights of at least 100,000 numbers only, which LoRA matrices rarely reach.
PAGED = "paged_adamw_8bit"
PACKED_BYTES = 0.5
# An fp32 scale for 64 weights; quantised again, an 8-bit one and fp32 scales for 256 of them.
SCALE_BYTES, SCALE_BYTES_TWICE = 1 / 16, 1 / 63


@dataclass(frozen=True)
class PerToken:
    """Bytes for one token as multiples of the model's widths: residual, query, kv, feed-forward."""

    hidden: float = 0.0
    query: float = 0.0
    kv: float = 0.0
    wide: float = 0.0

    def of(self, shape: ModelShape) -> float:
        return (
            self.hidden * shape.hidden
            + self.query * shape.query_width
            + self.kv * shape.kv_width
            + self.wide * shape.intermediate
        )


@dataclass(frozen=True)
class Way:
    """How a step is computed, in bytes.

    `kept` for each layer where nothing is recomputed, `backward` for the one layer that is;
    `table_bytes` for an embedding weight, `residual_bytes` for a number between the layers, `head`
    around the loss for each token and unit of width, `number_bytes` for a number that is computed
    with. `norm_copies` is what a layer's norms keep for each unit of width where they are not
    fused; the other `..._copies` are for each weight that autocast casts.
    """

    table_bytes: int
    residual_bytes: int
    kept: PerToken
    backward: PerToken
    head: float
    number_bytes: int = 2
    norm_copies: float = 0.0
    head_copies: int = 0
    adapter_copies: int = 0
    linear_copies: int = 0


# Adapters through peft on 4-bit layers, which keeps an fp32 copy of every adapter's input.
QLORA = Way(2, 2, PerToken(28, 8, 4, 10), PerToken(40, 8, 4, 14), 10, norm_copies=4)
# Adapters fused with their 16-bit layer: one copy of the input.
LORA = Way(2, 2, PerToken(12, 6, 4, 8), PerToken(16, 6, 4, 12), 10, norm_copies=4)
FP32 = Way(4, 4, PerToken(16, 12, 8, 16), PerToken(24, 12, 8, 24), 17, number_bytes=4)
# All weights learn, in fp32; 16-bit copies of the linear layers live until the backward pass.
FULL = Way(
    4,
    4,
    PerToken(26, 6, 4, 8),
    PerToken(30, 6, 4, 18),
    14,
    head_copies=4,
    linear_copies=2,
    norm_copies=8,
)
FULL_FP32 = Way(
    4, 4, PerToken(24, 12, 8, 16), PerToken(32, 12, 8, 26), 17, number_bytes=4, norm_copies=8
)
# Adapters under autocast: what fp16 needs.
AUTOCAST = Way(2, 2, PerToken(24.8, wide=8.3), PerToken(wide=23), 8, adapter_copies=2)
# peft's own preparation and the loss of transformers, for comparison: all else in fp32.
STOCK = Way(4, 4, PerToken(26.5, wide=14.5), PerToken(wide=23), 4, head_copies=2)


@dataclass(frozen=True)
class Setup:
    """One training step as numbers: what learns, in which form, and how many tokens at a time.

    `adapter` counts LoRA weights (0 when all weights learn); `row` is the longest example where its
    attention scores are kept (on a CPU), else 0; `on_cpu`: norms are fused, and few scores of the
    vocabulary are in fp32 at a time. Each of the `lanes` keeps gradients, and what it makes of
    the weights, of its own.
    """

    mode: Literal["qlora", "lora", "full"]
    way: Way
    loss: Loss
    adapter: int
    optim: str
    checkpointing: bool
    tokens: int
    learned: int
    row: int = 0
    double_quant: bool = False
    on_cpu: bool = False
    lanes: int = 1


@dataclass(frozen=True)
class Parts:
    """Bytes by what they are for."""

    weights: float = 0.0
    quant_state: float = 0.0
    embedding_and_head: float = 0.0
    adapter: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class Peak:
    """The moment of a step that needs most: its phase and its bytes."""

    phase: Phase
    parts: Parts


def peak(shape: ModelShape, setup: Setup) -> Peak:
    """Find the phase that needs most; gradients and optimizer state of earlier steps are there."""
    stays = resident(shape, setup)
    phases = [
        Peak("loss", with_parts(stays, *loss_phase(shape, setup))),
        Peak("backward", with_parts(stays, *backward_phase(shape, setup))),
    ]
    if setup.mode == "full":
        # head and embedding gradients as made, as scaled, as summed, beside those that are kept
        last = 16.0 * shape.vocabulary * shape.hidden * setup.lanes
        phases.append(Peak("embedding gradient", with_parts(stays, 0.0, last)))
    return max(phases, key=lambda phase: phase.parts.total)


def with_parts(stays: Parts, activations: float, logits: float) -> Parts:
    return Parts(**{**vars(stays), "activations": activations, "logits": logits})


def resident(shape: ModelShape, setup: Setup) -> Parts:
    """Count what lives through the whole step."""
    linear, table = shape.linear_weights, setup.way.table_bytes
    small = shape.other_weights * table
    embedding = shape.embedding_weights * table
    if setup.mode == "full":
        learning = shape.parameters
        return Parts(
            weights=linear * table + small,
            embedding_and_head=embedding,
            gradients=4.0 * learning * setup.lanes,
            optimizer=0.0 if setup.optim == PAGED else ADAM_BYTES[setup.optim] * learning,
        )
    packed = setup.mode == "qlora"
    scales = SCALE_BYTES_TWICE if setup.double_quant else SCALE_BYTES
    return Parts(
        weights=linear * (PACKED_BYTES if packed else table) + small,
        quant_state=linear * scales if packed else 0.0,
        embedding_and_head=embedding,
        adapter=4.0 * setup.adapter,
        gradients=4.0 * setup.adapter * setup.lanes,
        optimizer=ADAM_BYTES[setup.optim] * setup.adapter,
    )


def loss_phase(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Count activations and logits at the end of the forward pass."""
    way, tokens, learned = setup.way, setup.tokens, setup.learned
    vocabulary, head = shape.vocabulary, shape.vocabulary * shape.hidden
    activations = kept(shape, setup) + copies(shape, setup)
    logits = float(way.head_copies * head * setup.lanes)
    match setup.loss:
        case "chunked":
            activations += way.head * shape.hidden * tokens + way.adapter_copies * setup.adapter
            logits += chunk_of_scores(shape, setup)
        case "selected":
            # logits of all tokens and their gradient, 16-bit; of the learned ones fp32 three times
            logits += 4.0 * vocabulary * tokens + (12.0 * vocabulary + 4.0 * shape.hidden) * learned
        case "all":
            # log-softmax, its gradient and the result, each in fp32
            logits += (12.0 * vocabulary + 4.0 * shape.hidden) * learned
    if setup.mode == "full":
        # the head's gradient in fp32, and the next chunk's share of it before it is added, when
        # that chunk's scores are slopes already
        slopes = float(way.number_bytes * vocabulary * min(CHUNK, learned))
        logits = max(
            logits + 4.0 * head * setup.lanes,
            (way.head_copies * head + slopes + 8.0 * head) * setup.lanes,
        )
    return activations, logits


def chunk_of_scores(shape: ModelShape, setup: Setup) -> float:
    """Count one chunk's scores: as slopes, and before that in fp32 where slopes are not."""
    tokens = min(CHUNK, math.ceil(setup.learned / setup.lanes)) * setup.lanes
    scores = setup.way.number_bytes * tokens
    if setup.way.number_bytes < 4:
        scores += 4 * (min(CHUNK_ON_CPU * setup.lanes, tokens) if setup.on_cpu else tokens)
    return float(shape.vocabulary * scores)


def backward_phase(shape: ModelShape, setup: Setup) -> tuple[float, float]:
    """Count activations and the head's gradient while a layer's backward pass runs."""
    way, tokens = setup.way, setup.tokens
    layer = way.backward.of(shape) * tokens
    scores = extras(shape, setup) * tokens
    if setup.checkpointing:
        unpacked = way.number_bytes * shape.largest_linear if setup.mode == "qlora" else 0.0
        # weights are unpacked for one product at a time, beside less of the layer
        narrow = way.kept.of(shape) * tokens + 4.0 * shape.hidden * tokens + unpacked
        layer = max(layer, narrow) + scores
    else:
        layer = max(0.0, layer - way.kept.of(shape) * tokens)
    activations = kept(shape, setup) + layer + copies(shape, setup)
    heads = 8.0 * shape.vocabulary * shape.hidden * setup.lanes
    return activations, heads if setup.mode == "full" else 0.0


def copies(shape: ModelShape, setup: Setup) -> float:
    """Count the 16-bit copies of fp32 weights that each lane computes with."""
    return float(setup.way.linear_copies * shape.linear_weights * setup.lanes)


def kept(shape: ModelShape, setup: Setup) -> float:
    """Count what the layers keep for the backward pass: their inputs, or all that they compute."""
    if setup.checkpointing:
        return float(shape.layers * setup.way.residual_bytes * shape.hidden * setup.tokens)
    each = setup.way.kept.of(shape) + extras(shape, setup)
    return float(shape.layers * each * setup.tokens)


def extras(shape: ModelShape, setup: Setup) -> float:
    """Count a layer's bytes for each token that only some models or devices have."""
    if setup.way in (STOCK, AUTOCAST):  # fitted to models of this kind as a whole
        return 0.0
    scores = shape.heads * attended(setup.row) * setup.way.number_bytes
    return 4.0 * shape.heads + scores + norms(shape, setup)


def attended(row: int) -> float:
    """Count the positions that each of a row's tokens has scores of, on average.

    Long rows go block by block (`worker.model.attention`), and see nothing of later blocks.
    """
    return row if row <= 2 * ATTENTION_BLOCK else (row + ATTENTION_BLOCK) / 2


def norms(shape: ModelShape, setup: Setup) -> float:
    """Count what a layer's norms keep beyond those of a Llama on a card; below zero where less.

    Each keeps its input in fp32; where norms learn, what they made of it too. Fused ones (on a CPU)
    keep the input as it is.
    """
    heads = shape.query_width + shape.kv_width if shape.normed_heads else 0
    if setup.on_cpu and shape.plain_norms:
        return setup.way.number_bytes * heads - setup.way.norm_copies * shape.hidden
    learned = 0.0 if setup.mode != "full" else 2.0 if shape.plain_norms else 4.0
    return (4.0 + learned) * (heads + shape.more_norms * shape.hidden)


def way_of(mode: str, precision: str) -> Way:
    """Choose how our own step is computed; fp16 adapters run under autocast."""
    if mode == "full":
        return FULL_FP32 if precision == "fp32" else FULL
    if precision == "fp16":
        return AUTOCAST
    if precision == "fp32":
        return FP32
    return QLORA if mode == "qlora" else LORA
