"""Run a model one token at a time over several rows, and keep what it has read (the KV cache).

Rows of different length are padded on the left, so the newest token of every row stands last, and a
row that is done leaves the batch. Which token comes next is left to `sampling`; when to end is left
to `generate`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# the name under which transformers knows `word_attention`
WORDS = "words"
# what transformers can decode with everywhere; an attention made for training cannot use a cache
DECODING_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


@contextmanager
def answering(model: PreTrainedModel) -> Iterator[None]:
    """Let a model that is being trained write answers, and give it back as it was."""
    was_training = model.training
    attention = model.config._attn_implementation
    chosen = decoding_attention(model, attention)
    model.eval()
    if attention != chosen:
        model.set_attn_implementation(chosen)
    head = model.get_output_embeddings()
    # of the last of many tokens torch would make a product for each row, with a copy of the head
    compacted = head.register_forward_pre_hook(lambda _head, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        compacted.remove()
        if attention != chosen:
            model.set_attn_implementation(attention)
        model.train(was_training)


def decoding_attention(model: PreTrainedModel, attention: str) -> str:
    """Choose what a model attends with while it writes: on a CPU `word_attention` where it may."""
    if attention not in DECODING_ATTENTION:
        attention = "sdpa"
    if attention == "sdpa" and model.device.type == "cpu" and not model.config.is_encoder_decoder:
        AttentionInterface.register(WORDS, word_attention)
        AttentionMaskInterface.register(WORDS, sdpa_mask)
        return WORDS
    return attention


def word_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **how: Any,
) -> tuple[Tensor, None]:
    """Attend with one token a row, query [rows, heads, 1, d] -> [rows, 1, heads, d].

    Two products for all rows and heads at once. torch's fused kernel takes one after the other,
    in bf16 on a CPU 8 to 24 times as long (16 rows, 60 to 300 tokens); whole prompts are left to
    it.
    """
    rows, heads, length, width = query.shape
    if length != 1:
        return sdpa_attention_forward(module, query, key, value, mask, **how)
    many = rows * key.shape[1]
    scale = how.get("scaling") or width**-0.5
    folded = query.reshape(many, -1, width)
    scores = torch.bmm(folded, key.reshape(many, -1, width).transpose(1, 2))
    scores = scores.view(rows, heads, 1, -1).float() * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = scores.softmax(-1).to(query.dtype).view(many, -1, key.shape[2])
    mixed = torch.bmm(shares, value.reshape(many, -1, width))
    return mixed.view(rows, heads, 1, width).transpose(1, 2), None


class CausalDecoder:
    """Decode with a decoder-only model; the rows' cache and padding live here."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.cache = new_cache(model)
        self.mask: Tensor | None = None
        self.position = torch.empty(0)

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts; give the scores of each row's next token, [rows, vocabulary]."""
        ids, mask = pad_left(prompts, self.pad_id, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.mask = None if mask.all() else mask
        self.position = positions[:, -1:]
        return self.read(ids, positions)

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; give the scores of the next, [rows, vocabulary]."""
        ids = torch.tensor(tokens, device=self.model.device)[:, None]
        self.position = self.position + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=-1)
        return self.read(ids, self.position)

    def read(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only; `places` count in the present batch."""
        chosen = torch.tensor(places, device=self.model.device)
        self.cache.batch_select_indices(chosen)
        self.position = self.position[chosen]
        if self.mask is not None:
            mask = self.mask[chosen]
            self.mask = None if mask.all() else mask


class Seq2SeqDecoder:
    """Decode with an encoder-decoder model (FLAN-T5); the encoder reads the prompt once."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.mask = torch.empty(0)
        self.memory = torch.empty(0)

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Encode the prompts; give the scores of each row's first token, [rows, vocabulary]."""
        ids, self.mask = pad_left(prompts, self.pad_id, self.model.device)
        self.memory = self.model.get_encoder()(ids, attention_mask=self.mask).last_hidden_state
        return self.step([self.model.config.decoder_start_token_id] * len(prompts))

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; give the scores of the next, [rows, vocabulary]."""
        output = self.model(
            encoder_outputs=(self.memory,),
            attention_mask=self.mask,
            decoder_input_ids=torch.tensor(tokens, device=self.model.device)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only; `places` count in the present batch."""
        chosen = torch.tensor(places, device=self.model.device)
        self.cache.batch_select_indices(chosen)
        self.memory, self.mask = self.memory[chosen], self.mask[chosen]


class EncodedConversation:
    """Read one growing text with an encoder-decoder model: the prompt at first, then its answer.

    A prompt that is new is encoded whole: an encoder looks both ways, so nothing of it is shared.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.ids: list[int] = []
        self.decoder = Seq2SeqDecoder(model, 0)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Read what is new in `ids` since the last text; give the next scores, [1, vocabulary]."""
        if self.ids and list(ids[:-1]) == self.ids:
            scores = self.decoder.step([ids[-1]])
        else:
            self.decoder = Seq2SeqDecoder(self.model, 0)
            scores = self.decoder.start([ids])
        self.ids = list(ids)
        return scores


class Conversation:
    """Read one growing text: what two prompts have in common from the start is read only once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = new_cache(model)
        self.ids: list[int] = []

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> Tensor:
        """Read what is new in `ids` since the last text; give the next scores, [1, vocabulary]."""
        shared = self.rewind(ids)
        new = torch.tensor([ids[shared:]], device=self.model.device)
        positions = torch.arange(shared, len(ids), device=self.model.device)[None]
        output = self.model(
            input_ids=new,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.ids = list(ids)
        return output.logits[:, -1]

    def rewind(self, ids: Sequence[int]) -> int:
        """Forget what the new text does not begin with; give the number of tokens that stay."""
        pairs = zip(self.ids, ids, strict=False)
        shared = next((n for n, (a, b) in enumerate(pairs) if a != b), len(self.ids))
        # the last token is always read again, since its scores are what is asked for
        shared = min(shared, len(ids) - 1)
        surplus = len(self.ids) - shared
        if surplus and not can_be_cut(self.cache):
            self.cache, shared = new_cache(self.model), 0
        elif surplus:
            self.cache.crop(-surplus)
        # half a text counts as none, should reading the rest fail
        self.ids = list(ids[:shared])
        return shared


def conversation_with(model: PreTrainedModel) -> Conversation | EncodedConversation:
    """Begin a conversation with a model of either kind."""
    return (EncodedConversation if model.config.is_encoder_decoder else Conversation)(model)


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """Make the cache the model's layers want (full, sliding, recurrent)."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def can_be_cut(cache: DynamicCache) -> bool:
    """Tell whether the newest tokens can be taken back: not from sliding or recurrent layers."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Stack prompts, right-aligned; give tokens and mask (1 where there is one), [rows, width]."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
