"""Writing answers: side by side, one by one, drawn, and streamed."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.errors import NotFiniteError
from sftplay_ui.engine.worker.writing.decoding import (
    WORDS,
    Conversation,
    answering,
    word_attention,
)
from sftplay_ui.engine.worker.writing.generate import Limits, generate_batch, stream, text_pieces

PROMPTS = [
    [7, 8, 9, 10, 11, 12, 13],
    [20, 21],
    [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41],
    [50],
    [60, 61, 62, 63],
]


@pytest.fixture(scope="module")
def model(tiny_llama: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval()


def limits(eos_ids=(), stop=lambda: False, **sampling) -> Limits:
    return Limits(eos_ids, GenerateConfig(**{"max_new_tokens": 12, **sampling}), stop)


def write(model, prompts, *, batch_size=5, **how):
    return generate_batch(model, prompts, limits=limits(**how), pad_id=0, batch_size=batch_size)


def test_greedy_answers_are_those_of_the_library(model):
    for prompt, answer in zip(PROMPTS, write(model, PROMPTS), strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert list(answer.ids) == expected[0, len(prompt) :].tolist()
        assert answer.stopped == "length"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_do_not_depend_on_their_neighbours(model, attention):
    model.set_attn_implementation(attention)
    assert write(model, PROMPTS, batch_size=1) == write(model, PROMPTS, batch_size=3)
    model.set_attn_implementation("sdpa")


def test_a_token_a_row_attends_as_the_library_does():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 7, 8, generator=generator)
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., :4] = False
    for hidden in (None, mask):
        found, _ = word_attention(torch.nn.Module(), query, key, value, hidden, scaling=0.3)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=hidden, scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_model_on_a_cpu_attends_word_by_word_only_while_it_writes(model):
    with answering(model):
        assert model.config._attn_implementation == WORDS
    assert model.config._attn_implementation == "sdpa"


def test_the_head_sees_the_last_tokens_only_and_in_one_piece(model):
    seen = []
    head = model.get_output_embeddings()
    with answering(model):
        watch = head.register_forward_pre_hook(lambda _head, inputs: seen.append(inputs[0]))
        model(torch.ones(3, 5, dtype=torch.long), logits_to_keep=1)
        watch.remove()
    assert [(x.shape[:2], x.is_contiguous()) for x in seen] == [((3, 1), True)]
    assert not head._forward_pre_hooks


def test_a_row_that_ends_leaves_the_others_alone(model):
    free = write(model, PROMPTS)
    end = free[1].ids[4]
    for before, answer in zip(free, write(model, PROMPTS, eos_ids={end}), strict=True):
        if end in before.ids:
            assert (answer.ids, answer.stopped) == (before.ids[: before.ids.index(end)], "eos")
        else:
            assert answer == before


def test_drawn_answers_are_seeded_and_independent_of_the_batch(model):
    drawn = {"temperature": 1.3, "top_p": 0.9, "top_k": 50}
    first = write(model, PROMPTS, **drawn, seed=1)
    assert write(model, PROMPTS, **drawn, seed=1, batch_size=2) == first
    assert write(model, PROMPTS, **drawn, seed=2) != first
    assert write(model, PROMPTS) != first


def test_top_k_of_one_is_greedy(model):
    assert write(model, PROMPTS, temperature=2.0, top_k=1) == write(model, PROMPTS)


def test_a_tiny_top_p_is_greedy(model):
    assert write(model, PROMPTS, temperature=2.0, top_p=1e-6) == write(model, PROMPTS)


def test_a_repetition_penalty_stops_repetition(model):
    answers = write(model, PROMPTS, repetition_penalty=5.0)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert len({*prompt, *answer.ids}) == len(prompt) + len(answer.ids)


def test_drawing_leaves_the_worlds_random_numbers_alone(model):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    write(model, PROMPTS, temperature=1.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_stop_keeps_what_was_written(model):
    calls = iter([False, False, False, True])
    answers = write(model, PROMPTS, batch_size=3, stop=lambda: next(calls, True))
    written = [len(answer.ids) for answer in answers]
    assert sorted(written) == [0, 0, 3, 3, 3]
    assert {answer.stopped for answer in answers} == {"stop"}


def test_an_answer_ends_where_the_context_does(model):
    context = model.config.max_position_embeddings
    nearly_full, full = [5] * (context - 2), [5] * context
    answers = write(model, [nearly_full, full, [5]])
    assert [len(answer.ids) for answer in answers] == [2, 0, 12]
    assert [answer.stopped for answer in answers] == ["length"] * 3


def test_scores_that_are_not_numbers_are_refused(tiny_llama):
    broken = AutoModelForCausalLM.from_pretrained(tiny_llama)
    broken.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="NaN"):
        write(broken, PROMPTS)


def test_an_encoder_decoder_answers_as_the_library_does(tiny_t5):
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    for prompt, answer in zip(PROMPTS, write(model, PROMPTS), strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert list(answer.ids) == expected[0, 1:].tolist()


def test_a_model_in_training_is_given_back_as_it_was(model):
    model.train()
    model.set_attn_implementation("eager")
    with answering(model):
        assert not model.training
    assert model.training
    assert model.config._attn_implementation == "eager"
    model.eval()
    model.set_attn_implementation("sdpa")


def test_a_stream_writes_what_the_batch_writes(model):
    for prompt, answer in zip(PROMPTS, write(model, PROMPTS), strict=True):
        assert tuple(stream(Conversation(model), prompt, limits=limits())) == answer.ids


def test_a_conversation_that_goes_on_reads_only_what_is_new(model, monkeypatch):
    conversation = Conversation(model)
    first = list(stream(conversation, PROMPTS[0], limits=limits()))
    prompt = [*PROMPTS[0], *first, 70, 71, 72]
    read = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda **inputs: read.append(inputs["input_ids"].shape[1]) or forward(**inputs),
    )
    second = tuple(stream(conversation, prompt, limits=limits()))
    assert read[0] == 4  # the last token of the answer had not been read yet
    assert second == write(model, [prompt])[0].ids
    edited = [*PROMPTS[0][:3], 99, 98]
    assert tuple(stream(conversation, edited, limits=limits())) == write(model, [edited])[0].ids


def test_pieces_are_whole_characters_and_add_up(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    text = "Né 🙂 — مرحبا\n  x\tनमस्ते"
    pieces = list(text_pieces(tokenizer.encode(text), tokenizer.decode))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_shown_at_last(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer.encode("ab🙂")[:-1]
    assert "".join(text_pieces(ids, tokenizer.decode)) == "ab\ufffd"
