"""Every bundled template: the exact text it renders and what of it is learned.

The expected values lie beside this file, one JSON per template. After a wanted change, write them
anew with `python -m tests.golden.templates.test_golden_templates` and read the difference.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken

from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.text.learned_spans import learned_spans
from sftplay_ui.engine.text.special_tokens import SpecialTokens
from sftplay_ui.engine.text.templates import ChatTemplate, choose_template, load_template
from sftplay_ui.engine.text.tokens import Tokeniser, prompt_ids, tokenise
from tests import doubles

HERE = Path(__file__).parent
TEMPLATES = Path(__file__).parents[3] / "chat_templates"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
SHORT = 40

# The special tokens each family is used with.
BOS_AND_EOS = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "default": ("", "<|im_end|>"),
    "phi": ("<s>", "<|endoftext|>"),
}
MARKS = [
    *("<s>", "</s>", "<bos>", "<eos>", "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>"),
    *("<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>"),
]


def chat(*contents: str) -> list[Message]:
    """Alternate user and assistant turns."""
    return [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]


CHATS = {
    "one turn": chat("What is 2 + 2?", "Four."),
    "system": [Message("system", "Be brief."), *chat("What is 2 + 2?", "Four.")],
    "empty system": [Message("system", ""), *chat("What is 2 + 2?", "Four.")],
    "several turns": [
        Message("system", "Be brief."),
        *chat("Why?", "So.", "Why?", "So.", "ok", "!"),
    ],
    "unicode": chat("ما هي عاصمة فرنسا؟", "باريس 🏳️‍🌈", "日本の首都は？", "東京です。"),
    "marks and braces": chat("{{ system }} {% if %} </s> ### Response:", "User: <|user|> {{x}}"),
    "lines": chat("a\n\n  b", "def f():\n    return 1\n\n\treturn 2"),
}


def template_of(name: str) -> ChatTemplate:
    """Load a bundled template with its family's special tokens."""
    bos, eos = BOS_AND_EOS.get(name, ("<s>", "</s>"))
    return load_template(TEMPLATES / f"{name}.jinja", bos=bos, eos=eos)


def byte_tokeniser() -> Tokeniser:
    """Make a byte-level tokeniser that knows the marks of all families."""
    tokenizer = doubles.byte_level_tokenizer()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    special = SpecialTokens("", False, "", (), "", 0, frozenset(MARKS))
    return Tokeniser(tokenizer, special)


def spoken(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Cut a text into what is read and what is learned."""
    at = 0
    for start, end in spans:
        yield text[at:start], False
        yield text[start:end], True
        at = end
    yield text[at:], False


def observed(name: str) -> dict[str, object]:
    """Render, span and tokenise every chat with one template."""
    template, tokeniser = template_of(name), byte_tokeniser()
    result: dict[str, object] = {}
    for title, messages in CHATS.items():
        text = template.render(messages)
        tokens = tokenise(Example(tuple(messages)), template, tokeniser, SHORT)
        result[title] = {
            "text": text,
            "prompt": template.render(messages[:-1], add_generation_prompt=True),
            "learned": [text[start:end] for start, end in learned_spans(messages, template)],
            "tokens": len(tokens.input_ids) + tokens.cut_tokens,
            "learned_tokens": tokens.learned_count,
            f"cut_learned_at_{SHORT}": tokens.cut_learned,
        }
    return result


@pytest.mark.parametrize("name", NAMES)
def test_a_template_renders_and_learns_as_recorded(name: str) -> None:
    assert observed(name) == json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", CHATS)
def test_learned_tokens_decode_to_the_learned_text(name: str, title: str) -> None:
    template, tokeniser = template_of(name), byte_tokeniser()
    tokens = tokenise(Example(tuple(CHATS[title])), template, tokeniser, 10_000)
    learned = [n for n, flag in zip(tokens.input_ids, tokens.learned, strict=True) if flag]
    assert tokeniser.decode(tokens.input_ids) == tokens.text
    assert tokeniser.decode(learned) == "".join(tokens.text[a:b] for a, b in tokens.spans)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", CHATS)
def test_tokens_and_mask_are_those_of_the_whole_text(name: str, title: str) -> None:
    # nothing can be joined in this vocabulary, so where the text is cut must not show
    template, tokeniser = template_of(name), byte_tokeniser()
    whole = tokenise(Example(tuple(CHATS[title])), template, tokeniser, 10_000)
    ids = tokeniser.encode(whole.text)
    assert list(whole.input_ids) == ids
    # a token is one byte or one mark here, so the mask can be told without offsets
    learned = []
    for text, flag in spoken(whole.text, whole.spans):
        learned += [flag] * len(tokeniser.encode(text))
    assert [bool(flag) for flag in whole.learned] == learned
    cut = tokenise(Example(tuple(CHATS[title])), template, tokeniser, SHORT)
    assert list(cut.input_ids) == ids[:SHORT]
    assert [bool(flag) for flag in cut.learned] == learned[:SHORT]
    assert cut.cut_tokens == max(0, len(ids) - SHORT)
    assert cut.cut_learned == sum(learned[SHORT:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", CHATS)
def test_the_prompt_is_the_beginning_of_what_was_trained(name: str, title: str) -> None:
    template, tokeniser = template_of(name), byte_tokeniser()
    example = Example(tuple(CHATS[title]))
    trained = list(tokenise(example, template, tokeniser, 10_000).input_ids)
    prompt = prompt_ids(example.prompt, template, tokeniser)
    assert trained[: len(prompt)] == prompt


@pytest.mark.parametrize("name", NAMES)
def test_transformers_renders_the_same_text(name: str, tiny_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    template = template_of(name)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.bos_token, tokenizer.eos_token = template.bos or None, template.eos
    for messages in CHATS.values():
        records = [{"role": m.role, "content": m.content} for m in messages]
        for turns, prompt in ((records, False), (records[:-1], True)):
            theirs = tokenizer.apply_chat_template(
                turns,
                chat_template=template.source,
                tokenize=False,
                add_generation_prompt=prompt,
            )
            ours = template.render(messages[: len(turns)], add_generation_prompt=prompt)
            assert ours == theirs


def test_transformers_counts_the_same_tokens(tiny_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    tokeniser = Tokeniser.load(tiny_tokenizer)
    template = choose_template(tiny_tokenizer, None, TEMPLATES)
    for messages in CHATS.values():
        records = [{"role": m.role, "content": m.content} for m in messages]
        theirs = tokenizer.apply_chat_template(records, tokenize=True, return_dict=False)
        ours = tokenise(Example(tuple(messages)), template, tokeniser, 10_000).input_ids
        assert list(ours) == theirs


if __name__ == "__main__":
    for stem in NAMES:
        recorded = json.dumps(observed(stem), indent=1, ensure_ascii=False)
        (HERE / f"{stem}.json").write_text(recorded + "\n", encoding="utf-8")
