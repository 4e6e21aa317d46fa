"""Text to tokens without torch, and which of them are learned.

A text is tokenised in pieces, cut where the model begins to write. Tokenised whole, the last blank
of a prompt may join the first of its answer to one token, which no model that is asked with the
prompt alone could ever write; cut, a question has the same tokens in training, evaluation and chat.
The cuts are found in the text itself (`ChatTemplate.opening`), so rendered files have them too.
Characters become tokens through their offsets. The worker trains on exactly what this module
returns, and `token_view` shows it; which characters are learned is decided in `learned_spans`.
"""

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, processors

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.text.learned_spans import Span, spans_of
from sftplay_ui.engine.text.special_tokens import SpecialTokens, read_json, read_special_tokens
from sftplay_ui.engine.text.templates import ChatTemplate

_BATCH = 512
# Put before a piece whose tokenizer marks the beginning of every text: taken off again.
_LEADS = ("\n", "0", ".", "a", "\u4e2d")

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
        first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
        self._marks_beginnings = bool(first) and first[0].startswith(("\u2581", "\u0120"))
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
        try:
            tokenizer = Tokenizer.from_buffer(path.read_bytes())
        except ValueError as error:
            reason = str(error).rpartition(": ")[2][:200]
            raise ModelError(
                f"{path} is damaged: {reason}.", "Fetch the model again, or choose another folder."
            ) from error
        return cls(tokenizer, read_special_tokens(model_folder))

    @property
    def hash(self) -> str:
        """The sha256 of all that decides which tokens a text becomes."""
        content = self._tokenizer.to_str() + repr(self.special)
        return hashlib.sha256(content.encode()).hexdigest()

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
        """Return the token ids of a text as a whole, without anything added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_cut(
        self, texts: Sequence[str], cuts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], Offsets]]:
        """Yield ids and the character span of each token, for many texts at once.

        Each text is tokenised in pieces, apart at its cuts: ascending places inside it.
        """
        pieces = [
            text[start:end]
            for text, at in zip(texts, cuts, strict=True)
            for start, end in pairwise([0, *at, len(text)])
        ]
        encodings = iter(self._tokenizer.encode_batch(pieces, add_special_tokens=False))
        for text, at in zip(texts, cuts, strict=True):
            encoding = next(encodings)
            ids, offsets = list(encoding.ids), list(encoding.offsets)
            for start, end in pairwise([*at, len(text)]):
                encoding = next(encodings)
                more, places = encoding.ids, encoding.offsets
                if self._marks_beginnings:
                    more, places = self._continued(text[start:end]) or (more, places)
                ids += more
                offsets += [(a + start, b + start) for a, b in places]
            yield ids, offsets

    def _continued(self, piece: str) -> tuple[list[int], Offsets] | None:
        """Tokenise a piece as the rest of a text, for tokenizers that mark beginnings."""
        for lead in _LEADS:
            encoding = self._tokenizer.encode(lead + piece, add_special_tokens=False)
            first = sum(start < 1 for start, _ in encoding.offsets)
            if all(end <= 1 for _, end in encoding.offsets[:first]):
                places = [(start - 1, end - 1) for start, end in encoding.offsets[first:]]
                return encoding.ids[first:], places
        return None

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
    (`array`, `bytes`). `text` and `spans` are the whole rendering and what of it is learned;
    `cuts` are the places where it is tokenised apart.
    """

    input_ids: Sequence[int]
    learned: Sequence[int]
    cut_tokens: int = 0
    cut_learned: int = 0
    text: str = ""
    spans: tuple[Span, ...] = ()
    cuts: tuple[int, ...] = ()

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
        cuts = [cuts_of(text, template, spans) for text, spans in rendered]
        encoded = tokeniser.encode_cut([text for text, _ in rendered], cuts)
        for (text, spans), at, (ids, offsets) in zip(rendered, cuts, encoded, strict=True):
            learned = learned_mask(offsets, spans)
            yield TokenisedExample(
                input_ids=array("i", ids[:max_seq_len]),
                learned=bytes(learned[:max_seq_len]),
                cut_tokens=max(0, len(ids) - max_seq_len),
                cut_learned=sum(learned[max_seq_len:]),
                text=text,
                spans=tuple(spans),
                cuts=at,
            )


def prompt_text(messages: Sequence[Message], template: ChatTemplate) -> str:
    """Return the very text a model is asked with: the turns so far and the generation prompt."""
    return template.render(messages, add_generation_prompt=True)


def pair_prompt(pair: RenderedExample, template: ChatTemplate) -> str:
    """Return the text a model is asked a rendered pair with: its input, ended for an encoder."""
    if template.is_encoded and not pair.input.endswith(template.eos):
        return pair.input + template.eos
    return pair.input


def cuts_of(text: str, template: ChatTemplate, spans: Sequence[Span] = ()) -> tuple[int, ...]:
    """Return the places where a text is tokenised apart: where the model begins to write.

    That is behind each of the template's openings, whoever wrote it, so that a prompt alone is cut
    as it is at the beginning of a longer text; and where a learned span begins. What an encoder
    reads ends in a token of its own, so nothing can be joined there.
    """
    if template.is_encoded:
        return ()
    cuts = {start for start, _ in spans}
    opening = template.opening
    at = text.find(opening) if opening else -1
    while at >= 0:
        cuts.add(at + len(opening))
        at = text.find(opening, at + 1)
    return tuple(sorted(cut for cut in cuts if 0 < cut < len(text)))


def text_ids(text: str, template: ChatTemplate, tokeniser: Tokeniser) -> list[int]:
    """Return the tokens of a rendered prompt, as they were when it was learned."""
    return next(tokeniser.encode_cut([text], [cuts_of(text, template)]))[0]


def prompt_ids(
    messages: Sequence[Message], template: ChatTemplate, tokeniser: Tokeniser
) -> list[int]:
    """Return the tokens a model is asked with; the beginning of what it was trained on."""
    return text_ids(prompt_text(messages, template), template, tokeniser)


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
        messages = example.messages
        if template.is_encoded:
            messages = (*example.prompt, Message("assistant", example.reference))
        text = template.render(messages)
        spans = spans_of(messages, template, text)
        return text, spans[-1:] if template.is_encoded else spans
    prompt = pair_prompt(example, template)
    start = len(prompt)
    end = template.turn_end
    text = prompt + example.target
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
    ids, offsets = next(tokeniser.encode_cut([tokenised.text], [tokenised.cuts]))
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
