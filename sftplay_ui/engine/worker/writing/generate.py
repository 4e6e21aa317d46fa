"""Write answers with a loaded model: many side by side, or one token by token.

Prompts come in as token ids and answers go out as token ids without their end token; rendering and
tokenising are left to `templates` and `tokens`, the model's steps to `decoding`, the choice of a
token to `sampling`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.worker.writing.decoding import (
    CausalDecoder,
    Conversation,
    EncodedConversation,
    Seq2SeqDecoder,
    answering,
)
from sftplay_ui.engine.worker.writing.sampling import Sampler

HALF_A_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Generated:
    """One answer: its tokens without the end token, and why it ended."""

    ids: tuple[int, ...]
    stopped: Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Limits:
    """When an answer ends: at one of these tokens, at the longest length, or when asked to."""

    eos_ids: Collection[int]
    sampling: GenerateConfig
    stop: Callable[[], bool] = lambda: False

    def room(self, model: PreTrainedModel, prompt: Sequence[int]) -> int:
        """Count the tokens an answer may have, within the model's context."""
        context = getattr(
            model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        if context is None or model.config.is_encoder_decoder:
            return self.sampling.max_new_tokens
        return min(self.sampling.max_new_tokens, context - len(prompt))


def generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    limits: Limits,
    pad_id: int,
    batch_size: int,
) -> list[Generated]:
    """Answer all prompts, `batch_size` side by side, and give the answers in the prompts' order."""
    answers = dict(
        generate_each(model, prompts, limits=limits, pad_id=pad_id, batch_size=batch_size)
    )
    return [answers[number] for number in range(len(prompts))]


def generate_each(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    limits: Limits,
    pad_id: int,
    batch_size: int,
) -> Iterator[tuple[int, Generated]]:
    """Answer all prompts and yield (number of the prompt, answer), batch by batch.

    Prompts of like length go together; the longest first, so that memory that does not suffice
    shows at once. After a stop the rest come back as answers without tokens.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        if limits.stop():
            yield from ((number, Generated((), "stop")) for number in numbers)
            continue
        group = Group(model, [prompts[number] for number in numbers], limits, numbers)
        with answering(model):
            group.write(pad_id)
        yield from zip(numbers, group.answers(), strict=True)


class Group:
    """Answers that are written side by side."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        limits: Limits,
        numbers: Sequence[int],
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.limits = limits
        self.sampler = Sampler(limits.sampling, prompts, numbers)
        self.room = [limits.room(model, prompt) for prompt in prompts]
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.ended: dict[int, Literal["eos", "length"]] = {
            row: "length" for row, room in enumerate(self.room) if room < 1
        }

    def write(self, pad_id: int) -> None:
        """Write until every answer has ended, or until asked to stop."""
        rows = [row for row in range(len(self.prompts)) if row not in self.ended]
        if not rows:
            return
        kind = Seq2SeqDecoder if self.model.config.is_encoder_decoder else CausalDecoder
        decoder = kind(self.model, pad_id)
        scores = decoder.start([self.prompts[row] for row in rows])
        while True:
            tokens = self.sampler.choose(scores, rows)
            places = [place for place, row in enumerate(rows) if self.append(row, tokens[place])]
            if not places or self.limits.stop():
                return
            if len(places) < len(rows):
                decoder.keep(places)
                rows = [rows[place] for place in places]
                tokens = [tokens[place] for place in places]
            scores = decoder.step(tokens)

    def append(self, row: int, token: int) -> bool:
        """Add a token to an answer; tell whether the answer goes on."""
        if token in self.limits.eos_ids:
            self.ended[row] = "eos"
            return False
        self.ids[row].append(token)
        if len(self.ids[row]) >= self.room[row]:
            self.ended[row] = "length"
            return False
        return True

    def answers(self) -> list[Generated]:
        return [
            Generated(tuple(ids), self.ended.get(row, "stop")) for row, ids in enumerate(self.ids)
        ]


def stream(
    conversation: Conversation | EncodedConversation, prompt: Sequence[int], *, limits: Limits
) -> Iterator[int]:
    """Answer one prompt and yield each token as soon as it is chosen.

    `conversation` remembers what it has read, so a chat that goes on reads only what is new.
    """
    sampler = Sampler(limits.sampling, [prompt], [0])
    ids = list(prompt)
    for _ in range(limits.room(conversation.model, prompt)):
        if limits.stop():
            return
        (token,) = sampler.choose(conversation.read(ids), [0])
        if token in limits.eos_ids:
            return
        yield token
        ids.append(token)


def text_pieces(tokens: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """Turn tokens into text as they come; a piece is held back while it ends in half a character.

    Only the newest tokens are decoded again, together with the piece before them: some tokenizers
    drop the space in front of a text's first word.
    """
    shown: list[int] = []
    fresh: list[int] = []
    for token in tokens:
        fresh.append(token)
        before = decode(shown)
        text = decode(shown + fresh)
        if len(text) > len(before) and not text.endswith(HALF_A_CHARACTER):
            yield text[len(before) :]
            shown, fresh = fresh, []
    rest = decode(shown + fresh)[len(decode(shown)) :]
    if rest:
        yield rest
