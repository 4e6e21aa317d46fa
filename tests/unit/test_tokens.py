"""Tokens: one tokenisation, the right ones learned, the head kept, and a view that tells it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.text.rendered_files import rendered_pairs
from sftplay_ui.engine.text.special_tokens import SpecialTokens
from sftplay_ui.engine.text.templates import ChatTemplate, choose_template, load_template
from sftplay_ui.engine.text.tokens import (
    TokenisedExample,
    Tokeniser,
    learned_mask,
    prompt_ids,
    stop_ids,
    token_view,
    tokenise,
    tokenise_many,
)

BUNDLED = Path(__file__).parents[2] / "chat_templates"


@pytest.fixture(scope="module")
def tokeniser(tiny_tokenizer: Path) -> Tokeniser:
    return Tokeniser.load(tiny_tokenizer)


@pytest.fixture(scope="module")
def chatml(tiny_tokenizer: Path) -> ChatTemplate:
    return choose_template(tiny_tokenizer, None, BUNDLED)


def chat(*contents: str) -> Example:
    return Example(
        tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents))
    )


def learned_text(tokens: TokenisedExample, tokeniser: Tokeniser) -> str:
    ids = [n for n, flag in zip(tokens.input_ids, tokens.learned, strict=True) if flag]
    return tokeniser.decode(ids)


def test_nothing_is_added_and_everything_comes_back(tokeniser: Tokeniser) -> None:
    text = "<|im_start|> a\n\n  b\t{{x}} 🎉 سلام <|im_end|>\n"
    assert tokeniser.decode(tokeniser.encode(text)) == text
    assert tokeniser.encode("") == []


def test_only_answers_and_their_ends_are_learned(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    tokens = tokenise(chat("Q", "A one", "R", "B two"), chatml, tokeniser, 500)
    assert learned_text(tokens, tokeniser) == "A one<|im_end|>B two<|im_end|>"
    assert tokens.learned_count < len(tokens.input_ids)
    assert (tokens.cut_tokens, tokens.cut_learned) == (0, 0)


def test_the_end_is_learned_even_where_padding_is_the_end_token(
    tiny_tokenizer: Path, tokeniser: Tokeniser, chatml: ChatTemplate, tmp_path: Path
) -> None:
    for path in tiny_tokenizer.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["pad_token"] = config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = tokenise(chat("Q", "A"), chatml, Tokeniser.load(tmp_path), 500)
    assert learned_text(tokens, tokeniser).endswith("<|im_end|>")


def test_all_pieces_of_a_learned_character_are_learned(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    tokens = tokenise(chat("🏳️‍🌈", "🏳️‍🌈 東京 سلام\n\n    x "), chatml, tokeniser, 500)
    assert learned_text(tokens, tokeniser) == "🏳️‍🌈 東京 سلام\n\n    x <|im_end|>"


def test_a_token_across_the_edge_is_learned_and_an_empty_one_outside_is_not() -> None:
    offsets = [(0, 0), (0, 3), (3, 5), (5, 5), (5, 8), (7, 8), (8, 9)]
    assert list(learned_mask(offsets, [(4, 8)])) == [0, 0, 1, 1, 1, 1, 0]
    assert list(learned_mask(offsets, [(0, 1), (8, 9)])) == [0, 1, 0, 0, 0, 0, 1]
    assert list(learned_mask(offsets, [])) == [0] * 7


def test_a_long_example_keeps_its_head_and_counts_what_is_cut(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    example = chat("Question", "answer " * 50)
    whole = tokenise(example, chatml, tokeniser, 10_000)
    cut = tokenise(example, chatml, tokeniser, 60)
    assert list(cut.input_ids) == list(whole.input_ids)[:60]
    assert cut.cut_tokens == len(whole.input_ids) - 60
    assert cut.cut_learned == whole.learned_count - cut.learned_count > 0


def test_an_example_whose_answer_is_cut_away_teaches_nothing_and_says_so(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    tokens = tokenise(chat("long question " * 20, "A"), chatml, tokeniser, 16)
    assert tokens.learned_count == 0
    assert tokens.cut_learned == len(tokeniser.encode("A<|im_end|>"))


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.glob("*.jinja")))
@pytest.mark.parametrize("answer", ["A one", "", " spaced \n", "🎉"])
def test_a_rendered_pair_trains_token_for_token_like_its_conversation(
    tokeniser: Tokeniser, name: str, answer: str
) -> None:
    template = load_template(BUNDLED / name, bos="<|im_start|>", eos="<|im_end|>")
    example = chat("Q", answer)
    direct = tokenise(example, template, tokeniser, 500)
    prompt = template.render(example.prompt, add_generation_prompt=True)
    start, end = direct.spans[0]
    target = direct.text[start:end].removesuffix(template.turn_end.mark)
    pair = tokenise(RenderedExample(prompt, target), template, tokeniser, 500)
    assert list(pair.input_ids) == list(direct.input_ids)
    assert list(pair.learned) == list(direct.learned)


def test_a_target_that_ends_itself_is_not_ended_twice(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    pair = RenderedExample("Q:", " A<|im_end|>\n")
    tokens = tokenise(pair, chatml, tokeniser, 500)
    assert tokens.text == "Q: A<|im_end|>\n"
    assert learned_text(tokens, tokeniser) == " A<|im_end|>"


def test_many_examples_give_what_each_gives_alone(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    examples = [chat(f"Question {n}", "answer " * (n % 7)) for n in range(1200)]
    many = tokenise_many(examples, chatml, tokeniser, 40)
    assert many[::100] == [tokenise(e, chatml, tokeniser, 40) for e in examples[::100]]
    assert len(many) == 1200


def test_the_example_a_template_refuses_is_named(tokeniser: Tokeniser) -> None:
    strict = ChatTemplate("{{ user }}{{ assistant }}</s>", "mine.jinja", "", "", "</s>")
    with pytest.raises(TemplateError, match=r"Example 2: mine\.jinja:1"):
        tokenise_many([chat("q", "a"), chat("q", "a", "r", "b")], strict, tokeniser, 40)


def test_the_prompt_is_a_prefix_of_the_training_tokens(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    example = chat("Q", "A", "R", "B")
    prompt = prompt_ids(example.prompt, chatml, tokeniser)
    tokens = tokenise(example, chatml, tokeniser, 500)
    assert list(tokens.input_ids[: len(prompt)]) == prompt
    assert tokens.learned[len(prompt)] == 1


def test_answers_stop_at_the_models_own_end_and_at_the_templates(tokeniser: Tokeniser) -> None:
    own, mark = tokeniser.id_of("<|im_end|>"), tokeniser.id_of("<|endoftext|>")
    plain = load_template(BUNDLED / "plain.jinja", bos="", eos="<|endoftext|>")
    assert stop_ids(plain, tokeniser) == (own, mark)
    assert stop_ids(replace(plain, eos="</s>"), tokeniser) == (own,)


def test_the_view_shows_every_character_once_with_its_state(
    tokeniser: Tokeniser, chatml: ChatTemplate
) -> None:
    example = chat("سؤال 🏳️‍🌈", "東京 ok, and so on")
    length = len(tokenise(example, chatml, tokeniser, 500).input_ids)
    tokens = tokenise(example, chatml, tokeniser, length - 5)
    pieces = token_view(tokens, tokeniser)
    assert "".join(piece.text for piece in pieces) == tokens.text
    assert sum(len(p.ids) for p in pieces) == len(tokens.input_ids) + tokens.cut_tokens
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert [p.text for p in pieces if p.special] == ["<|im_start|>", "<|im_end|>"] * 2
    states = [piece.state for piece in pieces]
    assert [s for n, s in enumerate(states) if n == 0 or states[n - 1] != s] == [
        "context",
        "learned",
        "cut",
    ]
    shown = [n for p in pieces if p.state == "learned" for n in p.ids]
    assert shown == [n for n, f in zip(tokens.input_ids, tokens.learned, strict=True) if f]


# Answers that begin with what tokenizers join to the end of a prompt.
BEGINNINGS = ("Hello", "\nHi", "\n\n\tx", " x", "/usr", ")", "...", "", " ", "سلام", "東京")


def joining_tokeniser() -> Tokeniser:
    """Build what GPT-2, SmolLM and Qwen use, with tokens that reach over the end of a prompt."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = ["ĊĊ", "ĊĊĊ", ":/", ":)", "..", "...", ":...", "]/", "ĠĠ", "Ġx"]
    names = [*letters, *joined]
    merges = [(text[:-1], text[-1]) for text in joined if text[:-1] in names] + [(":", "...")]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(n, special=True) for n in ("<s>", "</s>")])
    return Tokeniser(tokenizer, SpecialTokens("<s>", True, "</s>", (2,), "", 0, frozenset()))


def prompts_and_training(
    name: str, contents: tuple[str, ...], tokeniser: Tokeniser
) -> Iterator[tuple[list[int], TokenisedExample, ChatTemplate, Example]]:
    """Yield, turn by turn, the tokens asked with, and those of the whole conversation."""
    template = load_template(BUNDLED / f"{name}.jinja", bos="<s>", eos="</s>")
    example = chat(*contents)
    trained = tokenise(example, template, tokeniser, 9999)
    for turn in range(1, len(contents), 2):
        asked = prompt_ids(example.messages[:turn], template, tokeniser)
        yield asked, trained, template, example


NAMES = sorted(path.stem for path in BUNDLED.glob("*.jinja"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_every_prompt_is_asked_with_the_tokens_it_was_learned_with(
    name: str, beginning: str
) -> None:
    tokeniser = joining_tokeniser()
    contents = ("Why?", beginning, "Assistant: why\n", f"{beginning}\n\n", "x", beginning)
    learned = 0
    for asked, trained, _, _ in prompts_and_training(name, contents, tokeniser):
        assert list(trained.input_ids[: len(asked)]) == asked
        assert tokeniser.decode(trained.input_ids) == trained.text
        learned = trained.learned_count
    assert learned_text(trained, tokeniser) == "".join(trained.text[a:b] for a, b in trained.spans)
    assert learned


def test_tokenised_whole_a_prompt_would_be_joined_with_its_answer() -> None:
    tokeniser = joining_tokeniser()
    asked, trained, *_ = next(prompts_and_training("llama3", ("Why?", "So."), tokeniser))
    assert tokeniser.encode(trained.text)[: len(asked)] != asked
    asked, trained, *_ = next(prompts_and_training("alpaca", ("Why?", "\n\n x"), tokeniser))
    assert tokeniser.encode(trained.text)[: len(asked)] != asked


@pytest.mark.parametrize("name", NAMES)
def test_rendered_pairs_are_cut_where_their_conversation_is(name: str) -> None:
    tokeniser = joining_tokeniser()
    contents = ("Why?", "/x", "y", "\n)", "z", "...")
    for asked, trained, template, example in prompts_and_training(name, contents, tokeniser):
        pairs = rendered_pairs(example, template)
        ids = [list(tokenise(pair, template, tokeniser, 9999).input_ids) for pair in pairs]
        # the last pair holds the whole conversation, each pair the prompt of its turn
        assert ids[-1] == list(trained.input_ids)
        assert any(one[: len(asked)] == asked for one in ids)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    contents=st.lists(
        st.text(st.sampled_from("\n :/).x\t]Assistant#"), max_size=8), min_size=2, max_size=6
    ),
)
def test_no_text_makes_prompt_and_training_differ(name: str, contents: list[str]) -> None:
    tokeniser = joining_tokeniser()
    turns = tuple(contents[: len(contents) // 2 * 2])
    for asked, trained, _, _ in prompts_and_training(name, turns, tokeniser):
        assert list(trained.input_ids[: len(asked)]) == asked


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_piece_of_a_text_gets_no_mark_of_a_beginning(legacy: bool, beginning: str) -> None:
    tokeniser = sentencepiece_like(legacy=legacy)
    for asked, trained, _, _ in prompts_and_training("plain", ("Q", beginning), tokeniser):
        assert list(trained.input_ids[: len(asked)]) == asked
        # nothing can be joined in this vocabulary, so the pieces are the whole
        assert list(trained.input_ids) == tokeniser.encode(trained.text)


def sentencepiece_like(*, legacy: bool) -> Tokeniser:
    """Build what Llama 2, Mistral and Gemma use: blanks as marks, unknown characters as bytes."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [chr(code) for code in range(33, 127)] + ["▁"]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(n, special=True) for n in ("<s>", "</s>")])
    return Tokeniser(tokenizer, SpecialTokens("<s>", True, "</s>", (2,), "", 0, frozenset()))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["mistral", "plain", "zephyr", "alpaca"])
def test_tokenizers_that_mark_blanks_learn_exactly_the_answers(name: str, legacy: bool) -> None:
    tokeniser = sentencepiece_like(legacy=legacy)
    template = load_template(BUNDLED / f"{name}.jinja", bos="<s>", eos="</s>")
    example = chat("Hi 🎉", "東京 is a\n\n  city 🎉.", "Q", "A")
    tokens = tokenise(example, template, tokeniser, 999)
    learned = "".join(tokens.text[start:end] for start, end in tokens.spans)
    assert learned_text(tokens, tokeniser).lstrip() == learned.lstrip()
    assert "".join(piece.text for piece in token_view(tokens, tokeniser)) == tokens.text
    prompt = prompt_ids(example.prompt, template, tokeniser)
    assert list(tokens.input_ids[: len(prompt)]) == prompt


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=2, max_size=4))
def test_any_text_is_learned_exactly(tiny_tokenizer: Path, texts: list[str]) -> None:
    tokeniser = Tokeniser.load(tiny_tokenizer)
    template = choose_template(tiny_tokenizer, None, BUNDLED)
    texts = texts[: len(texts) // 2 * 2]
    tokens = tokenise(chat(*texts), template, tokeniser, 5000)
    assert tokeniser.decode(tokens.input_ids) == tokens.text
    assert learned_text(tokens, tokeniser) == "".join(text + "<|im_end|>" for text in texts[1::2])
    assert "".join(piece.text for piece in token_view(tokens, tokeniser)) == tokens.text


@pytest.mark.parametrize("text", [None, "{}", "{", "[1]"])
def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokeniser.load(tmp_path)


def test_a_damaged_tokenizer_is_refused_in_words(tiny_tokenizer: Path, tmp_path: Path) -> None:
    record = json.loads((tiny_tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    for part, value in (("model", {"type": "BPE"}), ("added_tokens", [{"id": "x"}])):
        damaged = json.dumps({**record, part: value})
        (tmp_path / "tokenizer.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
            Tokeniser.load(tmp_path)
