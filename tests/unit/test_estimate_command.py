"""`launch.py estimate`: memory and time before anything is downloaded or started."""

import json
import sys
from pathlib import Path

import pytest

from sftplay_ui.cli import main
from sftplay_ui.engine.backends import PYTHON
from sftplay_ui.engine.workspace import Workspace
from tests.model_configs import QWEN

KEYS = {
    "peak_allocated_bytes",
    "device_bytes",
    "categories",
    "verdict",
    "seconds_per_epoch",
    "largest_batch",
    "changes",
}


def run(workspace: Workspace, *arguments: str) -> int:
    return main(["estimate", "--workspace", str(workspace.root), *arguments])


def model_folder(workspace: Workspace) -> str:
    """Leave a folder with a config.json and no weights."""
    folder = workspace.root / "models" / "big"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN["Qwen2.5-3B"]), encoding="utf-8")
    return "models/big"


def test_the_starter_is_estimated_before_it_is_here(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value.keys() >= KEYS
    assert value["parameters"] == 134_515_008
    assert value["seconds_per_epoch"] is None


def test_a_card_that_is_not_here_can_be_asked_about(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    name = model_folder(workspace)
    settings = ["--set", f"model.name={name}", "--set", "train.batch_size=1"]
    assert run(workspace, *settings, "--card", "8", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["free_bytes"] == 8 << 30
    assert value["categories"]["quant_state"] > 0


def test_the_table_for_people_has_a_verdict_the_parts_and_what_to_change(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    name = model_folder(workspace)
    run(workspace, "--set", f"model.name={name}", "--set", "tuning.mode=full", "--card", "8")
    text = capsys.readouterr().out
    assert text.startswith("Does not fit: ")
    assert "optimizer" in text
    assert "What saves most:" in text
    assert "not measured" in text


def test_with_examples_and_tokenizer_here_the_time_is_told(
    workspace: Workspace, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace.data / "processed" / "train.jsonl"
    path.parent.mkdir()
    example = {"system": "", "user": "Why?", "assistant": "Because."}
    path.write_text(json.dumps(example) + "\n", encoding="utf-8")
    assert run(workspace, "--set", f"model.name={tiny_llama}", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["seconds_per_epoch"] >= 0
    assert "guess" in value["time_source"]


def test_what_is_only_reckoned_for_unsloth_is_said_and_whose_figures_they_are(
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings = ["--set", f"model.name={model_folder(workspace)}", "--set", "tuning.backend=unsloth"]
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    run(workspace, *settings, "--card", "8")
    assert "the figures of bnb, which would train instead" in capsys.readouterr().out
    monkeypatch.setenv(PYTHON, sys.executable)
    run(workspace, *settings, "--card", "8")
    assert "Reckoned as for bnb" in capsys.readouterr().out
    # what bnb is left to do anyway needs no such word
    run(workspace, *settings, "--set", "tuning.mode=full", "--card", "8")
    assert "bnb" not in capsys.readouterr().out


def test_a_model_that_cannot_be_asked_for_is_an_expected_failure(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--set", "model.name=nobody/nothing") == 1
    errors = capsys.readouterr().err
    assert "nobody/nothing" in errors
    assert "fix: " in errors
