"""Which examples a step learns from, and how they lie in memory.

The plan is a pure function of the seed, the examples' lengths and the step's number: to go on from
step n is to ask for step n + 1, on any number of devices and with any size of micro-batch. Tokens
come from `tokens`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.text.tokens import TokenisedExample


@dataclass(frozen=True)
class Plan:
    """The order of a run: `steps` steps of `effective_batch` examples, shuffled epoch by epoch.

    `parts` are the steps of the run as it was begun, and of each extension.
    """

    lengths: Sequence[int]
    effective_batch: int
    parts: tuple[int, ...]
    seed: int

    @classmethod
    def make(cls, lengths: Sequence[int], train: TrainConfig, effective_batch: int) -> "Plan":
        """Plan `max_steps` steps, or else as many as the epochs (fractions count) need.

        What a run was extended by comes on top.
        """
        per_epoch = math.ceil(len(lengths) / effective_batch)
        parts = [
            max(1, math.ceil(epochs * per_epoch - 1e-9))
            for epochs in (train.epochs, *train.extended_by)
        ]
        first = train.max_steps or parts[0]
        return cls(lengths, effective_batch, (first, *parts[1:]), train.seed)

    @property
    def steps(self) -> int:
        return sum(self.parts)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.effective_batch)

    def epoch(self, step: int) -> float:
        """Say how many epochs are done after a step."""
        return step / self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def examples(self, step: int) -> list[int]:
        """Name the examples of a step (counted from 1), the longest first."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if epoch == 0:
            place = self.swapped(place)
        order = epoch_order(len(self.lengths), self.seed, epoch)
        batch = order[place * self.effective_batch : (place + 1) * self.effective_batch]
        return sorted(batch, key=lambda n: (-self.lengths[n], n))

    def swapped(self, place: int) -> int:
        """Let the first epoch's heaviest batch come first: too little memory shows at once."""
        if place == 0:
            return self.heaviest
        return 0 if place == self.heaviest else place

    @cached_property
    def heaviest(self) -> int:
        order = epoch_order(len(self.lengths), self.seed, 0)
        size = self.effective_batch
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        weights = [sum(self.lengths[n] for n in batch) for batch in batches]
        return weights.index(max(weights))

    def cut(
        self, numbers: Sequence[int], size: int, *, longest: int = 0, padded: bool = False
    ) -> list[list[int]]:
        """Cut examples, the longest first, into micro-batches of `size`.

        With `longest`, of as many as take no more room than `size` examples of so many tokens;
        where they are padded, each takes as much as the first.
        """
        found: list[list[int]] = []
        taken = 0
        for number in numbers:
            batch = found[-1] if found else []
            need = self.lengths[batch[0]] if batch and padded else self.lengths[number]
            fits = taken + need <= size * longest if longest else len(batch) < size
            if batch and fits:
                batch.append(number)
                taken += need
            else:
                found.append([number])
                taken = self.lengths[number]
        return found

    def deal(self, numbers: Sequence[int], count: int) -> list[list[int]]:
        """Deal examples, the longest first, so that each hand gets about as many tokens."""
        hands: list[list[int]] = [[] for _ in range(count)]
        weights = [0] * count
        for number in numbers:
            lightest = weights.index(min(weights))
            hands[lightest].append(number)
            weights[lightest] += self.lengths[number]
        return hands


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Shuffle the examples of an epoch; a text seed means the same order on every machine."""
    order = list(range(count))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class MicroBatch:
    """Examples for one forward pass, [1, all tokens] side by side or [examples, longest] padded.

    `keep` are the flat positions that predict a learned token, `target` those tokens. For a model
    of an encoder and a decoder the inputs are the encoder's, and `keep` counts in `decoder_ids`
    [examples, longest answer].
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    row_lengths: tuple[int, ...]
    keep: Tensor
    target: Tensor
    decoder_ids: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Count the real tokens, without padding."""
        return sum(self.row_lengths)

    @property
    def learned_tokens(self) -> int:
        return len(self.target)

    def noise_scale(self, alpha: float) -> Tensor:
        """Give alpha / sqrt(length of the example) for each position, [rows, tokens, 1]."""
        scales = torch.tensor(self.row_lengths, dtype=torch.float32).rsqrt() * alpha
        if len(self.input_ids) == len(self.row_lengths):
            spread = scales[:, None].expand(self.input_ids.shape)
        else:
            spread = scales.repeat_interleave(torch.tensor(self.row_lengths))[None]
        return spread[..., None].to(self.input_ids.device)

    def to(self, device: torch.device) -> "MicroBatch":
        """Move the batch to a device."""
        mask = self.attention_mask
        return MicroBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            mask if mask is None else mask.to(device),
            self.row_lengths,
            self.keep.to(device),
            self.target.to(device),
            None if self.decoder_ids is None else self.decoder_ids.to(device),
        )


def learned_count(example: TokenisedExample) -> int:
    """Count the tokens an example teaches; nothing comes before its first token to predict it."""
    return sum(example.learned[1:])


def side_by_side(examples: Sequence[TokenisedExample]) -> MicroBatch:
    """Lay examples in one row without padding; `attention` keeps them apart."""
    lengths = tuple(len(example.input_ids) for example in examples)
    starts = [0, *accumulate(lengths)][:-1]
    return MicroBatch(
        input_ids=torch.tensor([[token for example in examples for token in example.input_ids]]),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        attention_mask=None,
        row_lengths=lengths,
        keep=positions(examples, starts),
        target=targets(examples),
    )


def padded(examples: Sequence[TokenisedExample], pad_id: int) -> MicroBatch:
    """Lay examples under each other, filled up at the right to the longest of them."""
    lengths = tuple(len(example.input_ids) for example in examples)
    width = max(lengths)
    ids = torch.full((len(examples), width), pad_id)
    for row, example in zip(ids, examples, strict=True):
        row[: len(example.input_ids)] = torch.tensor(example.input_ids)
    steps = torch.arange(width).expand(len(examples), width)
    mask = steps < torch.tensor(lengths)[:, None]
    return MicroBatch(
        input_ids=ids,
        position_ids=steps.contiguous(),
        attention_mask=None if mask.all() else mask.long(),
        row_lengths=lengths,
        keep=positions(examples, [n * width for n in range(len(examples))]),
        target=targets(examples),
    )


def apart(examples: Sequence[TokenisedExample], pad_id: int, start_id: int) -> MicroBatch:
    """Lay examples out for an encoder (all before the answer) and a decoder (the answer).

    The decoder reads the answer one place late, behind `start_id`, so that each place predicts the
    token that stands there. Both sides are padded on the right.
    """
    answers = [
        [token for token, learned in zip(e.input_ids, e.learned, strict=True) if learned]
        for e in examples
    ]
    sources = [
        list(e.input_ids[: len(e.input_ids) - len(answer)])
        for e, answer in zip(examples, answers, strict=True)
    ]
    ids, mask = padded_right(sources, pad_id)
    late, _ = padded_right([[start_id, *answer[:-1]] for answer in answers], pad_id)
    width = late.shape[1]
    places = [row * width + n for row, answer in enumerate(answers) for n in range(len(answer))]
    return MicroBatch(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1]).repeat(len(ids), 1),
        attention_mask=mask.long(),
        row_lengths=tuple(len(source) for source in sources),
        keep=torch.tensor(places, dtype=torch.long),
        target=torch.tensor([token for answer in answers for token in answer], dtype=torch.long),
        decoder_ids=late,
    )


def padded_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Stack rows of tokens, left-aligned; give tokens and mask (1 where there is one)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, mask


def positions(examples: Sequence[TokenisedExample], starts: Sequence[int]) -> Tensor:
    """Name the flat positions before each learned token: a token is predicted by the one before."""
    return torch.tensor(
        [
            start + place
            for example, start in zip(examples, starts, strict=True)
            for place, learned in enumerate(example.learned[1:])
            if learned
        ],
        dtype=torch.long,
    )


def targets(examples: Sequence[TokenisedExample]) -> Tensor:
    """Name the learned tokens, in the order of `positions`."""
    return torch.tensor(
        [
            token
            for example in examples
            for token, learned in zip(example.input_ids[1:], example.learned[1:], strict=True)
            if learned
        ],
        dtype=torch.long,
    )
