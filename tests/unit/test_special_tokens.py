"""Special tokens: four files that may disagree, and padding that never hides the end."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.text.special_tokens import read_special_tokens

ADDED = [{"id": 0, "content": "<pad>"}, {"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]


def model(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def test_names_come_as_text_or_as_objects(tmp_path: Path) -> None:
    folder = model(
        tmp_path,
        tokenizer={"added_tokens": ADDED},
        tokenizer_config={"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"},
    )
    special = read_special_tokens(folder)
    assert (special.bos, special.eos, special.eos_ids) == ("<s>", "</s>", (2,))


def test_a_list_of_end_tokens_is_read_and_the_tokenizers_own_comes_first(tmp_path: Path) -> None:
    folder = model(
        tmp_path,
        tokenizer={"added_tokens": ADDED},
        tokenizer_config={"eos_token": "</s>"},
        generation_config={"eos_token_id": [7, 2]},
        config={"eos_token_id": 9},
    )
    assert read_special_tokens(folder).eos_ids == (2, 7, 9)


def test_an_end_token_known_only_by_number_gets_its_name(tmp_path: Path) -> None:
    folder = model(tmp_path, tokenizer={"added_tokens": ADDED}, config={"eos_token_id": 2})
    assert read_special_tokens(folder).eos == "</s>"


def test_padding_with_the_end_token_is_replaced_where_another_exists(tmp_path: Path) -> None:
    named = {"eos_token": "</s>", "pad_token": "</s>"}
    folder = model(tmp_path, tokenizer={"added_tokens": ADDED}, tokenizer_config=named)
    assert (read_special_tokens(folder).pad, read_special_tokens(folder).pad_id) == ("<pad>", 0)
    model(tmp_path, tokenizer={"added_tokens": ADDED[1:]})
    assert (read_special_tokens(folder).pad, read_special_tokens(folder).pad_id) == ("</s>", 2)


@pytest.mark.parametrize(
    ("setting", "post_processor", "adds"),
    [
        (None, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}, True),
        (None, {"type": "ByteLevel"}, False),
        (None, None, False),
        (True, None, True),
        (False, {"single": ["<s>"]}, False),
    ],
)
def test_whether_texts_begin_with_a_first_token(
    tmp_path: Path, setting: bool | None, post_processor: object, adds: bool
) -> None:
    folder = model(
        tmp_path,
        tokenizer={"added_tokens": ADDED, "post_processor": post_processor},
        tokenizer_config={"bos_token": "<s>", "add_bos_token": setting},
    )
    assert read_special_tokens(folder).adds_bos is adds


def test_an_empty_folder_has_no_special_tokens(tmp_path: Path) -> None:
    special = read_special_tokens(tmp_path)
    assert (special.bos, special.eos, special.eos_ids, special.pad_id) == ("", "", (), 0)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 200_000, '"x"'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_special_tokens(tmp_path)
