"""How surprised a model is at the answers it should have given: the training loss, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from sftplay_ui.engine.text.tokens import TokenisedExample
from sftplay_ui.engine.worker.model.losses import head_is_plain, summed_loss, summed_plain_loss
from sftplay_ui.engine.worker.training.batches import MicroBatch, apart, learned_count, padded
from sftplay_ui.engine.worker.training.learner import encode_and_decode


@dataclass(frozen=True)
class ReferenceLoss:
    """Summed cross-entropy of one example's learned tokens, and their number."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens


def reference_losses(
    model: PreTrainedModel | PeftModel, examples: Sequence[TokenisedExample], *, pad_id: int
) -> list[ReferenceLoss]:
    """Score the learned tokens of the examples, all in one batch."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    counts = [learned_count(example) for example in examples]
    if base.config.is_encoder_decoder:
        batch = apart(examples, pad_id, base.config.decoder_start_token_id).to(base.device)
        plain = False
    else:
        batch = padded(examples, pad_id).to(base.device)
        plain, _ = head_is_plain(base)
    totals = row_losses(base, batch, counts, plain_head=plain)
    return [ReferenceLoss(*pair) for pair in zip(totals, counts, strict=True)]


@torch.no_grad()
def row_losses(
    base: PreTrainedModel, batch: MicroBatch, counts: list[int], *, plain_head: bool
) -> list[float]:
    """Sum the loss of each row of a batch; `counts` are the rows' learned tokens."""
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    if batch.decoder_ids is not None:
        states = encode_and_decode(base, batch, {"input_ids": batch.input_ids})
    elif plain_head:
        states = base.get_decoder()(**inputs).last_hidden_state.flatten(0, 1)
    else:
        states = base(**inputs).logits.flatten(0, 1)
    picked = states[batch.keep].split(counts)
    weight = base.get_output_embeddings().weight

    def loss(state: Tensor, target: Tensor) -> Tensor:
        if plain_head:
            return summed_loss(state, weight, target)
        return summed_plain_loss(state, target)

    rows = zip(picked, batch.target.split(counts), strict=True)
    return [loss(state, target).item() for state, target in rows]
