"""Examples: what is read, what is written, what is refused and with which words."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.data.examples import Example, Message, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError

ONE_TURN = (Message("user", "Why?"), Message("assistant", "Because."))


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "messages",
    [
        ONE_TURN,
        (Message("system", "Be kind."), *ONE_TURN),
        (Message("system", ""), *ONE_TURN),
        (*ONE_TURN, *ONE_TURN),
        (Message("user", ""), Message("assistant", "")),
        (Message("assistant", "Hello."), Message("user", "Hi."), Message("assistant", "Well?")),
    ],
)
def test_an_example_survives_its_record(messages: tuple[Message, ...]) -> None:
    example = Example(messages)
    assert Example.from_record(json.loads(json.dumps(example.to_record()))) == example


def test_one_turn_is_written_flat_and_several_as_messages() -> None:
    assert Example(ONE_TURN).to_record() == {"user": "Why?", "assistant": "Because."}
    assert list(Example((*ONE_TURN, *ONE_TURN)).to_record()) == ["messages"]


@pytest.mark.parametrize("blank", ["", None])
def test_a_blank_system_column_means_no_system_turn(blank: str | None) -> None:
    example = Example.from_record({"system": blank, "user": "Why?", "assistant": "Because."})
    assert example == Example(ONE_TURN)
    assert example.system is None


def test_the_prompt_ends_before_the_last_answer() -> None:
    example = Example((Message("system", "S"), *ONE_TURN, Message("user", "More?"), *ONE_TURN[1:]))
    assert example.system == "S"
    assert [m.content for m in example.prompt] == ["S", "Why?", "Because.", "More?"]
    assert example.reference == "Because."


def test_all_three_kinds_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + b'{"user": "Why?", "assistant": "Because."}\r\n\n'
        + b'{"messages": [{"role": "user", "content": "Why?"}, '
        + b'{"role": "assistant", "content": "Because."}]}\n'
        + b'{"input": "Q:", "target": " A"}'
    )
    assert list(read_examples(path)) == [
        Example(ONE_TURN),
        Example(ONE_TURN),
        RenderedExample("Q:", " A"),
    ]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"user": "Why?"}, "no assistant (found: user)"),
        ({"user": 7, "assistant": "x"}, "user is 7, not text"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant turn"),
        ({"messages": []}, "messages is not a list of turns"),
        ({"messages": [{"role": "bot", "content": "x"}]}, 'messages[0] has the role "bot"'),
        ({"messages": ["x"]}, "messages[0] is not an object"),
        ({"user": "\ud800", "assistant": "x"}, "lone surrogate"),
        ([1], "a JSON list"),
    ],
)
def test_a_refusal_names_file_line_and_value(tmp_path: Path, record: object, words: str) -> None:
    path = write_lines(tmp_path / "train.jsonl", {"user": "a", "assistant": "b"}, record)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert f"{path}:2" in caught.value.what
    assert words in caught.value.what


def test_a_cut_line_and_a_deep_line_are_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    for line in ['{"user": "a"', "[" * 200_000]:
        path.write_text(line, encoding="utf-8")
        with pytest.raises(DataError, match=r"train\.jsonl:1 is not valid JSON"):
            list(read_examples(path))


def test_a_missing_file_and_foreign_bytes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(read_examples(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"user": "caf\xe9", "assistant": "x"}')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_examples(tmp_path / "latin.jsonl"))
