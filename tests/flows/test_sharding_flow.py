"""Weights spread over two processes (FSDP over gloo): they learn, save and go on as one would.

What takes real processes happens once, in a fixture: several runs go through the same two of them.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.events import (
    ConfigResolved,
    EvaluationLogged,
    RunFinished,
    RunResumed,
    SampleGenerated,
    StepLogged,
)
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace
from tests.golden.test_golden_losses import GOLDEN, compare
from tests.training import adapter_bytes, config_for, of_kind, train_here, write_examples

ROOT = Path(__file__).parents[2]
# what `accelerate launch` hands on of a configuration with distributed_type FSDP
ACCELERATE = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
LORA = {"learning_rate": 2e-3}
FULL = {**LORA, "mode": "full", "weight_decay": 0.1, "sharding": "fsdp"}
# three examples a step: the second process has one pass less to take
UNEVEN = {
    **LORA,
    "lora": {"dropout": 0.2},
    "epochs": 1,
    "effective_batch": 3,
    "batch_size": 1,
    "save_steps": 3,
    "gradient_checkpointing": True,
    "sharding": "fsdp",
}
# so high a rate that nothing is better than what was there before
BEST = {
    **FULL,
    "learning_rate": 0.3,
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
}
RUNS = {
    # the first of all: what a launcher asks for is taken up once
    "by accelerate": LORA,
    "killed": UNEVEN,
    "full": FULL,
    "unbroken": UNEVEN,
    "stopped": {**FULL, "sample_prompts": 2},
    "best": BEST,
    "begun alone": FULL,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_llama) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("spread"))
    for folder in (workspace.outputs, workspace.adapters, workspace.templates):
        folder.mkdir()
    write_examples(workspace)
    shutil.copytree(ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)
    for name, how in RUNS.items():
        folder = workspace.outputs / name
        folder.mkdir()
        (folder / "config.yaml").write_text(config_to_yaml(config_for(tiny_llama, **how)))
    begin_alone(workspace, config_for(tiny_llama, **FULL))
    learn_together(workspace, ["killed", *RUNS, "stopped"])
    return workspace


def begin_alone(workspace: Workspace, config) -> None:
    """Let one process take a step and stop."""

    def stop(event) -> None:
        if isinstance(event, StepLogged):
            (workspace.outputs / "begun alone" / "stop").touch()

    train_here(config, workspace, "begun alone", until=stop)


def learn_together(workspace: Workspace, names) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    folders = [str(workspace.outputs / name) for name in names]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.together", port, *folders],
        cwd=ROOT,
        env={**os.environ, **ACCELERATE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def record(workspace: Workspace, name: str) -> list:
    return Run(workspace.outputs / name).events()


def losses(events) -> list[float]:
    found = [event.loss for event in of_kind(events, StepLogged)]
    return found + [event.metrics["eval_loss"] for event in of_kind(events, EvaluationLogged)]


def told_sharding(events):
    (resolved,) = of_kind(events, ConfigResolved)
    (told,) = [choice for choice in resolved.choices if choice.setting == "train.sharding"]
    return told


@pytest.mark.parametrize(("name", "alone"), [("by accelerate", "lora"), ("full", "full")])
def test_spread_weights_learn_what_one_process_learns(project, name, alone):
    events = record(project, name)
    assert isinstance(events[-1], RunFinished), events[-1]
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))[alone]
    assert losses(events) == pytest.approx(kept["train"] + kept["eval"], rel=1e-4)
    compare(f"spread, {alone}", events)
    told = told_sharding(events)
    assert told.value == "fsdp"
    assert "each of 2 processes" in told.reason


def test_a_killed_run_goes_on_with_spread_weights_bit_for_bit(project):
    events = record(project, "killed")
    assert [event.step for event in of_kind(events, RunResumed)] == [3]
    assert losses(events) == losses(record(project, "unbroken"))
    assert adapter_bytes(project, "killed") == adapter_bytes(project, "unbroken")


def test_a_stopped_run_goes_on_with_spread_weights_bit_for_bit(project):
    events = record(project, "stopped")
    assert [event.step for event in of_kind(events, RunResumed)] == [1]
    assert losses(events) == losses(record(project, "full"))
    assert adapter_bytes(project, "stopped") == adapter_bytes(project, "full")


def test_samples_are_written_by_all_and_told_once(project):
    samples = of_kind(record(project, "stopped"), SampleGenerated)
    asked = [(sample.step, sample.prompt) for sample in samples]
    assert len(set(asked)) == len(asked) == 2 * 3


def test_the_weights_of_the_best_evaluation_are_left_whole(project, tiny_llama):
    from safetensors.torch import load_file

    before, after = of_kind(record(project, "best"), EvaluationLogged)
    assert before.metrics["eval_loss"] < after.metrics["eval_loss"]
    left = load_file(project.adapters / "best" / "model.safetensors")
    original = load_file(tiny_llama / "model.safetensors")
    assert set(left) == set(original)
    assert all((left[name] == original[name].float()).all() for name in left)


def test_one_process_goes_on_from_spread_weights(project, tiny_llama):
    config = config_for(tiny_llama, **{**UNEVEN, "resume": "unbroken", "extended_by": [0.3]})
    events = train_here(config, project, "goes on alone")
    assert isinstance(events[-1], RunFinished)
    (resumed,) = of_kind(events, RunResumed)
    assert resumed.step == of_kind(record(project, "unbroken"), StepLogged)[-1].step
    assert told_sharding(events).value == "no"


def test_spread_weights_go_on_where_one_process_stopped(project):
    events = record(project, "begun alone")
    (resumed,) = of_kind(events, RunResumed)
    found = [event.loss for event in of_kind(events, StepLogged)]
    kept = [event.loss for event in of_kind(record(project, "full"), StepLogged)]
    assert found == pytest.approx(kept[resumed.step :], rel=1e-4)
