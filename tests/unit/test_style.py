"""Style: what becomes of each example, and files that appear together or not at all."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.config import RunConfig, StyleConfig
from sftplay_ui.engine.data.examples import Example, Message, RenderedExample, read_examples
from sftplay_ui.engine.errors import ConfigError, DataError
from sftplay_ui.engine.style.apply import apply_style, style_files, style_text
from sftplay_ui.engine.workspace import Workspace

TURN = (Message("user", "Q"), Message("assistant", "One. Two. Three."))
PLAIN = Example(TURN)
WITH_SYSTEM = Example((Message("system", "Old."), *TURN))
WITH_BLANK = Example((Message("system", " "), *TURN))


def write_split(folder: Path, split: str, *examples: Example | RenderedExample) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(example.to_record()) + "\n" for example in examples]
    (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def config(**style: object) -> RunConfig:
    return RunConfig(style=StyleConfig.model_validate(style))


def system_of(example: Example, how: str, text: str = "New.") -> str | None:
    styled = apply_style(example, StyleConfig.model_validate({"system": text, "how": how}))
    assert isinstance(styled, Example)
    assert styled.messages[-2:] == TURN
    return styled.system


@pytest.mark.parametrize(
    ("how", "plain", "blank", "existing"),
    [
        ("inject", "New.", "New.", "Old."),
        ("append", "New.", "New.", "Old.\nNew."),
        ("override", "New.", "New.", "New."),
    ],
)
def test_each_way_of_styling(how: str, plain: str, blank: str, existing: str) -> None:
    assert system_of(PLAIN, how) == plain
    assert system_of(WITH_BLANK, how) == blank
    assert system_of(WITH_SYSTEM, how) == existing


def test_appending_twice_says_it_once() -> None:
    style = StyleConfig(rule="concise", how="append")
    once = apply_style(WITH_SYSTEM, style)
    assert apply_style(once, style) == once
    assert apply_style(apply_style(PLAIN, style), style) == apply_style(PLAIN, style)


def test_no_style_changes_nothing_and_a_rendered_pair_has_no_place_for_one() -> None:
    assert apply_style(WITH_SYSTEM, StyleConfig(how="override")) == WITH_SYSTEM
    pair = RenderedExample("Q", "A")
    assert apply_style(pair, StyleConfig(system="New.")) == pair


def test_prompt_and_rule_are_said_one_after_the_other() -> None:
    assert style_text(StyleConfig(system=" Be kind. ", rule="concise")) == (
        "Be kind.\nAnswer in at most two sentences."
    )


def test_files_are_written_beside_the_processed_ones(workspace: Workspace) -> None:
    processed = workspace.data / "processed"
    write_split(processed, "train", PLAIN, WITH_SYSTEM)
    write_split(processed, "val", PLAIN)
    before = (processed / "train.jsonl").read_bytes()
    report = style_files(config(rule="concise", splits=["train"]), workspace)
    styled = workspace.data / "processed_with_style"
    assert [e.system for e in read_examples(styled / "train.jsonl") if isinstance(e, Example)] == [
        "Answer in at most two sentences.",
        "Old.",
    ]
    assert (styled / "val.jsonl").read_bytes() == (processed / "val.jsonl").read_bytes()
    assert (processed / "train.jsonl").read_bytes() == before
    assert sorted(path.name for path in styled.iterdir()) == ["train.jsonl", "val.jsonl"]
    answer = report.to_json()
    assert (answer["rows"], answer["changed"]) == (3, 1)
    assert answer["paths"] == {
        "train": "data/processed_with_style/train.jsonl",
        "val": "data/processed_with_style/val.jsonl",
    }
    (found,) = report.adherence
    assert (found.check, found.broken, found.answers) == ("at most 2 sentences", 2, 2)
    assert "100% of the answers (2 of 2) break it: at most 2 sentences." in report.to_text()
    json.dumps(answer)


def test_a_broken_line_leaves_the_earlier_files_untouched(workspace: Workspace) -> None:
    processed, styled = workspace.data / "processed", workspace.data / "processed_with_style"
    write_split(processed, "train", PLAIN)
    style_files(config(system="First."), workspace)
    before = (styled / "train.jsonl").read_bytes()
    write_split(processed, "val", PLAIN)
    with (processed / "val.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"val\.jsonl:2"):
        style_files(config(system="Second."), workspace)
    assert (styled / "train.jsonl").read_bytes() == before
    assert [path.name for path in styled.iterdir()] == ["train.jsonl"]


def test_a_split_of_an_earlier_styling_does_not_stay(workspace: Workspace) -> None:
    processed, styled = workspace.data / "processed", workspace.data / "processed_with_style"
    write_split(processed, "train", PLAIN)
    write_split(processed, "test", PLAIN)
    style_files(config(system="S"), workspace)
    (processed / "test.jsonl").unlink()
    style_files(config(system="S"), workspace)
    assert [path.name for path in styled.iterdir()] == ["train.jsonl"]


def test_folders_of_ones_own_are_used_and_never_written_in_place(workspace: Workspace) -> None:
    mine, out = workspace.root / "mine", workspace.root / "out"
    write_split(mine, "train", PLAIN)
    style_files(config(system="S"), workspace, source=mine, target=out)
    assert (out / "train.jsonl").is_file()
    with pytest.raises(ConfigError, match="over the examples"):
        style_files(config(system="S"), workspace, source=mine, target=mine)


def test_no_style_and_no_examples_are_told(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="no style to apply"):
        style_files(config(), workspace)
    with pytest.raises(DataError, match="holds no examples"):
        style_files(config(system="S"), workspace)
    assert not (workspace.data / "processed_with_style").exists()
