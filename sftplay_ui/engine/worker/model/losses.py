"""The loss: cross-entropy summed over the learned tokens, computed where they are and nowhere else.

Only learned positions go through the output head, a few at a time, and their gradient is computed
in the forward pass, so the large table of logits never exists. Training and evaluation share this.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from transformers import PreTrainedModel

CHUNK = 256
# the tokens whose scores a CPU works on at once
CACHED = 16
PROBE_TOKENS = 5
PROBE_TOLERANCE = 0.02


class ChunkedLoss(torch.autograd.Function):
    """Sum of cross-entropy through an output head, `CHUNK` tokens at a time.

    The gradient of a sum is known as soon as the logits are: softmax minus what is wanted, which is
    one at the target, or a little less there and the rest spread evenly (label smoothing, Szegedy
    et al. 2016). The head gets its gradient only where it learns (full tuning).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float
    ) -> Tensor:
        """hidden [tokens, d], weight [vocabulary, d], target [tokens] -> scalar in fp32."""
        head = weight.to(hidden.dtype)
        learns_hidden, learns_head = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if learns_hidden else None
        head_grad = torch.zeros_like(weight) if learns_head else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for rows in (slice(i, i + CHUNK) for i in range(0, len(hidden), CHUNK)):
            slopes = hidden[rows] @ head.t()
            total += turn_into_slopes(slopes, target[rows], smoothing)
            if hidden_grad is not None:
                hidden_grad[rows] = slopes @ head
            if head_grad is not None:
                head_grad += (slopes.t() @ hidden[rows]).to(head_grad.dtype)
            # else they would stand beside the next chunk's: twice the memory
            del slopes
        ctx.grads = hidden_grad, head_grad
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = (
            None if grad is None else grad * upstream.to(grad.dtype) for grad in ctx.grads
        )
        return hidden_grad, head_grad, None, None


def turn_into_slopes(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Replace logits [tokens, vocabulary] by the slopes of their loss; give its sum, in fp32.

    A CPU does so for a few tokens at a time: their fp32 scores stay in its cache, which takes a
    quarter of the time.
    """
    size = CACHED if logits.device.type == "cpu" else max(1, len(logits))
    total = logits.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(logits.split(size), target[:, None].split(size), strict=True):
        scores = part.float()
        scores -= scores.amax(-1, keepdim=True)
        total -= (1 - smoothing) * scores.gather(1, wanted).sum()
        if smoothing:
            total -= smoothing * scores.mean(-1).sum()
        norm = scores.exp_().sum(-1, keepdim=True)
        total += norm.log().sum()
        scores /= norm
        if smoothing:
            scores -= smoothing / scores.shape[1]
        scores.scatter_add_(1, wanted, torch.full_like(norm, smoothing - 1))
        part.copy_(scores)
    return total


def summed_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, *, smoothing: float = 0.0
) -> Tensor:
    """Sum the cross-entropy of `target` [tokens] given the last layer's `hidden` [tokens, d]."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    # dtypes are chosen above, so autocast must not choose again inside
    with torch.autocast(device, enabled=False):
        return ChunkedLoss.apply(hidden, weight, target, smoothing)


def summed_plain_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Sum the cross-entropy from logits [tokens, vocabulary], for heads that are not plain."""
    return functional.cross_entropy(
        logits.float(), target, reduction="sum", label_smoothing=smoothing
    )


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> tuple[bool, str]:
    """Tell whether logits are nothing but last hidden state times head weight, and why (not).

    Biases, soft caps, scales or an adapter on the head make it more; the model itself is asked.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False, "the output head is not a plain matrix"
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None]
    hidden = model.get_decoder()(ids, use_cache=False).last_hidden_state
    logits = model(ids, use_cache=False).logits
    difference = (
        head(hidden.to(head.weight.dtype)) - logits
    ).float().norm() / logits.float().norm()
    if not difference < PROBE_TOLERANCE:
        return False, "the model scales or caps its scores"
    return True, f"only learned tokens reach the output head, {CHUNK} at a time"
