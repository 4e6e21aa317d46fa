"""Attention for examples that lie side by side in one row of tokens, without any padding.

Registered with transformers under the name `rows`. Every example attends to itself only, so the
result is that of padded batches at a fraction of the work. Models it does not suit keep their own
attention: `rows_fit` asks the model itself. Where examples begin and end is decided in `batches`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

NAME = "rows"
# what some models add to the scores of attention: a cap (Gemma 2), a sink (GPT-OSS)
MORE = ("softcap", "s_aux")
STRETCHED = ("dynamic", "longrope")
# Above this length a row's scores take more memory than their speed is worth.
LONGEST_WITH_SCORES = 1024
# Positions that attend at once in a long row: 64 and 192 take up to a fifth longer on two cores.
BLOCK = 128
PROBE_LENGTHS = (7, 4)
# Texts that mix differ by 0.7 and more; rounding to bf16 in 30 layers makes up to 0.06.
PROBE_TOLERANCE = 0.2


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **how: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each row: query [1, heads, tokens, d] -> [1, tokens, heads, d].

    `row_lengths` reaches this function as a keyword of the model's forward; `scaling` comes from
    the attention layer.
    """
    row_lengths: Sequence[int] = how.get("row_lengths", ())
    if sum(row_lengths) != query.shape[2] or attention_mask is not None:
        raise ValueError("row attention needs row_lengths that add up to the tokens, and no mask")
    if any(how.get(name) is not None for name in MORE):
        raise ValueError("row attention computes scaled products and nothing else")
    scale = how.get("scaling") or query.shape[-1] ** -0.5
    rows = zip(
        query[0].split(list(row_lengths), 1),
        key[0].split(list(row_lengths), 1),
        value[0].split(list(row_lengths), 1),
        strict=True,
    )
    attend = attend_by_scores if query.device.type == "cpu" else attend_fused
    outputs = [
        (attend if q.shape[1] <= LONGEST_WITH_SCORES else attend_fused)(q, k, v, scale)
        for q, k, v in rows
    ]
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


def attend_by_scores(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend by plain matrix products, [heads, n, d]: on a CPU faster than its fused kernel.

    Long rows go block by block: the scores of what comes later are never computed.
    """
    length = query.shape[1]
    if length <= 2 * BLOCK:
        return attend_to_all(query, key, value, scale)
    ends = [*range(BLOCK, length - BLOCK // 2, BLOCK), length]
    blocks = [
        attend_to_all(query[:, start:end], key[:, :end], value[:, :end], scale)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return torch.cat(blocks, 1)


def attend_to_all(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend from the last n of m positions, [heads, n, d], to the m, [key heads, m, d].

    The query heads that share a key are folded into the rows of one product.
    """
    heads, count, width = query.shape
    shared, length = key.shape[:2]
    group = heads // shared
    folded = query.reshape(shared, group * count, width)
    mask = causal_mask(count, length, group, query.dtype)
    scores = torch.baddbmm(mask, folded, key.transpose(1, 2), alpha=scale)
    return (scores.softmax(-1) @ value).view(heads, count, width)


def attend_fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend through torch's fused kernel, [heads, n, d]: memory grows with n only."""
    return functional.scaled_dot_product_attention(
        query[None], key[None], value[None], is_causal=True, scale=scale, enable_gqa=True
    )[0]


@lru_cache(maxsize=64)
def causal_mask(count: int, length: int, group: int, dtype: torch.dtype) -> Tensor:
    """Make the additive mask of the last `count` rows, `group` times, [1, group * count, length].

    Masks are shared by all threads, and nobody writes to them.
    """
    later = torch.full((count, length), -torch.inf, dtype=dtype).triu(1 + length - count)
    return later.repeat(group, 1)[None]


@torch.no_grad()
def rows_fit(model: PreTrainedModel, longest: int) -> tuple[bool, str]:
    """Tell whether the model computes the same with its examples side by side, and why (not).

    The model is asked: two short texts, each on its own and both in one row. What two short texts
    cannot show (windows, dropout) is read from its configuration.
    """
    refused = why_no_rows(model, longest)
    if refused:
        return False, refused
    config = model.config.get_text_config(decoder=True)
    count = sum(PROBE_LENGTHS)
    ids = torch.arange(1, count + 1, device=model.device)[None] * (config.vocab_size // (count + 1))
    positions = torch.cat([torch.arange(n, device=model.device) for n in PROBE_LENGTHS])[None]
    texts = ids.split(PROBE_LENGTHS, 1)
    decoder = model.get_decoder()
    alone = torch.cat([decoder(text, use_cache=False).last_hidden_state for text in texts], 1)
    own = use_rows(model)
    try:
        together = decoder(
            ids, position_ids=positions, use_cache=False, row_lengths=PROBE_LENGTHS
        ).last_hidden_state
    except (TypeError, ValueError, RuntimeError) as error:
        model.set_attn_implementation(own)
        return False, f"the model does not take it ({type(error).__name__})"
    difference = (alone - together).float().norm() / alone.float().norm()
    if not difference < PROBE_TOLERANCE:
        model.set_attn_implementation(own)
        return False, "the model's examples are not independent of each other"
    return True, "examples lie side by side, none is padded"


def why_no_rows(model: PreTrainedModel, longest: int) -> str:
    """Say what in the model's configuration forbids row attention; empty where nothing does."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest and uses_window(config):
        return f"the model looks back {window} tokens only"
    if getattr(config, "attention_dropout", 0):
        return "the model drops parts of its attention"
    if stretches_positions(model):
        return "the model's positions are stretched by the longest text at a time"
    return ""


def stretches_positions(model: PreTrainedModel) -> bool:
    """Tell whether a text's length changes how the model counts positions (dynamic, longrope).

    Such a model keeps what it found for the last text, so texts beside it would change it.
    """
    config = model.config.get_text_config(decoder=True)
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [found, *(each for each in found.values() if isinstance(each, dict))]
    return any(str(kind.get("rope_type")) in STRETCHED for kind in kinds)


def uses_window(config: object) -> bool:
    """Tell whether any layer has a sliding window."""
    layers = getattr(config, "layer_types", None)
    return layers is None or any("sliding" in kind for kind in layers)


def use_rows(model: PreTrainedModel) -> str:
    """Switch the model to row attention; give the name of its own, to switch back."""
    own = model.config._attn_implementation
    AttentionInterface.register(NAME, row_attention)
    model.set_attn_implementation(NAME)
    return str(own)
