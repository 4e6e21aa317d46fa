"""What the project works with, as Data and Style hand it on to Train."""

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.project import CurrentData, current_data, project_file, set_current_data
from sftplay_ui.engine.workspace import Workspace


def write(workspace: Workspace, name: str) -> str:
    path = workspace.data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n", encoding="utf-8")
    return f"data/{name}"


def test_a_new_project_has_no_current_data(workspace: Workspace) -> None:
    assert current_data(workspace) is None


def test_what_was_set_is_read_back(workspace: Workspace) -> None:
    current = CurrentData(
        train_path=write(workspace, "styled/train.jsonl"),
        system="Be brief.",
        template_path="t.jinja",
    )
    set_current_data(workspace, current)
    assert current_data(workspace) == current


def test_a_configuration_takes_over_files_template_and_style(workspace: Workspace) -> None:
    config = CurrentData(val_path="v.jsonl", template_path="t.jinja", system="Be brief.").apply(
        RunConfig()
    )
    assert (config.data.val_path, config.data.template_path) == ("v.jsonl", "t.jinja")
    assert config.style.system == "Be brief."
    assert config.train == RunConfig().train


def test_files_that_are_gone_count_as_none(workspace: Workspace) -> None:
    set_current_data(workspace, CurrentData(train_path="data/gone/train.jsonl"))
    assert current_data(workspace) is None


def test_a_damaged_file_counts_as_none(workspace: Workspace) -> None:
    for text in ("{", "[]", "\x00"):
        project_file(workspace).write_text(text, encoding="utf-8")
        assert current_data(workspace) is None


def test_unknown_keys_of_a_newer_version_are_passed_over(workspace: Workspace) -> None:
    write(workspace, "processed/train.jsonl")
    project_file(workspace).write_text('{"system": "x", "new": 1, "rule": 3}', encoding="utf-8")
    assert current_data(workspace) == CurrentData(system="x")
