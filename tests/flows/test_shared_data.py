"""Real files of many shapes, languages and encodings, from the raw file to the three splits."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, read_examples
from sftplay_ui.engine.data.inspection import check_data, inspect_file
from sftplay_ui.engine.data.process import process_files
from sftplay_ui.engine.data.report import ProcessReport
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

SHARED = Path(__file__).parents[3] / "shared" / "data"
SAMPLES = Path(__file__).parents[2] / "data" / "samples"

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder shared/data does not lie beside this checkout"
)


PLAIN = [
    ("python_tutor_qa.jsonl", [240, 30, 30], "question/answer"),
    ("python_tutor_qa.parquet", [240, 30, 30], "question/answer"),
    ("trivia.csv", [208, 26, 26], "question/answer"),
    ("capitals_semicolon.csv", [177, 22, 22], "user / assistant"),
    ("capitals_alpaca.json", [96, 12, 12], "Alpaca"),
    ("chat_messages.jsonl", [102, 13, 13], "conversation"),
    ("chat_messages.parquet", [102, 13, 13], "conversation"),
    ("sharegpt_multiturn.json", [53, 7, 7], "conversation"),
    ("multilingual_messages.jsonl", [177, 22, 22], "conversation"),
    ("shared_only/edu_math_qa.jsonl", [256, 32, 32], "question/answer"),
    ("shared_only/seed_tasks_alpaca.json", [140, 18, 17], "Alpaca"),
]
ENCODED = [
    ("french.latin-1.tsv", "cp1252", "\t", "Quels sont tes centres d'interets"),
    ("german.cp1252.csv", "cp1252", ";", "erkläre Geschichte"),
    ("korean.utf-16.tsv", "utf-16", "\t", "오늘의 기분은 어때?"),
    ("spanish.utf-8-sig.csv", "utf-8-sig", ",", "Qué es la IA"),
    ("traditionalchinese.big5.csv", "big5", ",", "你的位置是什麼"),
    ("ukrainian.cp1251.csv", "cp1251", ";", "Чим ти займаєшся?"),
]
# files with a test of their own below
SPECIAL = [
    "elements.tsv",
    "messy/python_tutor_dirty.jsonl",
    "foreign_formats/axolotl_conversation.json",
    "foreign_formats/axolotl_conversation.missingturns.json",
]
KINDS = {".json", ".jsonl", ".csv", ".tsv", ".parquet"}


def process(workspace: Workspace, name: str, **data: Any) -> ProcessReport:
    config = {"data": {"raw_path": str(SHARED / name), **data}}
    return process_files(RunConfig.model_validate(config), workspace)


def examples(workspace: Workspace) -> list[Example]:
    folder = workspace.data / "processed"
    return [
        example
        for name in ("train", "val", "test")
        for example in read_examples(folder / f"{name}.jsonl")
        if isinstance(example, Example)
    ]


def contents(workspace: Workspace) -> set[str]:
    return {message.content for example in examples(workspace) for message in example.messages}


@pytest.mark.parametrize(("name", "sizes", "shape"), PLAIN)
def test_every_file_is_understood_without_help(
    workspace: Workspace, name: str, sizes: list[int], shape: str
) -> None:
    report = process(workspace, name)
    assert list(report.splits.values()) == sizes
    assert (report.dropped, report.changed) == ({}, {})
    assert report.rows == report.kept == sum(sizes) == len(examples(workspace))
    assert report.sources[0].shape == shape


@pytest.mark.parametrize(("name", "encoding", "delimiter", "text"), ENCODED)
def test_every_encoding_is_found(
    workspace: Workspace, name: str, encoding: str, delimiter: str, text: str
) -> None:
    report = process(workspace, f"encodings/{name}")
    assert (report.dropped, report.changed) == ({}, {})
    assert report.rows == report.kept == 60
    source = report.sources[0]
    assert (source.encoding, source.delimiter) == (encoding, delimiter)
    assert source.shape == "question/answer"
    # letter for letter what Python reads by the codec that the file's name tells
    codec = name.split(".")[1]
    written = (SHARED / "encodings" / name).read_text(encoding=codec).splitlines()
    table = list(csv.reader(written, delimiter=delimiter))
    assert text in contents(workspace)
    assert {cell for row in table[1:] for cell in row} == contents(workspace)


def test_every_file_of_the_folder_has_its_test() -> None:
    tested = {name for name, *_ in PLAIN} | {f"encodings/{name}" for name, *_ in ENCODED}
    found = {
        path.relative_to(SHARED).as_posix()
        for path in SHARED.rglob("*")
        if path.suffix in KINDS and not path.name.endswith("expected.json")
    }
    assert found == tested | {*SPECIAL}


@pytest.mark.parametrize("name", ["python_tutor_qa", "chat_messages"])
def test_a_parquet_file_gives_the_examples_of_its_twin(workspace: Workspace, name: str) -> None:
    process(workspace, f"{name}.jsonl")
    plain = [example.to_record() for example in examples(workspace)]
    process(workspace, f"{name}.parquet")
    assert [example.to_record() for example in examples(workspace)] == plain


def test_the_counts_of_the_dirty_file_are_reproduced(workspace: Workspace) -> None:
    expected = json.loads((SHARED / "messy/python_tutor_dirty.expected.json").read_text())
    report = process(workspace, "messy/python_tutor_dirty.jsonl")
    duplicates = {f.kind: f.count for f in report.findings}["exact_duplicates"]
    counted = {**report.dropped, **report.changed, "exact_duplicate": duplicates}
    counted["ok"] = report.kept - duplicates - report.changed["numeric_answer"]
    assert counted == expected["line_kinds"]
    assert report.rows == expected["lines"] == sum(counted.values())


def test_the_dirty_file_names_a_place_for_everything(workspace: Workspace) -> None:
    report = process(workspace, "messy/python_tutor_dirty.jsonl")
    assert set(report.examples) == {*report.dropped, *report.changed}
    assert report.examples["truncated_json"][0].place == "python_tutor_dirty.jsonl:4"
    assert report.examples["comment_line"][-1].place.startswith("python_tutor_dirty.jsonl:")


def test_the_dirty_file_can_be_mended(workspace: Workspace) -> None:
    fixes = ["broken_lines", "exact_duplicates"]
    report = process(workspace, "messy/python_tutor_dirty.jsonl", fixes=fixes)
    assert report.changed["python_repr_single_quotes"] == 6
    assert report.changed["trailing_comma_after_object"] == 6
    assert report.dropped["exact_duplicates"] == 6
    assert report.kept == 78


def test_columns_that_say_nothing_must_be_chosen(workspace: Workspace) -> None:
    look = inspect_file(SHARED / "elements.tsv")
    assert look.mapping.confidence == "low"
    assert look.mapping.reason.endswith("please choose")
    with pytest.raises(DataError, match="please choose"):
        process(workspace, "elements.tsv")
    roles = {"user": "symbol", "assistant": "element"}
    assert process(workspace, "elements.tsv", mapping=roles).kept == 103


def test_one_conversation_is_read_whole_and_too_little_to_split(workspace: Workspace) -> None:
    name = "foreign_formats/axolotl_conversation.json"
    with pytest.raises(DataError, match="too few for the split: val and test would be empty"):
        process(workspace, name)
    report = process(workspace, name, split={"train": 1.0, "val": 0.0, "test": 0.0})
    assert report.kept == 1
    assert len(examples(workspace)[0].messages) == 12


def test_an_empty_turn_is_refused_by_place(workspace: Workspace) -> None:
    result = check_data(SHARED / "foreign_formats/axolotl_conversation.missingturns.json")
    assert result.verdict == "reject"
    assert (
        "axolotl_conversation.missingturns.json:1: turn 2 (assistant) is empty"
        in result.messages[0]
    )


def test_a_real_flaw_in_a_name_is_found(workspace: Workspace) -> None:
    report = process(workspace, "capitals_semicolon.csv")
    assert report.sources[0].columns == {"user": "Frage", "assistant": "Antwort"}
    assert "control_characters" in {finding.kind for finding in report.findings}


def test_all_files_together_make_one_set(workspace: Workspace) -> None:
    names = [
        "trivia.csv",
        "python_tutor_qa.parquet",
        "chat_messages.jsonl",
        "sharegpt_multiturn.json",
    ]
    config = {"data": {"raw_path": [str(SHARED / name) for name in names]}}
    report = process_files(RunConfig.model_validate(config), workspace)
    assert report.kept == 260 + 300 + 128 + 67


@pytest.mark.parametrize("name", ["trivia.csv", "python_tutor_qa.jsonl"])
def test_the_bundled_samples_are_the_documented_ones(name: str) -> None:
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (SHARED, SAMPLES)
    ]
    assert digests[0] == digests[1]
    assert name in (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert PROJECT_ROOT / "data" / "samples" == SAMPLES
