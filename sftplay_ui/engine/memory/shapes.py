"""What a base model is made of, read from its config.json: linear layers, embeddings, norms.

Covers Llama, Qwen2, Qwen3, Mistral, Gemma, Phi, SmolLM2, T5 and decoders built like them; a
family that is not known is read as a Llama. Weights are never looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sftplay_ui.engine.errors import ModelError

ALL_LINEAR = "all-linear"
# Families whose feed-forward layer is two products, without a gate.
UNGATED = {"phi", "gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "starcoder2"}
# Families that share embedding and head where config.json is silent.
TIED = {
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gpt2",
    "opt",
    "bloom",
    "falcon",
    "t5",
    "cohere",
}
NORMS_PER_LAYER = {"gemma2": 4, "gemma3_text": 4, "gemma3": 4, "phi": 1}
NORMS_OF_HEADS = {"qwen3", "gemma3_text", "gemma3"}
BIASED_NORMS = {"phi", "gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "starcoder2"}
# Families with root mean square norms of another form, which a CPU's run does not fuse.
NORMS_NOT_FUSED = BIASED_NORMS | {"gemma", "gemma2", "gemma3", "gemma3_text"}
# Families whose closed form is compared with steps that were taken (tests), and how wide their
# feed-forward layers are, as multiples of the residual stream.
COMPARED = {"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text"}
COMPARED_WIDTHS = (1.5, 10.0)
BIASED_QKV = {"qwen2", "phi", "gpt2", "gpt_neox", "opt", "bloom", "starcoder2"}
BIASED_ALL = {"phi", "gpt2", "gpt_neox", "opt", "bloom", "starcoder2"}
BIASED_HEAD = {"phi", "gptj"}
HEAD_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
HEAD_DIM = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "gemma3": 256}
NAMES = {
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "num_layers", "n_layer"),
    "intermediate": ("intermediate_size", "d_ff", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "num_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class Linear:
    """One linear layer: its name in the model, inputs and outputs."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def biases(self) -> int:
        return self.outputs if self.bias else 0


@dataclass(frozen=True)
class Block:
    """A layer that is repeated `count` times; `small` counts its norms (and a router, if any).

    `experts` are weights that 4-bit loading leaves alone. That newer peft puts adapters on them for
    `all-linear` is not counted here: a simulated step tells.
    """

    count: int
    linears: tuple[Linear, ...]
    small: int
    experts: int = 0


@dataclass(frozen=True)
class ModelShape:
    """A base model as numbers; `small` counts the norms outside of the blocks and the head's bias.

    `plain_head`: scores are hidden state times head, without bias, scale or cap. `normed_heads`:
    queries and keys are normalised head by head. `plain_norms`: a CPU's run fuses the norms;
    `more_norms` counts those of a layer beyond two.
    """

    family: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    blocks: tuple[Block, ...]
    small: int
    positions: int = 0
    plain_head: bool = True
    normed_heads: bool = False
    plain_norms: bool = True
    more_norms: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Read config.json; a model of text and pictures is read for its text part.

        Raises ModelError where a number is missing without which nothing can be said.
        """
        family = str(config.get("model_type", ""))
        inner = config.get("text_config")
        if isinstance(inner, Mapping):
            config = {**config, **inner}
            family = str(inner.get("model_type", family))
        return encoder_decoder(config) if family in ("t5", "mt5") else decoder(config, family)

    @property
    def compared(self) -> bool:
        """Tell whether the closed form was compared with steps of models built like this one."""
        least, most = COMPARED_WIDTHS
        usual = least <= self.intermediate / self.hidden <= most
        return usual and self.family in COMPARED and not any(b.experts for b in self.blocks)

    @property
    def layers(self) -> int:
        return sum(block.count for block in self.blocks)

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @cached_property
    def linear_weights(self) -> int:
        """Count the weights of the blocks' linear layers: what 4-bit loading packs."""
        return sum(block.count * layer.weights for block, layer in self.each_linear())

    @cached_property
    def embedding_weights(self) -> int:
        """Count input embedding, output head (once where they are shared) and position tables."""
        table = self.vocabulary * self.hidden
        return table * (1 if self.tied else 2) + self.positions * self.hidden

    @cached_property
    def other_weights(self) -> int:
        """Count norms, biases, routers and experts: kept as loaded in every mode."""
        biases = sum(block.count * layer.biases for block, layer in self.each_linear())
        return self.small + biases + sum(b.count * (b.small + b.experts) for b in self.blocks)

    @property
    def parameters(self) -> int:
        return self.linear_weights + self.embedding_weights + self.other_weights

    @cached_property
    def largest_linear(self) -> int:
        """Count the weights of the largest linear layer: 4-bit ones are unpacked one by one."""
        return max(layer.weights for _, layer in self.each_linear())

    def each_linear(self) -> Iterator[tuple[Block, Linear]]:
        """Yield every kind of linear layer with the block that repeats it."""
        for block in self.blocks:
            for layer in block.linears:
                yield block, layer

    def adapter_weights(self, rank: int, targets: str | list[str]) -> int:
        """Count the weights of LoRA adapters: rank times (inputs + outputs) of each target."""
        names = {targets} if isinstance(targets, str) else set(targets)
        names = {name.rpartition(".")[2] for name in names}
        chosen = (
            block.count * (layer.inputs + layer.outputs)
            for block, layer in self.each_linear()
            if ALL_LINEAR in names or layer.name in names
        )
        tables = len(names & {"lm_head", "embed_tokens"}) * (self.vocabulary + self.hidden)
        return rank * (sum(chosen) + tables)

    def label(self) -> str:
        """Name the size the way people do: 135M, 1.5B."""
        billions = self.parameters / 1e9
        return f"{billions:.1f}B" if billions >= 1 else f"{self.parameters / 1e6:.0f}M"


def number(config: Mapping[str, Any], key: str) -> int:
    """Read one number under any of its names. Raises ModelError where none is there."""
    found = next((config[name] for name in NAMES[key] if config.get(name)), None)
    if found is None and key == "intermediate":
        return 4 * number(config, "hidden")
    if not isinstance(found, int):
        raise ModelError(
            f"The model's config.json names no {NAMES[key][0]}, so its size is not known.",
            "Choose a decoder-only language model, such as SmolLM2 or Qwen2.5.",
        )
    return found


def decoder(config: Mapping[str, Any], family: str) -> ModelShape:
    """Read a decoder-only model."""
    hidden, heads = number(config, "hidden"), number(config, "heads")
    head_dim = config.get("head_dim") or HEAD_DIM.get(family) or hidden // heads
    kv_heads = config.get("num_key_value_heads") or (1 if config.get("multi_query") else heads)
    wide = number(config, "intermediate")
    norm = hidden * (2 if family in BIASED_NORMS else 1)
    norms = NORMS_PER_LAYER.get(family, 2) * norm
    norms += 2 * head_dim if family in NORMS_OF_HEADS else 0
    mlp, experts, router = feed_forward(config, family, hidden, wide)
    linears = (*attention(config, family, heads * head_dim, kv_heads * head_dim), *mlp)
    vocabulary = number(config, "vocabulary")
    return ModelShape(
        family=family,
        hidden=hidden,
        intermediate=wide,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", family in TIED)),
        blocks=(Block(number(config, "layers"), linears, norms + router, experts),),
        small=norm + (vocabulary if family in BIASED_HEAD else 0),
        positions=config.get("n_positions", 1024) if family == "gpt2" else 0,
        plain_head=family not in BIASED_HEAD and not any(config.get(key) for key in HEAD_SCALES),
        normed_heads=family in NORMS_OF_HEADS,
        plain_norms=family not in NORMS_NOT_FUSED,
        more_norms=max(0, NORMS_PER_LAYER.get(family, 2) - 2),
    )


def attention(config: Mapping[str, Any], family: str, query: int, kv: int) -> tuple[Linear, ...]:
    """Read the linear layers of one attention layer, fused or not."""
    hidden = number(config, "hidden")
    bias = bool(config.get("attention_bias", family in BIASED_QKV))
    out_bias = family in BIASED_ALL or (bias and family not in BIASED_QKV)
    if family == "phi3":
        inputs: tuple[Linear, ...] = (Linear("qkv_proj", hidden, query + 2 * kv, bias),)
    elif family == "gpt2":
        inputs = (Linear("c_attn", hidden, query + 2 * kv, bias),)
    else:
        inputs = (
            Linear("q_proj", hidden, query, bias),
            Linear("k_proj", hidden, kv, bias),
            Linear("v_proj", hidden, kv, bias),
        )
    out = {"phi": "dense", "gpt2": "c_proj"}.get(family, "o_proj")
    return (*inputs, Linear(out, query, hidden, out_bias))


def feed_forward(
    config: Mapping[str, Any], family: str, hidden: int, wide: int
) -> tuple[tuple[Linear, ...], int, int]:
    """Read one feed-forward layer: linear layers, weights of experts, weights of a router."""
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    if experts:
        each = config.get("moe_intermediate_size") or wide
        return (), experts * 3 * hidden * each, experts * hidden
    bias = bool(config.get("mlp_bias", family in BIASED_ALL))
    if family == "phi3":
        return (
            (Linear("gate_up_proj", hidden, 2 * wide), Linear("down_proj", wide, hidden)),
            0,
            0,
        )
    if family in UNGATED:
        up, down = ("c_fc", "c_proj") if family == "gpt2" else ("fc1", "fc2")
        return (Linear(up, hidden, wide, bias), Linear(down, wide, hidden, bias)), 0, 0
    gated = (
        Linear("gate_proj", hidden, wide, bias),
        Linear("up_proj", hidden, wide, bias),
        Linear("down_proj", wide, hidden, bias),
    )
    return gated, 0, 0


def encoder_decoder(config: Mapping[str, Any]) -> ModelShape:
    """Read a T5 (its version 1.0 or the gated 1.1 that FLAN-T5 has)."""
    hidden, heads, wide = (number(config, key) for key in ("hidden", "heads", "intermediate"))
    head_dim = int(config.get("d_kv") or hidden // heads)
    width = heads * head_dim
    attend = (
        *(Linear(name, hidden, width) for name in ("q", "k", "v")),
        Linear("o", width, hidden),
    )
    gated = "gated" in str(config.get("feed_forward_proj", "relu"))
    inward = ("wi_0", "wi_1") if gated else ("wi",)
    mlp = (*(Linear(name, hidden, wide) for name in inward), Linear("wo", wide, hidden))
    layers = number(config, "layers")
    # Each stack has a final norm and one table of relative positions.
    buckets = int(config.get("relative_attention_num_buckets") or 32)
    return ModelShape(
        family="t5",
        hidden=hidden,
        intermediate=wide,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary=number(config, "vocabulary"),
        tied=bool(config.get("tie_word_embeddings", True)),
        blocks=(
            Block(layers, (*attend, *mlp), 2 * hidden),
            Block(
                int(config.get("num_decoder_layers") or layers),
                (*attend, *attend, *mlp),
                3 * hidden,
            ),
        ),
        small=2 * (hidden + buckets * heads),
    )
