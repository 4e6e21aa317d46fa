"""Text to tokens without torch, and which of them are learned.

The whole rendered text is tokenised once, and characters become tokens through their offsets;
prompt and answer are never tokenised apart. The worker trains on exactly what this module returns,
and `token_view` shows it. Which characters are learned is decided in `learned_spans`.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, processors

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.text.learned_spans import Span, spans_of
from sftplay_ui.engine.text.special_tokens import SpecialTokens, read_json, read_special_tokens
from sftplay_ui.engine.text.templates import ChatTemplate

_BATCH = 512

Offsets = list[tuple[int, int]]
State = Literal["learned", "context", "cut"]


class Tokeniser:
    """A model's `tokenizer.json`, as training and generation use it: no token is added unasked."""

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Chat templates write their own special tokens. The tokenizer's post-processing would only
        # trim the offsets of blanks, and a blank that lost its offset could not be learned.
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        self._tokenizer = tokenizer
        self.special = special
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(n for n, token in added.items() if token.special)

    @classmethod
    def load(cls, model_folder: Path) -> "Tokeniser":
        """Load the tokenizer of a model or adapter folder; raise ModelError where there is none."""
        path = model_folder / "tokenizer.json"
        if "model" not in read_json(path):
            raise ModelError(
                f"{model_folder} has no usable tokenizer.json.",
                "Fetch the model again, or choose a model that brings one.",
            )
        return cls(Tokenizer.from_file(str(path)), read_special_tokens(model_folder))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end an answer, the tokenizer's own first."""
        return self.special.eos_ids

    @property
    def pad_id(self) -> int:
        """The token batches are padded with; may be an end token, so never mask by it."""
        return self.special.pad_id

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without anything added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Offsets]]:
        """Yield ids and the character span of each token, for many texts at once."""
        for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False):
            yield encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of token ids; special tokens are shown unless they are skipped."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def id_of(self, token: str) -> int | None:
        """Return the id of one token by its exact name, None where the vocabulary lacks it."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number


@dataclass(frozen=True)
class TokenisedExample:
    """One example as a model reads it, cut to the longest length allowed.

    `input_ids` and `learned` (1 where the token is learned, else 0) are equally long and compact
    (`array`, `bytes`). `text` and `spans` are the whole rendering and what of it is learned.
    """

    input_ids: Sequence[int]
    learned: Sequence[int]
    cut_tokens: int = 0
    cut_learned: int = 0
    text: str = ""
    spans: tuple[Span, ...] = ()

    @property
    def learned_count(self) -> int:
        """How many tokens are learned; 0 means the example teaches nothing."""
        return sum(self.learned)


def tokenise(
    example: Example | RenderedExample,
    template: ChatTemplate,
    tokeniser: Tokeniser,
    max_seq_len: int,
) -> TokenisedExample:
    """Render and tokenise one example; the head is kept where it is too long."""
    return next(tokenise_stream([example], template, tokeniser, max_seq_len))


def tokenise_many(
    examples: Iterable[Example | RenderedExample],
    template: ChatTemplate,
    tokeniser: Tokeniser,
    max_seq_len: int,
) -> list[TokenisedExample]:
    """Render and tokenise all examples at once; see `tokenise_stream`."""
    return list(tokenise_stream(examples, template, tokeniser, max_seq_len))


def tokenise_stream(
    examples: Iterable[Example | RenderedExample],
    template: ChatTemplate,
    tokeniser: Tokeniser,
    max_seq_len: int,
) -> Iterator[TokenisedExample]:
    """Render and tokenise examples in order, in batches, yielding them one by one.

    Raises TemplateError, with the number of the example, where the template refuses one.
    """
    rest = enumerate(examples, start=1)
    while batch := list(islice(rest, _BATCH)):
        rendered = [_numbered(number, example, template) for number, example in batch]
        encoded = tokeniser.encode_with_offsets([text for text, _ in rendered])
        for (text, spans), (ids, offsets) in zip(rendered, encoded, strict=True):
            learned = learned_mask(offsets, spans)
            yield TokenisedExample(
                input_ids=array("i", ids[:max_seq_len]),
                learned=bytes(learned[:max_seq_len]),
                cut_tokens=max(0, len(ids) - max_seq_len),
                cut_learned=sum(learned[max_seq_len:]),
                text=text,
                spans=tuple(spans),
            )


def prompt_text(messages: Sequence[Message], template: ChatTemplate) -> str:
    """Return the very text a model is asked with: the turns so far and the generation prompt."""
    return template.render(messages, add_generation_prompt=True)


def prompt_ids(
    messages: Sequence[Message], template: ChatTemplate, tokeniser: Tokeniser
) -> list[int]:
    """Return the tokens a model is asked with; a prefix of what it was trained on."""
    return tokeniser.encode(prompt_text(messages, template))


def stop_ids(template: ChatTemplate, tokeniser: Tokeniser) -> tuple[int, ...]:
    """Return all tokens that end an answer: the model's own and the template's end-of-turn mark."""
    mark = tokeniser.id_of(template.turn_end.mark.strip())
    return tuple(dict.fromkeys([*tokeniser.eos_ids, *([] if mark is None else [mark])]))


def render_example(
    example: Example | RenderedExample, template: ChatTemplate
) -> tuple[str, list[Span]]:
    """Return the whole text of an example and its learned character spans.

    A rendered pair is ended as the template ends a turn, unless its target already does so.
    """
    if isinstance(example, Example):
        text = template.render(example.messages)
        return text, spans_of(example.messages, template, text)
    start = len(example.input)
    end = template.turn_end
    text = example.input + example.target
    marked = end.mark and example.target.rstrip().endswith(end.mark.strip())
    if marked:
        return text, [(start, len(text.rstrip()))]
    return text + end.mark + end.rest, [(start, len(text) + len(end.mark))]


def learned_mask(offsets: Offsets, spans: Sequence[Span]) -> bytearray:
    """Return 1 for every token that touches a learned character, else 0.

    Several tokens may share one character (pieces of an emoji): they are learned together. A token
    across the edge of a span is learned, for the model must write its learned part.
    """
    mask = bytearray(len(offsets))
    starts = [start for start, _ in offsets]
    ends = [end for _, end in offsets]
    for start, end in spans:
        # offsets grow, so the tokens of a span are those that end after it began ...
        first = bisect_right(ends, start)
        # ... and begin before it ends
        last = bisect_left(starts, end)
        mask[first:last] = b"\x01" * (last - first)
    return mask


@dataclass(frozen=True)
class TokenPiece:
    """What the learned-token view shows as one piece: usually one token.

    Tokens that share a character are one piece, since neither can be read alone.
    """

    ids: tuple[int, ...]
    text: str
    state: State
    special: bool


def token_view(tokenised: TokenisedExample, tokeniser: Tokeniser) -> list[TokenPiece]:
    """Return the pieces of a tokenised example in order; their texts join to its whole text."""
    ids, offsets = next(tokeniser.encode_with_offsets([tokenised.text]))
    mask = learned_mask(offsets, tokenised.spans)
    kept = len(tokenised.input_ids)
    pieces: list[TokenPiece] = []
    shown = first = 0
    for n, (_, end) in enumerate(offsets):
        if n + 1 < len(ids) and offsets[n + 1][0] < end:
            continue
        last = n + 1 == len(ids)
        state: State = "learned" if any(mask[first : n + 1]) else "context"
        pieces.append(
            TokenPiece(
                ids=tuple(ids[first : n + 1]),
                # a tokenizer may drop characters; they are shown with the next piece
                text=tokenised.text[shown:] if last else tokenised.text[shown:end],
                state="cut" if first >= kept else state,
                special=ids[n] in tokeniser.special_ids,
            )
        )
        shown, first = end, n + 1
    return pieces


def _numbered(
    number: int, example: Example | RenderedExample, template: ChatTemplate
) -> tuple[str, list[Span]]:
    try:
        return render_example(example, template)
    except TemplateError as error:
        raise TemplateError(f"Example {number}: {error.what}", error.fix) from error
