"""How long a run takes: from runs like it, from memory, or as a guess that says so."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.events import ConfigResolved, EventWriter, RunStarted, StepLogged
from sftplay_ui.engine.memory import forecast as forecasting
from sftplay_ui.engine.memory.forecast import Speed, Work, find_speed, forecast, speeds_file
from sftplay_ui.engine.memory.need import need
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.workspace import Workspace
from tests.model_configs import OTHERS

SHAPE = ModelShape.of(OTHERS["SmolLM2-135M"])
DEVICE = DeviceInfo("cpu", "cpu", "CPU, 2 cores", 1 << 35, 1 << 34, True, "in a test")
MEASURED = Speed(100.0, True, "measured")


def resolved(config: RunConfig) -> Resolved:
    return need(config, SHAPE, DEVICE).resolved


def speed(config: RunConfig, workspace: Workspace, *, calibrate: bool = False) -> Speed:
    decided = resolved(config)
    return find_speed(
        config, SHAPE, DEVICE, resolved=decided, workspace=workspace, calibrate=calibrate
    )


def finished_run(
    workspace: Workspace, name: str, speeds: list[float], *, device: str = DEVICE.name
) -> Path:
    """Leave the folder of a training run that logged these speeds."""
    config = RunConfig(run_name=name)
    folder = workspace.outputs / name
    folder.mkdir()
    (folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    (folder / "worker.json").write_text("{}", encoding="utf-8")
    events = EventWriter(folder / "events.jsonl")
    events.write(RunStarted(job="train", versions={}, device=device))
    decided = resolved(config)
    events.write(
        ConfigResolved(
            choices=(
                Choice("tuning.mode", decided.mode, "in a test"),
                Choice("precision", decided.precision, "in a test"),
                Choice("train.gradient_checkpointing", decided.gradient_checkpointing, "in a test"),
            )
        )
    )
    for step, tokens_per_second in enumerate(speeds, start=1):
        events.write(
            StepLogged(
                step=step,
                total_steps=len(speeds),
                epoch=1.0,
                loss=1.0,
                learning_rate=1e-4,
                grad_norm=1.0,
                tokens=100,
                learned_tokens=50,
                tokens_per_second=tokens_per_second,
                peak_bytes=0,
            )
        )
    events.close()
    return folder


def test_time_follows_from_tokens_and_speed() -> None:
    config = RunConfig.model_validate({"train": {"epochs": 3}})
    found = forecast(config, work=Work(240, 48_000), speed=MEASURED, effective_batch=8)
    assert found.seconds_per_epoch == 480
    assert found.seconds_per_step == 16
    assert found.total_seconds == 3 * 480


def test_max_steps_cuts_the_time_as_it_cuts_the_run() -> None:
    config = RunConfig.model_validate({"train": {"max_steps": 5}})
    found = forecast(config, work=Work(240, 48_000), speed=MEASURED, effective_batch=8)
    assert found.total_seconds == 5 * 16


def test_a_run_like_it_tells_the_speed_without_its_first_steps(workspace: Workspace) -> None:
    finished_run(workspace, "earlier", [1, 1, 500, 520, 540])
    found = speed(RunConfig(), workspace)
    assert (found.tokens_per_second, found.measured) == (520, True)
    assert "earlier" in found.source


def test_a_speed_outlives_its_run(workspace: Workspace, tmp_path: Path) -> None:
    finished_run(workspace, "earlier", [500, 500, 500])
    speed(RunConfig(), workspace)
    elsewhere = speed(RunConfig(), Workspace(tmp_path / "elsewhere"))
    assert (elsewhere.tokens_per_second, elsewhere.measured) == (500, True)


def test_a_run_on_another_device_or_of_another_mode_tells_nothing(workspace: Workspace) -> None:
    finished_run(workspace, "on-a-card", [9000.0] * 5, device="Some card")
    finished_run(workspace, "lora", [500.0] * 5)
    assert speed(RunConfig(), workspace).tokens_per_second == 500
    other_mode = RunConfig.model_validate({"tuning": {"mode": "full"}})
    assert not speed(other_mode, workspace).measured


def test_without_any_run_a_guess_is_called_a_guess(workspace: Workspace) -> None:
    found = speed(RunConfig(), workspace)
    assert not found.measured
    assert "guess" in found.source
    assert found.tokens_per_second > 0


def test_an_untried_machine_is_measured_once_and_the_forecast_goes_by_it(
    workspace: Workspace,
) -> None:
    guessed = speed(RunConfig(), workspace)
    reckoned = speed(RunConfig(), workspace, calibrate=True)
    assert "was measured" in reckoned.source
    assert reckoned.tokens_per_second != guessed.tokens_per_second
    # remembered: asked again it is the same to the last digit, though nobody asks to measure
    assert speed(RunConfig(), workspace) == reckoned
    finished_run(workspace, "earlier", [500.0] * 3)
    assert speed(RunConfig(), workspace, calibrate=True).tokens_per_second == 500


def test_a_machine_that_cannot_be_measured_is_guessed_and_said_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasting, "PRODUCTS", "sftplay_ui.engine.worker.nothing_of_the_kind")
    found = speed(RunConfig(), workspace, calibrate=True)
    assert "guess" in found.source


@pytest.mark.parametrize("content", ["", "[]", "{broken", '{"a": "fast"}'])
def test_a_damaged_memory_of_speeds_counts_as_none(workspace: Workspace, content: str) -> None:
    speeds_file().write_text(content, encoding="utf-8")
    assert not speed(RunConfig(), workspace).measured
    finished_run(workspace, "earlier", [500.0] * 3)
    assert speed(RunConfig(), workspace).measured
    assert 500 in json.loads(speeds_file().read_text(encoding="utf-8")).values()


def test_the_speed_of_one_backend_tells_nothing_of_the_other(workspace: Workspace) -> None:
    finished_run(workspace, "bnb", [500.0] * 5)
    assert speed(RunConfig(), workspace).tokens_per_second == 500
    found = speed(RunConfig.model_validate({"tuning": {"backend": "unsloth"}}), workspace)
    assert not found.measured
    assert "as for bnb" in found.source
