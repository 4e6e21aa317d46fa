"""The training loop: what it tells, what it leaves, and that nothing it did is ever lost."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sftplay_ui.engine.adapters import newest_adapter
from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.errors import (
    ConfigError,
    DataError,
    DeviceMemoryError,
    DiskFullError,
    NotFiniteError,
    ResumeError,
)
from sftplay_ui.engine.events import (
    CheckpointSaved,
    ConfigResolved,
    EvaluationLogged,
    PhaseStarted,
    RunFinished,
    RunResumed,
    RunStopped,
    SampleGenerated,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.worker.training import watch
from sftplay_ui.engine.worker.training.learner import Learner
from tests.training import adapter_bytes, config_for, of_kind, train_here, write_examples


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    shutil.copytree(
        Path(__file__).parents[2] / "chat_templates", workspace.templates, dirs_exist_ok=True
    )
    return workspace


def stop_after(run_dir: Path, kind, step: int, how: str = "soon"):
    """Ask the run to stop as soon as it told of this."""

    def look(event) -> None:
        if isinstance(event, kind) and getattr(event, "step", step) == step:
            (run_dir / "stop").write_text(how)

    return look


def losses(events) -> list[float]:
    return [event.loss for event in of_kind(events, StepLogged)]


def test_a_run_tells_its_story_and_leaves_an_adapter(tiny_llama, workspace):
    events = train_here(config_for(tiny_llama, sample_prompts=1), workspace)
    phases = [event.phase for event in of_kind(events, PhaseStarted)]
    assert list(dict.fromkeys(phases)) == ["tokenise", "load", "train", "evaluate", "save"]
    steps = of_kind(events, StepLogged)
    assert [event.step for event in steps] == list(range(1, 11))
    assert {event.total_steps for event in steps} == {10}
    assert [event.step for event in of_kind(events, EvaluationLogged)] == [0, 5, 10]
    sources = [(event.step, event.source) for event in of_kind(events, SampleGenerated)]
    assert sources == [(0, "base"), (5, "tuned"), (10, "tuned")]
    assert isinstance(events[-1], RunFinished)
    evaluations = [event.metrics["eval_loss"] for event in of_kind(events, EvaluationLogged)]
    assert evaluations[-1] < evaluations[0]
    adapter = newest_adapter(workspace)
    assert str(adapter.path) == events[-1].adapter
    assert (adapter.run, adapter.mode, adapter.base_model) == ("run", "lora", str(tiny_llama))
    figures = json.loads((workspace.outputs / "run/metrics.json").read_text())
    assert figures["eval_loss_before"] == evaluations[0]
    assert figures["eval_loss"] == evaluations[-1]


def test_every_auto_is_told_and_kept(tiny_llama, workspace):
    events = train_here(config_for(tiny_llama, max_steps=1), workspace)
    (resolved,) = of_kind(events, ConfigResolved)
    chosen = {choice.setting: choice.value for choice in resolved.choices}
    assert chosen["train.learning_rate"] == 4e-4
    assert chosen["train.batch_size"] * chosen["train.grad_accum"] == 4
    kept = json.loads((workspace.outputs / "run/backend.json").read_text())
    assert kept["used"] == "bnb"
    assert "torch" in kept["versions"]
    assert {choice["setting"] for choice in kept["choices"]} == set(chosen)


def test_unsloth_falls_back_aloud(tiny_llama, workspace):
    config = config_for(tiny_llama, max_steps=1)
    tuning = config.tuning.model_copy(update={"backend": "unsloth"})
    events = train_here(config.model_copy(update={"tuning": tuning}), workspace)
    (warned,) = of_kind(events, Warned)
    assert warned.code == "backend"
    assert "started without unsloth" in warned.what
    kept = json.loads((workspace.outputs / "run/backend.json").read_text())
    assert (kept["asked"], kept["used"]) == ("unsloth", "bnb")


EXACT = [
    {"mode": "lora", "batch_size": 4, "lora": {"dropout": 0.2}},
    {"mode": "lora", "batch_size": 1, "lora": {"dropout": 0.2}},
    {"mode": "full", "batch_size": 4},
    {"mode": "full", "batch_size": 1, "packing": False},
    {"mode": "lora", "batch_size": 4, "lanes": 2},
]


@pytest.mark.parametrize("how", EXACT, ids=["lora-4", "lora-1", "full-4", "full-1", "lanes"])
def test_a_stopped_run_ends_byte_for_byte_as_the_unbroken_one(tiny_llama, workspace, how):
    config = config_for(tiny_llama, save_steps=3, **how)
    unbroken = train_here(config, workspace, "unbroken")
    found = []
    for step in (1, 5, 9):
        watch = stop_after(workspace.outputs / "run", StepLogged, step)
        stopped = train_here(config, workspace, until=watch)
        assert isinstance(stopped[-1], RunStopped)
        assert stopped[-1].step == step
        found += losses(stopped)
    resumed = train_here(config, workspace)
    assert of_kind(resumed, RunResumed) == [RunResumed(step=9, evaluated=5)]
    assert found + losses(resumed) == losses(unbroken)
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_a_killed_run_goes_on_from_its_last_checkpoint_exactly(tiny_llama, workspace):
    config = config_for(tiny_llama, save_steps=3, lora={"dropout": 0.2})
    unbroken = train_here(config, workspace, "unbroken")

    class Killed(BaseException):
        pass

    def die(event) -> None:
        if isinstance(event, StepLogged) and event.step == 8:
            raise Killed

    with pytest.raises(Killed):
        train_here(config, workspace, until=die)
    resumed = train_here(config, workspace)
    assert of_kind(resumed, RunResumed)[0].step == 6
    assert losses(resumed) == losses(unbroken)[6:]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_a_stop_in_an_evaluation_is_honoured_and_the_evaluation_done_again(tiny_llama, workspace):
    config = config_for(tiny_llama)
    unbroken = train_here(config, workspace, "unbroken")
    seen = []

    def stop(event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "evaluate":
            seen.append(event)
            if len(seen) == 2:
                (workspace.outputs / "run/stop").write_text("soon")

    stopped = train_here(config, workspace, until=stop)
    assert stopped[-1] == RunStopped(step=5)
    assert [event.step for event in of_kind(stopped, EvaluationLogged)] == [0]
    resumed = train_here(config, workspace)
    assert of_kind(resumed, EvaluationLogged) == of_kind(unbroken, EvaluationLogged)[1:]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


@pytest.mark.parametrize("phase", ["tokenise", "load"])
def test_a_stop_before_the_first_step_leaves_no_checkpoint(tiny_llama, workspace, phase):
    def stop(event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == phase:
            (workspace.outputs / "run/stop").write_text("soon")

    events = train_here(config_for(tiny_llama), workspace, until=stop)
    assert events[-1] == RunStopped(step=0)
    assert not (workspace.outputs / "run/checkpoints").exists()


def test_a_second_stop_gives_up_the_step_but_loses_none(tiny_llama, workspace, monkeypatch):
    config = config_for(tiny_llama, batch_size=1, lora={"dropout": 0.2})
    unbroken = train_here(config, workspace, "unbroken")
    forward = Learner.forward
    calls = []

    def urged(self, batch):
        if self.model.training:
            calls.append(batch)
        if len(calls) == 2 * 4 + 2:
            (workspace.outputs / "run/stop").write_text("now")
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "forward", urged)
        stopped = train_here(config, workspace)
    assert isinstance(stopped[-1], RunStopped)
    assert stopped[-1].step == len(of_kind(stopped, StepLogged)) == 2
    resumed = train_here(config, workspace)
    assert losses(stopped) + losses(resumed) == losses(unbroken)
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    tiny_llama, workspace, monkeypatch
):
    forward = Learner.forward
    steps = []

    def breaks(self, batch):
        loss = forward(self, batch)
        if self.model.training:
            steps.append(batch)
        return loss * torch.nan if len(steps) == 7 else loss

    config = config_for(tiny_llama, batch_size=4)
    unbroken = train_here(config, workspace, "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "forward", breaks)
        with pytest.raises(NotFiniteError, match="step 7 the loss is nan"):
            train_here(config, workspace)
    saved = [path.name for path in (workspace.outputs / "run/checkpoints").iterdir()]
    assert saved == ["checkpoint-6"]
    resumed = train_here(config, workspace)
    assert losses(resumed) == losses(unbroken)[6:]
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")


class SmallDevice:
    """A device that holds this many tokens at a time, unless activations are recomputed."""

    def __init__(self, capacity: int, recomputing_helps: bool = False) -> None:
        self.capacity = capacity
        self.recomputing_helps = recomputing_helps
        self.forward = Learner.forward

    def run(self, learner, batch):
        checkpointing = learner.prepared.base.model.gradient_checkpointing
        if batch.tokens > self.capacity and not (checkpointing and self.recomputing_helps):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nmore")
        return self.forward(learner, batch)


def on_a_small_device(monkeypatch, *how):
    device = SmallDevice(*how)
    monkeypatch.setattr(Learner, "forward", lambda learner, batch: device.run(learner, batch))


@pytest.mark.parametrize("lanes", [1, 2])
def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_examples(
    tiny_llama, workspace, monkeypatch, lanes
):
    eight = {"batch_size": 8, "effective_batch": 8}
    config = config_for(tiny_llama, **eight, lanes=lanes, eval_strategy="no")
    roomy = train_here(config, workspace, "roomy")
    on_a_small_device(monkeypatch, 128)
    events = train_here(config, workspace)
    warned = [event for event in of_kind(events, Warned) if event.code == "out_of_memory"]
    assert "micro-batches of" in warned[0].what
    assert losses(events) == pytest.approx(losses(roomy), rel=1e-4)
    tokens = [event.tokens for event in of_kind(events, StepLogged)]
    assert tokens == [event.tokens for event in of_kind(roomy, StepLogged)]


def test_recomputing_is_the_next_way_and_then_there_is_advice(tiny_llama, workspace, monkeypatch):
    config = config_for(tiny_llama, batch_size=1, eval_strategy="no", max_steps=1)
    with monkeypatch.context() as patch:
        on_a_small_device(patch, 5, True)
        events = train_here(config, workspace, "lean")
        assert "recomputed" in of_kind(events, Warned)[0].what
        assert isinstance(events[-1], RunFinished)
    on_a_small_device(monkeypatch, 5)
    with pytest.raises(DeviceMemoryError) as problem:
        train_here(config, workspace)
    assert "max_seq_len" in problem.value.fix


def change_data(workspace, _config):
    path = workspace.data / "processed/train.jsonl"
    path.write_text(path.read_text().replace("Paris", "Rome"))


def change_shape(_workspace, config):
    lora = config.tuning.lora.model_copy(update={"r": 8})
    return {"tuning": config.tuning.model_copy(update={"lora": lora})}


def change_seed(_workspace, config):
    return {"train": config.train.model_copy(update={"seed": 1})}


@pytest.mark.parametrize(
    ("change", "named"),
    [(change_data, "train_data was"), (change_shape, "r 8"), (change_seed, "seed was 42 and is 1")],
)
def test_a_run_that_is_no_longer_the_same_is_refused_with_both_values(
    tiny_llama, workspace, change, named
):
    config = config_for(tiny_llama)
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 2))
    changed = config.model_copy(update=change(workspace, config) or {})
    with pytest.raises(ResumeError) as problem:
        train_here(changed, workspace)
    assert named in problem.value.what


def test_a_changed_learning_rate_is_said_and_taken(tiny_llama, workspace):
    config = config_for(tiny_llama, learning_rate=1e-3)
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 2))
    train = config.train.model_copy(update={"learning_rate": 5e-4, "epochs": 3})
    events = train_here(config.model_copy(update={"train": train}), workspace)
    (warned,) = of_kind(events, Warned)
    assert "learning_rate was 0.001 and is 0.0005" in warned.what
    assert "steps was 10 and is 15" in warned.what
    assert of_kind(events, StepLogged)[-1].step == 15


def test_a_damaged_checkpoint_is_passed_over_aloud(tiny_llama, workspace):
    config = config_for(tiny_llama, save_steps=2)
    unbroken = train_here(config, workspace, "unbroken")
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 5))
    newest = workspace.outputs / "run/checkpoints/checkpoint-5"
    (newest / "optimizer.pt").write_bytes(b"")
    resumed = train_here(config, workspace)
    (warned,) = of_kind(resumed, Warned)
    assert "checkpoint-5 is passed over: optimizer.pt has 0 bytes" in warned.what
    assert of_kind(resumed, RunResumed)[0].step == 4
    assert adapter_bytes(workspace) == adapter_bytes(workspace, "unbroken")
    assert losses(resumed) == losses(unbroken)[4:]


def test_damaged_checkpoints_only_are_a_clear_refusal(tiny_llama, workspace):
    config = config_for(tiny_llama)
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 2))
    (workspace.outputs / "run/checkpoints/checkpoint-2/manifest.json").unlink()
    with pytest.raises(ResumeError, match="No checkpoint of run is whole"):
        train_here(config, workspace)


def test_a_new_run_may_go_on_from_another_ones_checkpoint(tiny_llama, workspace):
    config = config_for(tiny_llama)
    unbroken = train_here(config, workspace, "unbroken")
    train_here(config, workspace, until=stop_after(workspace.outputs / "run", StepLogged, 4))
    train = config.train.model_copy(update={"resume": "run"})
    events = train_here(config.model_copy(update={"train": train}), workspace, "second")
    assert losses(events) == losses(unbroken)[4:]
    assert adapter_bytes(workspace, "second") == adapter_bytes(workspace, "unbroken")


def test_the_best_weights_are_kept_and_given_back(tiny_llama, workspace):
    # a rate this high makes the model worse from some point on
    config = config_for(
        tiny_llama,
        learning_rate=0.3,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        save_strategy="no",
    )
    events = train_here(config, workspace)
    by_step = {e.step: e.metrics["eval_loss"] for e in of_kind(events, EvaluationLogged)}
    best = min(by_step, key=by_step.get)
    assert 0 < best < 10
    kept = workspace.outputs / f"run/checkpoints/checkpoint-{best}/adapter_model.safetensors"
    assert adapter_bytes(workspace) == kept.read_bytes()


def test_the_best_may_be_a_score_of_answers_and_more_is_better(tiny_llama, workspace, monkeypatch):
    scores = iter([0.1, 0.5, 0.3])
    monkeypatch.setattr(watch, "mean_of", lambda _questions, _texts: {"rougeL": next(scores)})
    config = config_for(tiny_llama, metric_for_best_model="rougeL", load_best_model_at_end=True)
    config = config.model_copy(update={"generate": GenerateConfig(max_new_tokens=2)})
    events = train_here(config, workspace)
    told = [event.metrics for event in of_kind(events, EvaluationLogged)]
    assert [metrics["rougeL"] for metrics in told] == [0.1, 0.5, 0.3]
    assert told[1].keys() >= {"eval_loss", "eval_perplexity"}
    figures = json.loads((workspace.outputs / "run/metrics.json").read_text())
    assert figures["best_step"] == 5
    kept = workspace.outputs / "run/checkpoints/checkpoint-5/adapter_model.safetensors"
    assert adapter_bytes(workspace) == kept.read_bytes()
    # scored, but not wanted as samples
    assert of_kind(events, SampleGenerated) == []


def test_where_nothing_is_better_than_before_that_is_what_is_left(
    tiny_llama, workspace, monkeypatch
):
    monkeypatch.setattr(watch, "mean_of", lambda _questions, _texts: {"rougeL": 0.0})
    config = config_for(
        tiny_llama, metric_for_best_model="rougeL", load_best_model_at_end=True, max_steps=2
    )
    train_here(config, workspace)
    kept = workspace.outputs / "run/checkpoints/checkpoint-0/adapter_model.safetensors"
    assert adapter_bytes(workspace) == kept.read_bytes()


def test_answers_are_scored_as_in_evaluate():
    wanted = [Example((Message("user", "?"), Message("assistant", a))) for a in ("Paris", "Rome")]
    scores = watch.mean_of(wanted, ["Paris", "Oslo", "not asked for"])
    assert (scores["exact_match"], scores["rougeL"]) == (0.5, 0.5)


def test_a_score_that_is_not_made_cannot_decide(tiny_llama, workspace):
    config = config_for(tiny_llama, metric_for_best_model="rougeL", eval_answers=0)
    with pytest.raises(ConfigError, match="eval_answers is 0"):
        train_here(config, workspace)


def test_a_loss_that_jumps_is_told_with_its_step(tiny_llama, workspace, monkeypatch):
    forward = Learner.forward
    steps = []

    def jumps(self, batch):
        loss = forward(self, batch)
        if self.model.training:
            steps.append(batch)
        return loss * 20 if len(steps) == 22 else loss

    monkeypatch.setattr(Learner, "forward", jumps)
    config = config_for(tiny_llama, batch_size=4, max_steps=24, eval_strategy="no")
    events = train_here(config, workspace)
    (warned,) = of_kind(events, Warned)
    assert warned.code == "loss_spike"
    assert warned.what.startswith("At step 22 the loss jumped to ")


def test_evaluations_without_gain_end_the_run_early(tiny_llama, workspace):
    config = config_for(
        tiny_llama,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_steps=30,
        eval_strategy="steps",
        eval_steps=1,
        early_stopping_patience=2,
    )
    events = train_here(config, workspace)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].step < 30


def test_checkpoints_beyond_the_limit_are_cleared_away(tiny_llama, workspace):
    events = train_here(config_for(tiny_llama, save_steps=1, save_total_limit=2), workspace)
    assert len(of_kind(events, CheckpointSaved)) == 10
    kept = sorted(path.name for path in (workspace.outputs / "run/checkpoints").iterdir())
    assert kept == ["checkpoint-10", "checkpoint-9"]


def test_too_little_space_is_said_before_the_first_step(tiny_llama, workspace, monkeypatch):
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000)
    )
    with pytest.raises(DiskFullError, match="Saving checkpoints needs"):
        train_here(config_for(tiny_llama), workspace)


def test_nothing_to_learn_is_a_data_error(tiny_llama, workspace):
    (workspace.data / "processed/train.jsonl").write_text("")
    with pytest.raises(DataError, match="no example with anything to learn"):
        train_here(config_for(tiny_llama), workspace)


def test_what_is_cut_or_teaches_nothing_is_counted(tiny_llama, workspace):
    path = workspace.data / "processed/train.jsonl"
    long = {"user": "Why? " * 200, "assistant": "So."}
    half = {"user": "Why?", "assistant": "So. " * 300}
    path.write_text(path.read_text() + json.dumps(long) + "\n" + json.dumps(half) + "\n")
    events = train_here(config_for(tiny_llama, max_steps=1), workspace)
    told = {event.code: event.what for event in of_kind(events, Warned)}
    assert told["cut"].startswith("2 of 26 examples are longer than 128 tokens")
    assert told["left_out"].startswith("1 of 26 examples have nothing left to learn")


def test_validation_examples_that_are_not_there_are_missed_aloud(tiny_llama, workspace):
    (workspace.data / "processed/val.jsonl").unlink()
    events = train_here(config_for(tiny_llama, max_steps=1), workspace)
    (warned,) = of_kind(events, Warned)
    assert "There is no data/processed/val.jsonl" in warned.what
    assert of_kind(events, EvaluationLogged) == []


def test_an_unknown_metric_is_refused_before_anything_is_loaded(tiny_llama, workspace):
    config = config_for(tiny_llama, metric_for_best_model="rouge")
    with pytest.raises(ConfigError, match="rougeL"):
        train_here(config, workspace)
    assert list((workspace.outputs / "run").iterdir()) == []


def test_a_full_tuning_leaves_a_whole_model(tiny_llama, workspace):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train_here(config_for(tiny_llama, mode="full", max_steps=2), workspace)
    folder = newest_adapter(workspace).path
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(tiny_llama)
    changed = model.model.layers[0].mlp.up_proj.weight - before.model.layers[0].mlp.up_proj.weight
    assert 0 < changed.abs().max() < 1e-2
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"


def test_plain_peft_opens_the_adapter_and_computes_the_same(tiny_llama, workspace):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sftplay_ui.engine.worker.model.load import load_with_adapter, without_peft_noise

    train_here(config_for(tiny_llama, learning_rate=1e-2), workspace)
    folder = workspace.adapters / "run"
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits.detach().clone()
    with without_peft_noise():
        plain = PeftModel.from_pretrained(base, folder)
    ours = load_with_adapter(tiny_llama, folder, dtype=torch.float32, device="cpu")
    assert torch.equal(plain(ids).logits, ours(ids).logits)
    assert (plain(ids).logits - before).abs().max() > 0.01
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "sftplay.json",
    } <= names
    assert {"tokenizer.json", "chat_template.jinja"} <= names
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pkl"}
