"""Choose the next token from a model's scores: the likeliest, or drawn by the person's settings.

Every answer draws from a random stream of its own, so what it says does not depend on which other
answers are written beside it. Running the model is left to `decoding`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.errors import NotFiniteError


class Sampler:
    """Choose tokens for a set of answers; `seen` is what each answer's model has read so far."""

    def __init__(
        self, sampling: GenerateConfig, seen: Sequence[Sequence[int]], numbers: Sequence[int]
    ) -> None:
        """Prepare for the answers of these numbers, which seed their streams."""
        self.sampling = sampling
        self.seen = [list(ids) for ids in seen]
        self.streams = [
            torch.Generator().manual_seed(sampling.seed * 1_000_003 + number) for number in numbers
        ]

    def choose(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """Choose one token for each of `rows`, whose scores are `logits` [rows, vocabulary]."""
        scores = logits.float()
        if torch.isnan(scores).any():
            raise NotFiniteError(
                "The model's scores are not numbers (NaN), so it cannot write an answer.",
                "Use bf16 or fp32 instead of fp16, or train again with a lower learning rate.",
            )
        if self.sampling.repetition_penalty != 1:
            scores = torch.stack(
                [self.penalise(scores[place], self.seen[row]) for place, row in enumerate(rows)]
            )
        if self.sampling.temperature == 0:
            tokens = scores.argmax(-1).tolist()
        else:
            # drawn on the CPU in fp32: the same streams give the same tokens on every device
            scores = scores.cpu()
            tokens = [self.draw(scores[place], row) for place, row in enumerate(rows)]
        for row, token in zip(rows, tokens, strict=True):
            self.seen[row].append(token)
        return tokens

    def penalise(self, scores: Tensor, seen: list[int]) -> Tensor:
        """Make tokens that were there before less likely (Keskar et al. 2019, section 4.1)."""
        ids = torch.tensor(sorted(set(seen)), device=scores.device)
        penalty = self.sampling.repetition_penalty
        chosen = scores[ids]
        return scores.index_put((ids,), torch.where(chosen > 0, chosen / penalty, chosen * penalty))

    def draw(self, scores: Tensor, row: int) -> int:
        """Draw one token by temperature, top_k and top_p (Holtzman et al. 2020), in that order."""
        scores = scores / self.sampling.temperature
        if 0 < self.sampling.top_k < len(scores):
            lowest = scores.topk(self.sampling.top_k).values[-1]
            scores = scores.masked_fill(scores < lowest, -torch.inf)
        shares = scores.softmax(-1)
        if self.sampling.top_p < 1:
            ordered, ids = shares.sort(descending=True)
            # a token stays while those before it have not yet reached top_p, so one always stays
            beyond = ordered.cumsum(-1) - ordered >= self.sampling.top_p
            shares = shares.index_fill(0, ids[beyond], 0)
        return int(torch.multinomial(shares, 1, generator=self.streams[row]))
