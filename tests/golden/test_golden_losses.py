"""The maths of training, held: a change that should not alter it leaves these losses untouched.

After a change that should: delete the file, run the tests once (they write it anew and fail), and
say in the commit why.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.events import EvaluationLogged, RunFinished, StepLogged
from sftplay_ui.engine.runs import Run
from tests.training import config_for, of_kind, train_here, write_examples

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("losses.json")
RUNS = {
    "lora": {},
    "lora, padded, accumulated": {"packing": False, "batch_size": 1},
    "lora with dropout": {"lora": {"dropout": 0.1}},
    "packed": {"packing": True, "batch_size": 4},
    "lanes": {"lanes": 2, "batch_size": 4},
    "tricks": {
        "lora": {"use_rslora": True, "use_dora": True},
        "neftune_noise_alpha": 5.0,
        "label_smoothing_factor": 0.1,
    },
    "extended": {"epochs": 1, "extended_by": [0.6]},
    "full": {"mode": "full", "weight_decay": 0.1},
    "linear, clipped, warmed up": {
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.1,
        "warmup_steps": 3,
    },
}


# in processes of their own: bitsandbytes warns when it is imported, and ranks are processes
IN_PROCESSES = {"qlora": (1, {"mode": "qlora"}), "two ranks": (2, {"batch_size": 1})}


@pytest.fixture(autouse=True)
def project(workspace):
    write_examples(workspace)
    shutil.copytree(ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_before(tiny_llama, workspace, name):
    compare(name, train_here(config_for(tiny_llama, learning_rate=2e-3, **RUNS[name]), workspace))


def test_losses_of_an_encoder_decoder_are_those_of_before(tiny_t5, workspace):
    config = config_for(tiny_t5, mode="full", learning_rate=2e-3)
    compare("encoder-decoder", train_here(config, workspace))


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_losses_of_workers_are_those_of_before(tiny_llama, workspace, name):
    ranks, how = IN_PROCESSES[name]
    folder = workspace.outputs / "run"
    folder.mkdir()
    config = config_for(tiny_llama, learning_rate=2e-3, **how)
    (folder / "config.yaml").write_text(config_to_yaml(config))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [
            *(sys.executable, *(launcher if ranks > 1 else [])),
            *("-m", "sftplay_ui.engine.worker", str(folder)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    events = Run(folder).events()
    assert isinstance(events[-1], RunFinished), (events[-1:], done.stderr[-3000:])
    compare(name, events)


def compare(name: str, events) -> None:
    """Hold a run's losses against the kept ones, or keep them where there are none."""
    found = {
        "train": [round(event.loss, 6) for event in of_kind(events, StepLogged)],
        "eval": [
            round(event.metrics["eval_loss"], 6) for event in of_kind(events, EvaluationLogged)
        ],
    }
    known = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if name not in known:
        GOLDEN.write_text(json.dumps({**known, name: found}, indent=1) + "\n", encoding="utf-8")
        pytest.fail(f"{GOLDEN.name} had no losses for {name!r}; they are written now")
    assert found["train"] == pytest.approx(known[name]["train"], rel=1e-5)
    assert found["eval"] == pytest.approx(known[name]["eval"], rel=1e-5)
