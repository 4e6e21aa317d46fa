"""The evaluate job: both sides answer the same questions, and nothing is left out in silence."""

import json
from pathlib import Path

import pytest
import torch

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import AdapterError, DataError, DeviceMemoryError
from sftplay_ui.engine.evaluation import read_answers, read_evaluation
from sftplay_ui.engine.events import (
    EvaluationLogged,
    PhaseProgressed,
    RunFinished,
    RunStopped,
    SampleGenerated,
    Warned,
)
from sftplay_ui.engine.worker.evaluate import evaluate
from sftplay_ui.engine.worker.scoring import asking
from sftplay_ui.engine.workspace import Workspace
from tests.tuned import build_adapter, build_full

ROWS = [{"user": f"What is {n} and {n}?", "assistant": f"It is {2 * n}."} for n in range(12)]


@pytest.fixture
def run_dir(workspace: Workspace) -> Path:
    folder = workspace.outputs / "evaluate-tuned"
    folder.mkdir()
    return folder


def write_rows(workspace: Workspace, rows, split="test"):
    path = workspace.data / "processed" / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(model: Path, **evaluate_settings) -> RunConfig:
    return RunConfig.model_validate(
        {
            "job": "evaluate",
            "model": {"name": str(model)},
            "train": {"bf16": False},
            "evaluate": evaluate_settings,
            "generate": {"max_new_tokens": 8},
        }
    )


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_both_sides_answer_the_same_questions(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    write_rows(workspace, ROWS)
    events = list(evaluate(settings(tiny_llama), run_dir))
    result, pairs = read_evaluation(run_dir), read_answers(run_dir)
    assert (result.run, result.split, result.rows) == ("tuned", "test", 12)
    assert [pair.question for pair in pairs] == [row["user"] for row in ROWS]
    assert any(pair.base != pair.tuned for pair in pairs)
    assert "rougeL" in result.before
    assert result.before["eval_loss"] != result.after["eval_loss"]
    assert {d.metric for d in result.differences} >= {"rougeL", "exact_match", "reference_loss"}
    assert result.verdict
    samples = of(SampleGenerated, events)
    assert [sample.source for sample in samples] == ["base"] * 12 + ["tuned"] * 12
    assert of(EvaluationLogged, events)[0].metrics["after.rougeL"] == result.after["rougeL"]
    assert isinstance(events[-1], RunFinished)


def test_the_adapter_is_on_for_one_side_only(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    write_rows(workspace, ROWS)
    list(evaluate(settings(tiny_llama), run_dir))
    both = read_answers(run_dir)
    list(evaluate(settings(tiny_llama, run="base"), run_dir))
    alone = read_answers(run_dir)
    assert [pair.base for pair in both] == [pair.base for pair in alone]
    assert {pair.tuned for pair in alone} == {None}
    assert read_evaluation(run_dir).judgement == "one side"


def test_a_whole_tuned_model_is_compared_as_well(workspace, run_dir, tiny_llama):
    build_full(workspace, tiny_llama)
    write_rows(workspace, ROWS)
    list(evaluate(settings(tiny_llama, base=False), run_dir))
    result = read_evaluation(run_dir)
    assert result.run == "whole"
    assert not result.before
    assert result.after["eval_loss"] > 0


def test_the_loss_is_that_of_transformers(workspace, run_dir, tiny_llama):
    from transformers import AutoModelForCausalLM

    from sftplay_ui.engine.data.examples import Example
    from sftplay_ui.engine.text.templates import choose_template
    from sftplay_ui.engine.text.tokens import Tokeniser, tokenise

    write_rows(workspace, ROWS)
    list(evaluate(settings(tiny_llama, run="base"), run_dir))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    template = choose_template(tiny_llama, None, workspace.templates)
    tokeniser = Tokeniser.load(tiny_llama)
    total = tokens = 0
    for row in ROWS:
        one = tokenise(Example.from_record(row), template, tokeniser, 512)
        ids = torch.tensor([list(one.input_ids)])
        labels = ids.masked_fill(~torch.tensor([list(one.learned)]).bool(), -100)
        count = int((labels[:, 1:] >= 0).sum())
        total += model(ids, labels=labels).loss.item() * count
        tokens += count
    assert read_evaluation(run_dir).before["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)


def test_the_limit_takes_the_first_questions(workspace, run_dir, tiny_llama):
    write_rows(workspace, ROWS)
    list(evaluate(settings(tiny_llama, run="base", limit=3), run_dir))
    assert [pair.id for pair in read_answers(run_dir)] == [0, 1, 2]


def test_questions_without_a_reference_are_left_out_and_counted(workspace, run_dir, tiny_llama):
    write_rows(workspace, [*ROWS[:2], {"user": "Why?", "assistant": " "}])
    events = list(evaluate(settings(tiny_llama, run="base"), run_dir))
    result = read_evaluation(run_dir)
    assert (result.rows, result.left_out) == (2, {"without a reference answer": 1})
    assert "1 without a reference answer" in of(Warned, events)[0].what


def test_a_split_without_questions_is_refused(workspace, run_dir, tiny_llama):
    write_rows(workspace, [])
    with pytest.raises(DataError, match="it is empty"):
        list(evaluate(settings(tiny_llama, run="base"), run_dir))


def test_questions_that_were_trained_on_are_told(workspace, run_dir, tiny_llama):
    write_rows(workspace, ROWS[:3])
    write_rows(workspace, ROWS[2:], "train")
    events = list(evaluate(settings(tiny_llama, run="base"), run_dir))
    assert any("1 of 3 questions were trained on" in event.what for event in of(Warned, events))
    assert read_evaluation(run_dir).trained_on == 1


def test_answers_that_were_cut_off_are_told(workspace, run_dir, tiny_llama):
    write_rows(workspace, ROWS[:2])
    events = list(evaluate(settings(tiny_llama, run="base"), run_dir))
    assert [event.code for event in of(Warned, events)] == ["cut_answers"]


def test_rendered_pairs_are_asked_as_they_are(workspace, run_dir, tiny_llama):
    write_rows(workspace, [{"input": "Q: one\nA:", "target": " two<|im_end|>"}])
    list(evaluate(settings(tiny_llama, run="base"), run_dir))
    (pair,) = read_answers(run_dir)
    assert (pair.prompt, pair.reference) == ("Q: one\nA:", " two")


def test_a_stop_ends_the_evaluation_without_a_result(workspace, run_dir, tiny_llama):
    write_rows(workspace, ROWS)
    events = evaluate(settings(tiny_llama, run="base", batch_size=2), run_dir)
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, PhaseProgressed):
            (run_dir / "stop").touch()
    assert isinstance(seen[-1], RunStopped)
    assert read_evaluation(run_dir) is None


def test_short_memory_halves_the_batch_and_says_so(workspace, run_dir, tiny_llama, monkeypatch):
    write_rows(workspace, ROWS)
    real = asking.generate_batch

    def at_most_three(model, prompts, **how):
        if len(prompts) > 3:
            raise torch.OutOfMemoryError
        return real(model, prompts, **how)

    monkeypatch.setattr(asking, "generate_batch", at_most_three)
    events = list(evaluate(settings(tiny_llama, run="base"), run_dir))
    told = [event.what for event in of(Warned, events) if event.code == "out_of_memory"]
    halved = [size for size in (8, 4, 2) for what in told if f" {size} answers" in what]
    assert (halved, len(told)) == ([8, 4, 2], 3)
    assert read_evaluation(run_dir).rows == 12


def test_memory_too_short_for_one_answer_is_an_error(monkeypatch):
    with pytest.raises(DeviceMemoryError):
        asking.smaller(1)


def test_another_base_model_under_the_same_name_is_refused(
    workspace, run_dir, tiny_llama, tiny_llama_untied
):
    from dataclasses import replace

    from sftplay_ui.engine.adapters import write_contract

    adapter = build_adapter(workspace, tiny_llama)
    write_contract(replace(adapter, base_model=str(tiny_llama_untied)))
    write_rows(workspace, ROWS)
    with pytest.raises(AdapterError, match="is not the one adapter tuned was trained on"):
        list(evaluate(settings(tiny_llama), run_dir))


def test_another_template_than_the_adapters_is_refused(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    write_rows(workspace, ROWS)
    other = workspace.templates / "other.jinja"
    other.write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    config = settings(tiny_llama)
    data = config.data.model_copy(update={"template_path": str(other)})
    with pytest.raises(AdapterError, match="asked in another way"):
        list(evaluate(config.model_copy(update={"data": data}), run_dir))
