"""Models of an encoder and a decoder (T5): tuned whole, asked without a template."""

import json

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from sftplay_ui.engine.adapters import newest_adapter
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, Message, RenderedExample
from sftplay_ui.engine.errors import AdapterError, ConfigError
from sftplay_ui.engine.events import (
    ConfigResolved,
    EvaluationLogged,
    RunFinished,
    RunResumed,
    SampleGenerated,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, render_example, tokenise
from sftplay_ui.engine.worker.evaluate import evaluate
from sftplay_ui.engine.worker.merge import merge
from sftplay_ui.engine.worker.training.batches import apart
from tests.training import adapter_bytes, config_for, of_kind, train_here, write_examples
from tests.unit.test_chat import Worker
from tests.unit.test_model import prepared_for, stepper_for
from tests.unit.test_train import losses, stop_after

PAIR = Example((Message("user", "What is so?"), Message("assistant", "Paris is.")))


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    return workspace


@pytest.fixture
def template(tiny_t5, workspace):
    return choose_template(tiny_t5, None, workspace.templates)


def config_of(tiny_t5, **train):
    return config_for(tiny_t5, mode="auto", **train)


def job(name, tiny_t5, **settings):
    return RunConfig.model_validate(
        {"job": name, "model": {"name": str(tiny_t5)}, "train": {"bf16": False}, **settings}
    )


def test_the_encoder_reads_the_question_as_it_is_and_the_decoder_learns_the_answer(template):
    text, spans = render_example(PAIR, template)
    assert text == "What is so?</s>Paris is.</s>"
    assert [text[start:end] for start, end in spans] == ["Paris is.</s>"]


def test_of_a_conversation_the_last_answer_is_learned_and_the_rest_is_told_who_said_it(template):
    turns = ("system", "Be short."), ("user", "A?"), ("assistant", "B."), ("user", "C?")
    messages = tuple(Message(role, text) for role, text in turns)
    text, spans = render_example(Example((*messages, Message("assistant", "D."))), template)
    assert text == "Be short.\nUser: A?\nAssistant: B.\nUser: C?</s>D.</s>"
    assert [text[start:end] for start, end in spans] == ["D.</s>"]
    assert text.startswith(template.render(messages, add_generation_prompt=True))


def test_a_rendered_pair_is_ended_for_the_encoder(template):
    assert render_example(RenderedExample("A?", "B."), template)[0] == "A?</s>B.</s>"
    assert render_example(RenderedExample("A?</s>", "B."), template)[0] == "A?</s>B.</s>"


def test_a_template_that_was_named_is_said_not_to_be_used(tiny_t5, workspace, tmp_path):
    chosen = choose_template(tiny_t5, tmp_path / "mine.jinja", workspace.templates)
    assert "mine.jinja is not used" in chosen.reason


def test_loss_and_gradients_are_those_of_the_library(tiny_t5, template):
    tokeniser = Tokeniser.load(tiny_t5)
    texts = ["What is so?", "Explain a loop in two sentences.", "Why?"], ["Paris.", "A, b.", "No."]
    examples = [
        tokenise(Example((Message("user", q), Message("assistant", a))), template, tokeniser, 128)
        for q, a in zip(*texts, strict=True)
    ]
    library = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).train()
    theirs = AutoTokenizer.from_pretrained(tiny_t5)
    asked = theirs(texts[0], padding=True, return_tensors="pt")
    labels = theirs(texts[1], padding=True, return_tensors="pt").input_ids
    labels[labels == theirs.pad_token_id] = -100
    expected = library(asked.input_ids, attention_mask=asked.attention_mask, labels=labels).loss
    expected.backward()
    stepper = stepper_for(prepared_for(tiny_t5, mode="full"), examples, 3)
    learned = sum(sum(example.learned) for example in examples)
    assert learned == int((labels != -100).sum())
    summed = float(stepper.backward_all(1, learned))
    assert summed / learned == pytest.approx(expected.item(), rel=1e-6)
    ours = dict(stepper.prepared.model.named_parameters())
    for name, parameter in library.named_parameters():
        # single elements near zero differ by how sums were rounded
        difference = (ours[name].grad - parameter.grad).norm()
        assert difference <= 1e-5 * parameter.grad.norm(), name


def test_the_decoder_reads_each_answer_one_place_late(tiny_t5, template):
    tokeniser = Tokeniser.load(tiny_t5)
    example = tokenise(PAIR, template, tokeniser, 128)
    batch = apart([example], tokeniser.pad_id, 0)
    assert batch.decoder_ids is not None
    assert batch.decoder_ids[0, 1:].tolist() == batch.target[:-1].tolist()
    assert tokeniser.decode(batch.input_ids[0].tolist()) == "What is so?</s>"
    assert batch.target[-1] == tokeniser.eos_ids[0]


def test_it_learns_and_is_evaluated_asked_and_not_merged(tiny_t5, workspace):
    config = config_of(tiny_t5, learning_rate=1e-2, epochs=3, sample_prompts=1)
    events = train_here(config, workspace)
    assert isinstance(events[-1], RunFinished)
    (resolved,) = of_kind(events, ConfigResolved)
    reasons = {choice.setting: choice.reason for choice in resolved.choices}
    assert reasons["tuning.mode"] == "an encoder-decoder model is tuned whole"
    assert "as it is" in reasons["data.template_path"]
    scores = [event.metrics["eval_loss"] for event in of_kind(events, EvaluationLogged)]
    assert scores[-1] < scores[0]
    assert of_kind(events, SampleGenerated)
    adapter = newest_adapter(workspace)
    assert adapter.mode == "full"
    assert AutoModelForSeq2SeqLM.from_pretrained(adapter.path).config.is_encoder_decoder

    for name in ("evaluate", "chat", "merge"):
        (workspace.outputs / name).mkdir()
    scored = job("evaluate", tiny_t5, evaluate={"split": "val"}, generate={"max_new_tokens": 8})
    told = list(evaluate(scored, workspace.outputs / "evaluate"))
    assert isinstance(told[-1], RunFinished)
    figures = json.loads((workspace.outputs / "evaluate/metrics.json").read_text())
    assert figures["after"]["eval_loss"] == pytest.approx(scores[-1], rel=1e-4)

    worker = Worker(job("chat", tiny_t5), workspace.outputs / "chat")
    assert worker.line()["ready"]
    question = [{"role": "user", "content": "What is 1 and so on?"}]
    # twice: a conversation that goes on begins a new prompt
    answers = [worker.answer(id=n, messages=question) for n in (1, 2)]
    worker.close()
    texts = ["".join(line.get("text", "") for line in lines) for lines in answers]
    assert answers[0][0]["prompt"] == "What is 1 and so on?</s>"
    assert texts == [library_answer(adapter.path, "What is 1 and so on?")] * 2

    with pytest.raises(AdapterError, match="nothing to merge"):
        list(merge(job("merge", tiny_t5), workspace.outputs / "merge"))


def library_answer(folder, question: str) -> str:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer(question, return_tensors="pt")
    ids = model.generate(asked.input_ids, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def test_a_stopped_run_ends_byte_for_byte_as_the_unbroken_one(tiny_t5, workspace):
    config = config_of(tiny_t5, max_steps=4, neftune_noise_alpha=5.0)
    unbroken = train_here(config, workspace, "unbroken")
    watch = stop_after(workspace.outputs / "run", StepLogged, 2)
    stopped = train_here(config, workspace, until=watch)
    resumed = train_here(config, workspace)
    assert of_kind(resumed, RunResumed)[0].step == 2
    assert losses(stopped) + losses(resumed) == losses(unbroken)
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_an_adapter_on_it_is_refused_in_words(tiny_t5, workspace):
    with pytest.raises(ConfigError, match="tuned whole"):
        train_here(config_for(tiny_t5, mode="lora"), workspace)


def test_line_breaks_that_the_tokenizer_loses_are_told(tiny_t5, workspace):
    path = workspace.data / "processed/train.jsonl"
    path.write_text(path.read_text() + json.dumps({"user": "List.", "assistant": "a\nb"}) + "\n")
    events = train_here(config_of(tiny_t5, max_steps=1), workspace)
    told = {event.code: event.what for event in of_kind(events, Warned)}
    assert told["line_breaks"].startswith("1 of 25 examples have line breaks")
