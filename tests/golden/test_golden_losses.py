"""The maths of training, held: a change that should not alter it leaves these losses untouched.

After a change that should: delete the file, run the tests once (they write it anew and fail), and
say in the commit why.
"""

import json
import shutil
from pathlib import Path

import pytest

from sftplay_ui.engine.events import EvaluationLogged, StepLogged
from tests.training import config_for, of_kind, train_here, write_examples

GOLDEN = Path(__file__).with_name("losses.json")
RUNS = {
    "lora": {},
    "lora, padded, accumulated": {"packing": False, "batch_size": 1},
    "lora with dropout": {"lora": {"dropout": 0.1}},
    "full": {"mode": "full", "weight_decay": 0.1},
    "linear, clipped, warmed up": {
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.1,
        "warmup_steps": 3,
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_before(tiny_llama, workspace, name):
    write_examples(workspace)
    templates = Path(__file__).parents[2] / "chat_templates"
    shutil.copytree(templates, workspace.templates, dirs_exist_ok=True)
    events = train_here(config_for(tiny_llama, learning_rate=2e-3, **RUNS[name]), workspace)
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
