"""Data sets of the Hub: names are read, files chosen, failures worded; nothing is fetched here."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.hub_data import HubName, choose_files, is_hub_name, parse_hub_name
from sftplay_ui.engine.data.process import process_files
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import Workspace


@pytest.mark.parametrize(
    "text", ["owner/name", "hub:owner/name", "hub:owner/name?split=test", "o/n-1.5"]
)
def test_names_of_the_hub_are_told_from_files(text: str) -> None:
    assert is_hub_name(text)


@pytest.mark.parametrize(
    "text", ["raw/a.csv", "data/raw/a.jsonl", "a.csv", "/tmp/a", "../x", "a/b/c"]
)
def test_files_are_no_names_of_the_hub(text: str) -> None:
    assert not is_hub_name(text)


def test_options_are_read_from_the_name() -> None:
    name = parse_hub_name("hub:owner/name?config=main&split=test&rows=1000")
    assert name == HubName("owner/name", "main", "test", 1000)
    for text in ("hub:a/b?speed=1", "hub:a/b?rows=many"):
        with pytest.raises(DataError, match="cannot be read"):
            parse_hub_name(text)


FILES = [
    "README.md",
    "main/train-00000-of-00002.parquet",
    "main/train-00001-of-00002.parquet",
    "main/test-00000-of-00001.parquet",
    "socratic/train-00000-of-00001.parquet",
]


def test_one_config_and_split_are_chosen() -> None:
    assert choose_files(FILES, HubName("a/b")) == FILES[1:3]
    assert choose_files(FILES, HubName("a/b", split="test")) == [FILES[3]]
    assert choose_files(FILES, HubName("a/b", config="socratic")) == [FILES[4]]
    assert choose_files(["data.jsonl", "x.txt"], HubName("a/b")) == ["data.jsonl"]
    assert choose_files(["data/train.csv", "data/validation.csv"], HubName("a/b")) == [
        "data/train.csv"
    ]


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        (FILES, HubName("a/b", config="other"), 'no config "other".*main, socratic'),
        (FILES, HubName("a/b", split="dev"), 'no split "dev".*test, train'),
        (["de/train.csv", "fr/train.csv"], HubName("a/b"), "several configs.*de, fr"),
        (["README.md"], HubName("a/b"), "no Parquet"),
    ],
)
def test_what_cannot_be_chosen_names_what_there_is(
    files: list[str], name: HubName, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        choose_files(files, name)


def test_without_a_network_the_way_out_is_said(workspace: Workspace) -> None:
    config = RunConfig.model_validate({"data": {"raw_path": "hub:owner/name"}})
    with pytest.raises(DataError, match="not reachable") as caught:
        process_files(config, workspace)
    assert "choose it as a file" in caught.value.fix


def test_fetched_files_are_processed_like_any_other(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "train.jsonl"
    rows = [{"question": f"Why {chr(97 + n) * 9}?", "answer": f"Because {n}."} for n in range(26)]
    fetched.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["train.jsonl", "test.jsonl"]
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(fetched))
    config = {"data": {"raw_path": "hub:owner/name?rows=20"}}
    report = process_files(RunConfig.model_validate(config), workspace)
    assert report.kept == 20
    assert (workspace.data / "raw" / "owner--name-20.jsonl").exists()
