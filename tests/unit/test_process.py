"""Processing: what is written, what is said about it, and that nothing is ever half done."""

import errno
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data import staging
from sftplay_ui.engine.data.examples import Example, Message, read_examples
from sftplay_ui.engine.data.inspection import check_data, inspect_file
from sftplay_ui.engine.data.process import DataProgress, examine, process_files
from sftplay_ui.engine.data.report import TokenReport, read_report
from sftplay_ui.engine.data.row_checks import TokenLengths
from sftplay_ui.engine.data.rows import ReadOptions
from sftplay_ui.engine.data.shapes import RoleMapping
from sftplay_ui.engine.errors import DataError, DiskFullError
from sftplay_ui.engine.workspace import Workspace


def config_for(*paths: Path, **data: Any) -> RunConfig:
    raw = [str(path) for path in paths]
    return RunConfig.model_validate(
        {"data": {"raw_path": raw[0] if len(raw) == 1 else raw, **data}}
    )


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"question": f"What is the number {word(n)}?", "answer": f"It is {n}."}
        for n in range(start, start + count)
    ]


def word(number: int) -> str:
    return "".join(chr(97 + int(digit) * 2) for digit in f"{number:05}")


@pytest.fixture
def raw(workspace: Workspace) -> Path:
    return write_rows(workspace.data / "raw" / "pairs.jsonl", pairs(100))


GOOD = "question,answer\n" + "\n".join(f"Why {word(n)}?,Because {n}." for n in range(10))


def written(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.data / "processed"
    return (
        {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}
        if folder.exists()
        else {}
    )


def test_every_example_is_written_once_and_the_report_counts_it(
    workspace: Workspace, raw: Path
) -> None:
    report = process_files(config_for(raw), workspace)
    assert report.splits == {"train": 80, "val": 10, "test": 10}
    assert (report.rows, report.kept, report.dropped, report.changed) == (100, 100, {}, {})
    examples = [
        e for name in report.splits for e in read_examples(workspace.resolve(report.paths[name]))
    ]
    questions = {e.messages[0].content for e in examples if isinstance(e, Example)}
    assert questions == {pair["question"] for pair in pairs(100)}
    assert set(written(workspace)) == {
        "train.jsonl",
        "val.jsonl",
        "test.jsonl",
        "report.json",
        "data_card.md",
        *(f".{name}.jsonl.marks" for name in report.splits),
    }


def test_the_same_input_and_seed_give_the_same_bytes(workspace: Workspace, raw: Path) -> None:
    process_files(config_for(raw), workspace)
    first = written(workspace)
    process_files(config_for(raw), workspace)
    assert written(workspace) == first
    process_files(config_for(raw, seed=7), workspace)
    assert written(workspace)["train.jsonl"] != first["train.jsonl"]


def test_what_is_dropped_and_changed_is_counted_with_its_place(workspace: Workspace) -> None:
    rows = [
        *pairs(20),
        {"question": "Only?"},
        {"question": "Much?", "answer": 7},
        ["a"],
        {"question": "x", "answer": ["p", "q"]},
    ]
    report = process_files(
        config_for(write_rows(workspace.data / "raw" / "a.jsonl", rows)), workspace
    )
    assert report.rows == 24
    assert report.kept == 23
    assert report.dropped == {"missing_answer_key": 1, "json_list_not_object": 1}
    assert report.changed == {"numeric_answer": 1, "several_answers": 1}
    assert [case.place for case in report.examples["missing_answer_key"]] == ["a.jsonl:21"]
    assert "a.jsonl:21" in report.to_text()
    assert json.loads(written(workspace)["report.json"]) == report.to_json()


def test_several_files_of_different_shapes_become_one_set(workspace: Workspace, raw: Path) -> None:
    other = workspace.data / "raw" / "mehr.csv"
    lines = [f'"Wie heißt {word(n)}?";"Es heißt {n}."' for n in range(500, 550)]
    other.write_text("Frage;Antwort\n" + "\n".join(lines), encoding="utf-8")
    report = process_files(config_for(raw, other), workspace)
    assert report.splits == {"train": 120, "val": 15, "test": 15}
    assert [source.rows for source in report.sources] == [100, 50]
    test = (workspace.data / "processed" / "test.jsonl").read_text(encoding="utf-8")
    assert test.count("heißt") == 10


def test_duplicates_never_straddle_splits(workspace: Workspace) -> None:
    rows = [
        *pairs(60),
        *[{"question": p["question"].upper() + " ", "answer": "another"} for p in pairs(60)],
    ]
    process_files(config_for(write_rows(workspace.data / "raw" / "a.jsonl", rows)), workspace)
    seen: dict[str, str] = {}
    for name in ("train", "val", "test"):
        for example in read_examples(workspace.data / "processed" / f"{name}.jsonl"):
            assert isinstance(example, Example)
            question = example.messages[0].content.lower().strip()
            assert seen.setdefault(question, name) == name


@pytest.mark.parametrize(
    ("content", "data", "words"),
    [
        ("", {}, "is empty"),
        ("question,answer\n", {}, "has no readable row"),
        ("symbol,number\nH,1\nHe,2\n", {}, "please choose"),
        ("a,b\nx,y\n", {"mapping": {"user": "a", "assistant": "nope"}}, 'no column "nope"'),
        ("question,answer\nWhy?,\nHow?,\n", {}, "None of the 2 rows can be used"),
        ("question,answer\nWhy?,So.\n", {}, "too few for the split"),
        ("question,answer\nWhy?,So.\n", {"fixes": ["magic"]}, "the doctor does not know"),
        ("question,answer\nWhy?,So.\n", {"encoding": "klingon"}, "is no text encoding"),
    ],
)
def test_input_that_cannot_be_used_leaves_the_earlier_set_untouched(
    workspace: Workspace, raw: Path, content: str, data: dict[str, Any], words: str
) -> None:
    process_files(config_for(raw), workspace)
    before = written(workspace)
    bad = workspace.data / "raw" / "bad.csv"
    bad.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        process_files(config_for(bad, **data), workspace)
    assert caught.value.fix
    assert written(workspace) == before


def test_without_a_raw_file_the_sample_is_offered(workspace: Workspace) -> None:
    with pytest.raises(DataError) as caught:
        process_files(RunConfig(), workspace)
    assert "data/samples" in caught.value.fix


def test_a_name_that_cannot_be_written_is_refused_before_anything_is(
    workspace: Workspace, raw: Path
) -> None:
    blocker = workspace.root / "file"
    blocker.write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        process_files(config_for(raw, train_path="file/train.jsonl"), workspace)
    assert written(workspace) == {}


def test_progress_tells_its_phases(workspace: Workspace, raw: Path) -> None:
    told: list[DataProgress] = []
    process_files(config_for(raw), workspace, told.append)
    assert list(dict.fromkeys(progress.phase for progress in told)) == ["compare", "write"]
    assert told[-1] == DataProgress("write", 100, 100)


def test_the_data_card_names_source_licence_and_hashes(workspace: Workspace, raw: Path) -> None:
    report = process_files(config_for(raw, licence="CC-BY-4.0, by me"), workspace)
    card = written(workspace)["data_card.md"].decode()
    assert "CC-BY-4.0, by me" in card
    assert "Languages of the answers, by script: Latin 100" in card
    assert "Repeated before any fix: 0 whole examples, 0 nearly the same questions" in card
    assert report.sources[0].sha256 in card
    assert report.sha256["train"] in card
    assert "What is the number" not in card


def test_only_the_cut_of_a_measure_is_reported(workspace: Workspace, raw: Path) -> None:
    def measure(example: Example) -> TokenLengths:
        over = "aaaac" in example.messages[0].content
        return TokenLengths(
            tokens=30 if over else 10,
            cut_tokens=14 * over,
            learned=5,
            cut_learned=5 * over,
        )

    report = process_files(config_for(raw), workspace, measure=measure)
    assert {finding.kind: finding.count for finding in report.findings} == {
        "too_long": 1,
        "nothing_learned": 1,
    }
    assert report.tokens == TokenReport(
        total=99 * 10 + 16, learned=99 * 5, median=10, longest=16, cut_answers=1
    )
    assert "495 of them learned" in written(workspace)["data_card.md"].decode()
    fixed = process_files(config_for(raw, fixes=["nothing_learned"]), workspace, measure=measure)
    assert (fixed.kept, fixed.dropped) == (99, {"nothing_learned": 1})


def test_the_mapping_of_the_configuration_wins(workspace: Workspace) -> None:
    path = workspace.data / "raw" / "elements.csv"
    path.write_text(
        "symbol,number,element\n" + "\n".join(f"{word(n)},{n},{word(n)} it is" for n in range(30))
    )
    report = process_files(
        config_for(path, mapping={"user": "symbol", "assistant": "element"}), workspace
    )
    assert report.kept == 30
    assert report.sources[0].reason == "set by you"


def test_examining_writes_nothing(workspace: Workspace, raw: Path) -> None:
    assert examine(config_for(raw), workspace).findings == ()
    assert written(workspace) == {}
    assert list((workspace.data / "processed").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_the_earlier_set_whole(
    workspace: Workspace, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_files(config_for(raw), workspace)
    before = written(workspace)

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(DiskFullError, match="bytes are free"):
        process_files(config_for(raw, seed=7), workspace)
    assert written(workspace) == before


def test_a_set_that_was_ready_when_its_process_was_killed_is_what_the_next_reader_finds(
    workspace: Workspace, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_files(config_for(raw), workspace)
    before = written(workspace)
    rename = Path.replace

    def die(self: Path, target: Path) -> Path:
        if Path(target).name == "val.jsonl":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", die)
        process_files(config_for(raw, seed=7), workspace)
    half = (workspace.data / "processed" / "val.jsonl").read_bytes()
    assert half == before["val.jsonl"]
    assert len([*read_examples(workspace.data / "processed" / "train.jsonl")]) == 80
    after = written(workspace)
    report = read_report(workspace.data / "processed" / "report.json")
    assert report is not None
    assert report.seed == 7
    for name, digest in report.sha256.items():
        assert hashlib.sha256(after[f"{name}.jsonl"]).hexdigest() == digest
        assert after[f"{name}.jsonl"] != before[f"{name}.jsonl"]


def test_endless_rows_of_nothing_are_not_read_to_the_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FRUITLESS_ROWS", 500)
    path = workspace.data / "raw" / "empty.csv"
    path.write_text("question,answer\n" + "Why?,\n" * 2000)
    with pytest.raises(DataError, match="None of the 500 rows"):
        process_files(config_for(path), workspace)


def test_what_a_killed_process_left_is_cleared_a_day_later(workspace: Workspace, raw: Path) -> None:
    folder = workspace.data / "processed"
    for name, age in ((".staging-old", 2 * 24 * 3600), (".staging-new", 60)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age,) * 2)
    process_files(config_for(raw), workspace)
    assert [path.name for path in folder.glob(".staging-*")] == [".staging-new"]


# ---- a first look


def test_a_look_shows_facts_roles_and_the_first_examples(raw: Path) -> None:
    look = inspect_file(raw)
    assert look.facts.kind == "JSON lines"
    assert look.mapping.columns == {"user": "question", "assistant": "answer"}
    assert look.preview[1].place == "pairs.jsonl:2"
    assert look.preview[1].example == Example(
        (Message("user", pairs(2)[1]["question"]), Message("assistant", "It is 1."))
    )
    assert (look.rows, look.complete, len(look.preview)) == (100, True, 10)


def test_a_look_with_other_roles_changes_the_preview(raw: Path) -> None:
    roles = RoleMapping("mine", {"user": "answer", "assistant": "question"}, "set by you", "high")
    assert inspect_file(raw, mapping=roles).preview[0].example.messages[0].content == "It is 0."


def test_a_look_counts_problems_with_places(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"question": "Why?", "answer": "So."}\nbroken\n{"question": "x", "answer": ""}\n'
    )
    look = inspect_file(path)
    assert look.problems.counts == {"broken_json": 1, "empty_answer": 1}
    assert look.problems.shown["broken_json"][0].place == "a.jsonl:2"


def test_a_look_at_unclear_columns_still_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("symbol,number\nH,1\nHe,2\n")
    look = inspect_file(path, ReadOptions())
    assert [column.name for column in look.columns] == ["symbol", "number"]
    assert look.mapping.confidence == "low"
    assert look.preview == ()


@pytest.mark.parametrize(
    ("content", "verdict", "words"),
    [
        (GOOD, "accept", ""),
        (GOOD + "\nHow?,\n", "accept_with_warning", "a.csv:12"),
        (
            GOOD + "\nWhy so?,So it is.\nWhy so?,So it is.\n",
            "accept_with_warning",
            "The same example again: 1",
        ),
        (
            GOOD.replace("question,answer", "alpha,beta"),
            "accept_with_warning",
            "guess",
        ),
        ("symbol,number\nH,1\nHe,2\n", "reject", "please choose"),
        ("question,answer\nWhy?,So it is.\n", "reject", "too few for the split"),
        ("question,answer\nWhy?,So it is.\nHow?,So it is.\n", "reject", "data.split.val=0"),
        ("question,answer\nWhy?,\n", "reject", "a.csv:2"),
    ],
)
def test_a_check_ends_in_one_of_three_verdicts(
    tmp_path: Path, content: str, verdict: str, words: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    result = check_data(path)
    assert result.verdict == verdict
    assert words in " ".join(result.messages)


def test_a_check_of_what_is_no_file_rejects(tmp_path: Path) -> None:
    assert check_data(tmp_path).verdict == "reject"
    assert check_data(tmp_path / "none").verdict == "reject"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(alphabet='{}[]",:\n\tquestionanswer: éß漢\0\ud800', max_size=300))
def test_any_file_gets_a_verdict(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    result = check_data(path)
    assert result.verdict in ("accept", "accept_with_warning", "reject")
    assert result.verdict == "accept" or result.messages
