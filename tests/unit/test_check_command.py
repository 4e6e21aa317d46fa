"""`launch.py check`: verdicts that agree with what the real commands would say."""

import errno
import json

import pytest

from sftplay_ui.cli import main
from sftplay_ui.engine.workspace import Workspace

Capture = pytest.CaptureFixture[str]


def verdict(workspace: Workspace, capsys: Capture, kind: str, path: str) -> tuple[str, str]:
    """Ask for a verdict; give it with its messages in one text."""
    arguments = ["check", "--kind", kind, path, "--workspace", str(workspace.root), "--json"]
    assert main(arguments) == 0
    value = json.loads(capsys.readouterr().out)
    return value["verdict"], " ".join(value["messages"])


@pytest.mark.parametrize("kind", ["data", "config", "template", "adapter", "model", "checkpoint"])
@pytest.mark.parametrize("path", ["nothing/here/at/all", "a\0b", "x" * 5000])
def test_what_is_not_there_is_rejected_in_words(
    workspace: Workspace, capsys: Capture, kind: str, path: str
) -> None:
    found, said = verdict(workspace, capsys, kind, path)
    assert found == "reject"
    assert said


def test_a_config_whose_run_could_not_be_started_is_rejected(
    workspace: Workspace, capsys: Capture
) -> None:
    (workspace.root / "mine.yaml").write_text("run_name: ../out\n", encoding="utf-8")
    found, said = verdict(workspace, capsys, "config", "mine.yaml")
    assert found == "reject"
    assert "'../out' cannot be the name of a run" in said


def test_a_table_with_a_header_alone_is_told_to_have_no_rows(
    workspace: Workspace, capsys: Capture
) -> None:
    (workspace.root / "header.csv").write_text("question,answer\n", encoding="utf-8")
    found, said = verdict(workspace, capsys, "data", "header.csv")
    assert found == "reject"
    assert "no readable row" in said
    assert "Choose a file that has rows" in said


def test_a_wrong_configuration_is_one_problem_of_the_set_up(
    workspace: Workspace, capsys: Capture
) -> None:
    arguments = ["check", "--workspace", str(workspace.root), "--config", "none.yaml", "--json"]
    assert main(arguments) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "There is no file none.yaml" in problem


def test_a_file_name_that_is_no_utf_8_can_be_told(workspace: Workspace, capsys: Capture) -> None:
    found, said = verdict(workspace, capsys, "data", "caf\udce9.csv")
    assert found == "reject"
    assert "does not exist" in said


def test_what_the_system_refuses_is_told_in_words(
    workspace: Workspace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/mnt/data")

    monkeypatch.setattr("sftplay_ui.commands.check.check_setup", refuse)
    assert main(["check", "--workspace", str(workspace.root), "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["what"] == "/mnt/data: Read-only file system."
    assert told.err.startswith("error: /mnt/data: Read-only file system.\nfix: ")


def test_a_workspace_that_cannot_be_written_is_a_problem(
    workspace: Workspace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["check", "--workspace", str(workspace.root), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("Nothing can be written" in problem for problem in problems)


def test_a_question_that_is_learned_and_asked_is_a_warning_of_the_set_up(
    workspace: Workspace, capsys: Capture
) -> None:
    folder = workspace.data / "processed"
    folder.mkdir(parents=True)
    line = json.dumps({"user": "Why is the sky blue over there?", "assistant": "Air."}) + "\n"
    other = json.dumps({"user": "Who wrote the old songs of the sea?", "assistant": "We."}) + "\n"
    (folder / "train.jsonl").write_text(other + line, encoding="utf-8")
    (folder / "test.jsonl").write_text(line, encoding="utf-8")
    arguments = ["check", "--workspace", str(workspace.root), "--json"]
    assert main(arguments) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "The same question in train and in val or test: 1, first at test.jsonl:1" in warning
    (folder / "test.jsonl").unlink()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
