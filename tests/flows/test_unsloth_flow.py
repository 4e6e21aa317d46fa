"""Training with the backend unsloth through real workers: with a double, and with the real one.

The real one is installed on request only, since that takes minutes and the network:
`SFTPLAY_TEST_UNSLOTH=1 python launch.py test tests/flows/test_unsloth_flow.py` makes an environment
of its own in the cache; a path to an interpreter that has unsloth takes that one instead.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from sftplay_ui.backend_environment import prepare_unsloth
from sftplay_ui.engine.adapters import newest_adapter
from sftplay_ui.engine.backends import PYTHON
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.events import (
    ConfigResolved,
    EvaluationLogged,
    Event,
    PhaseStarted,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStopped,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.extension import extend_run
from sftplay_ui.engine.runs import Run, has_left, resume_run, start_run
from sftplay_ui.engine.workspace import user_cache
from sftplay_ui.environment import SetupError
from tests import unsloth_double
from tests.training import config_for, of_kind, write_examples

ROOT = Path(__file__).parents[2]
REAL = "SFTPLAY_TEST_UNSLOTH"
posix_only = pytest.mark.skipif(os.name == "nt", reason="the double is a shell script")


@pytest.fixture(autouse=True)
def project(workspace, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_examples(workspace)
    shutil.copytree(ROOT / "chat_templates", workspace.templates, dirs_exist_ok=True)
    return workspace


def follow(run: Run) -> list:
    return list(run.follow(poll_seconds=0.05))


def receipt_of(run: Run) -> dict:
    return json.loads((run.folder / "backend.json").read_text())


def asking_unsloth(model: Path, **settings):
    return config_for(model, tuning={"backend": "unsloth"}, eval_strategy="no", **settings)


@posix_only
def test_a_run_is_trained_by_unsloth_and_kept_from_every_other_backend(
    tiny_llama, workspace, tmp_path, monkeypatch
):
    python = unsloth_double.build(tmp_path / "env")
    monkeypatch.setenv(PYTHON, str(python))
    run = start_run(asking_unsloth(tiny_llama, max_steps=3, save_steps=3), workspace)
    events = follow(run)
    assert isinstance(events[-1], RunFinished)
    assert not of_kind(events, Warned)
    kept = receipt_of(run)
    assert (kept["asked"], kept["used"]) == ("unsloth", "unsloth")
    assert kept["versions"]["unsloth"] == "2026.10.9"
    assert json.loads((run.folder / "identity.json").read_text())["backend"] == "unsloth"
    assert newest_adapter(workspace).run == run.name
    python.unlink()
    with pytest.raises(ResumeError, match="began with unsloth"):
        extend_run(run, 1)
    assert not run.config().train.extended_by


@posix_only
def test_a_start_answers_at_once_and_unsloth_is_tried_by_the_run_itself(
    tiny_llama, workspace, tmp_path, monkeypatch
):
    waits = (
        "import os, sys, time\n"
        f"while 'try_unsloth' in sys.argv[0] and not os.path.exists({str(tmp_path / 'go')!r}):\n"
        "    time.sleep(0.05)"
    )
    monkeypatch.setenv(PYTHON, str(unsloth_double.build(tmp_path / "env", before=waits)))
    config = asking_unsloth(tiny_llama, max_steps=2)
    stopped = start_run(config, workspace)
    run_until(stopped, PhaseStarted)
    assert (receipt_of(stopped)["used"], stopped.state()) == ("untried", "running")
    stopped.request_stop()
    assert follow(stopped)[-1].step == 0
    assert has_left(stopped)
    run = start_run(config, workspace)
    assert run_until(run, PhaseStarted).phase == "try_backend"
    (tmp_path / "go").touch()
    assert isinstance(follow(run)[-1], RunFinished)
    assert receipt_of(run)["used"] == "unsloth"


def run_until(run: Run, kind: type) -> Event:
    """Follow a run until it has told this."""
    return next(event for event in run.follow(poll_seconds=0.05) if isinstance(event, kind))


@posix_only
def test_unsloth_that_gives_up_before_the_first_step_is_replaced_by_bnb(
    tiny_llama, workspace, tmp_path, monkeypatch
):
    fails = "import sys\nif 'try_unsloth' not in sys.argv[0]: raise RuntimeError('no such kernel')"
    monkeypatch.setenv(PYTHON, str(unsloth_double.build(tmp_path / "env", before=fails)))
    run = start_run(asking_unsloth(tiny_llama, max_steps=2), workspace)
    events = follow(run)
    assert isinstance(events[-1], RunFinished)
    (warned,) = of_kind(events, Warned)
    assert warned.code == "backend"
    assert "RuntimeError: no such kernel" in warned.what
    assert (receipt_of(run)["asked"], receipt_of(run)["used"]) == ("unsloth", "bnb")
    assert json.loads((run.folder / "identity.json").read_text())["backend"] == "bnb"
    assert [step.step for step in of_kind(events, StepLogged)] == [1, 2]
    (resolved,) = of_kind(events, ConfigResolved)
    assert {choice.setting: choice.value for choice in resolved.choices}["tuning.backend"] == "bnb"


@pytest.fixture(scope="module")
def real_python() -> Path:
    wanted = os.environ.get(REAL)
    if not wanted:
        pytest.skip(f"installs unsloth, for minutes: set {REAL}=1, or to an interpreter with it")
    if wanted != "1":
        return Path(wanted)
    root = Path(os.environ.get("SFTPLAY_TEST_CACHE") or user_cache()) / "unsloth-test"
    root.mkdir(parents=True, exist_ok=True)
    for path in ROOT.glob("requirements-unsloth*.txt"):
        shutil.copy(path, root)
    try:
        return prepare_unsloth(root, print).python
    except SetupError as problem:
        pytest.skip(f"unsloth cannot be installed here: {problem}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_the_real_unsloth_learns_what_bnb_learns(
    tiny_llama, workspace, real_python, monkeypatch, mode
):
    monkeypatch.setenv(PYTHON, str(real_python))
    how = {"mode": mode, "epochs": 4, "bf16": "auto", "sample_prompts": 1, "learning_rate": 5e-3}
    losses = {}
    for backend in ("unsloth", "bnb"):
        run = start_run(config_for(tiny_llama, tuning={"backend": backend}, **how), workspace)
        events = follow(run)
        assert isinstance(events[-1], RunFinished), events[-1]
        assert receipt_of(run)["used"] == backend, receipt_of(run)["why"]
        losses[backend] = [e.metrics["eval_loss"] for e in of_kind(events, EvaluationLogged)]
    print(losses)
    assert losses["unsloth"][0] == pytest.approx(losses["bnb"][0], rel=0.01)
    assert losses["unsloth"][-1] == pytest.approx(losses["bnb"][-1], rel=0.05)
    assert losses["unsloth"][-1] < losses["unsloth"][0] - 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_of_the_real_unsloth_goes_on_by_unsloth_and_not_by_bnb(
    tiny_llama, workspace, real_python, monkeypatch
):
    monkeypatch.setenv(PYTHON, str(real_python))
    run = start_run(asking_unsloth(tiny_llama, epochs=60, save_steps=2), workspace)
    for event in run.follow(poll_seconds=0.05):
        if isinstance(event, StepLogged) and event.step == 2:
            run.request_stop()
    assert isinstance(event, RunStopped), event
    asked = asking_unsloth(tiny_llama, max_steps=event.step + 1, save_steps=2)
    bnb = asked.model_copy(update={"tuning": config_for(tiny_llama).tuning})
    (run.folder / "config.yaml").write_text(config_to_yaml(bnb))
    failed = follow(resume_run(run))[-1]
    assert isinstance(failed, RunFailed)
    assert "backend was 'unsloth' and is 'bnb'" in failed.what
    (run.folder / "config.yaml").write_text(config_to_yaml(asked))
    events = follow(resume_run(run))
    assert of_kind(events, RunResumed)[-1].step == event.step
    assert isinstance(events[-1], RunFinished), events[-1]
