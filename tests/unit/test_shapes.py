"""Shapes: columns find their roles whatever their names, rows become examples or are refused."""

import datetime
from typing import Any

import pytest

from sftplay_ui.engine.data.convert import Converted, Rejected, convert
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.shapes import (
    ROLES,
    RoleMapping,
    describe_columns,
    guess_mapping,
    mapping_from_config,
)
from sftplay_ui.engine.errors import DataError

TEXTS = ("Why is that?", "Because it is.")


def mapping(**columns: str) -> RoleMapping:
    return RoleMapping("test", columns, "for the test", "high")


def example(*turns: str, system: str | None = None) -> Example:
    roles = ["user", "assistant"] * len(turns)
    messages = [Message(role, text) for role, text in zip(roles, turns, strict=False)]
    return Example((*([Message("system", system)] if system else []), *messages))


def first(row: object, roles: RoleMapping) -> Example:
    result = convert(row, roles)
    assert isinstance(result, Converted), result
    return result.examples[0]


def refused(row: object, roles: RoleMapping) -> str:
    result = convert(row, roles)
    assert isinstance(result, Rejected), result
    assert result.reason
    return result.kind


# ---- guessing


@pytest.mark.parametrize(
    ("columns", "user", "assistant"),
    [
        (("question", "answer"), "question", "answer"),
        (("prompt", "completion"), "prompt", "completion"),
        (("prompt", "response"), "prompt", "response"),
        (("input", "output"), "input", "output"),
        (("input", "target"), "input", "target"),
        (("user", "assistant"), "user", "assistant"),
        (("Frage", "Antwort"), "Frage", "Antwort"),
        (("pregunta", "respuesta"), "pregunta", "respuesta"),
        (("Вопрос", "Ответ"), "Вопрос", "Ответ"),
        (("问题", "答案"), "问题", "答案"),
        (("質問", "回答"), "質問", "回答"),
        (("질문", "답변"), "질문", "답변"),
        (("سؤال", "جواب"), "سؤال", "جواب"),
        (("User Prompt", "modelAnswer"), "User Prompt", "modelAnswer"),
        (("Q", "A"), "Q", "A"),
        (("answer", "question"), "question", "answer"),
    ],
)
def test_names_in_many_languages_are_understood(
    columns: tuple[str, str], user: str, assistant: str
) -> None:
    guess = guess_mapping([dict(zip(columns, TEXTS, strict=True))] * 3)
    assert guess.columns == {"user": user, "assistant": assistant}
    assert guess.confidence == "high"
    assert user in guess.reason


def test_alpaca_keeps_its_input_as_context() -> None:
    guess = guess_mapping([{"instruction": "Add.", "input": "1 2", "output": "3"}])
    assert guess.shape == "Alpaca"
    assert guess.columns == {"user": "instruction", "context": "input", "assistant": "output"}


def test_an_input_that_is_always_empty_still_makes_it_alpaca() -> None:
    guess = guess_mapping([{"instruction": "Add 1 and 2.", "input": "", "output": "3"}] * 4)
    assert guess.columns["user"] == "instruction"


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "messages": [{"role": "user", "content": "x"}]},
        {"source": "a", "conversations": [{"from": "human", "value": "x"}]},
        {"stuff": [{"role": "user", "content": "x"}]},
    ],
)
def test_lists_of_turns_are_found_under_any_name(row: dict[str, object]) -> None:
    guess = guess_mapping([row])
    assert list(guess.columns) == ["messages"]
    assert guess.confidence == "high"


def test_values_one_level_down_are_found() -> None:
    row = {
        "question": "Who?",
        "context": "Ann did.",
        "answers": {"text": ["Ann"], "answer_start": [0]},
    }
    guess = guess_mapping([row])
    assert guess.columns == {"user": "question", "context": "context", "assistant": "answers.text"}
    assert first(row, guess) == example("Who?\n\nAnn did.", "Ann")


def test_options_are_found_and_listed() -> None:
    row = {"question": "Which is red?", "choices": ["sky", "blood"], "answer": 1}
    guess = guess_mapping([row])
    assert guess.shape == "multiple choice"
    assert first(row, guess) == example("Which is red?\n\nA. sky\nB. blood", "B. blood")


def test_unknown_names_are_told_apart_by_question_marks() -> None:
    rows = [{"id": n, "alpha": f"It is {n}.", "beta": f"What is {n}?"} for n in range(5)]
    guess = guess_mapping(rows)
    assert guess.columns == {"user": "beta", "assistant": "alpha"}
    assert guess.confidence == "medium"
    assert "question mark" in guess.reason


def test_two_unknown_columns_are_taken_in_their_order_and_it_is_said() -> None:
    guess = guess_mapping([{"alpha": f"a {n}", "beta": f"b {n}"} for n in range(5)])
    assert guess.columns == {"user": "alpha", "assistant": "beta"}
    assert guess.confidence == "medium"
    assert "first" in guess.reason


@pytest.mark.parametrize(
    "rows",
    [
        [{"symbol": "H", "number": "1", "weight": "1.008", "element": "Hydrogen"}] * 3,
        [["a", "b"]],
        ["text"],
        [],
        [{"only": "one column"}],
        [{}],
    ],
)
def test_what_is_not_clear_asks_the_person_to_choose(rows: list[object]) -> None:
    guess = guess_mapping(rows)
    assert guess.confidence == "low"
    assert not guess.is_usable
    assert guess.reason.endswith("please choose")


def test_columns_are_described_for_the_choice() -> None:
    columns = describe_columns([{"q": "Why?", "n": 3, "x": {"y": "z"}, "e": None}] * 2)
    assert [(column.name, column.kind) for column in columns] == [
        ("q", "text"),
        ("n", "number"),
        ("x", "nested"),
        ("x.y", "text"),
        ("e", "empty"),
    ]


# ---- what the person sets


def test_a_mapping_survives_the_configuration() -> None:
    guess = guess_mapping([{"system": "s", "question": "Why?", "answer": "So."}])
    again = mapping_from_config(guess.to_config(), ["system", "question", "answer"])
    assert again.columns == guess.columns
    assert again.reason == "set by you"
    assert set(guess.columns) <= set(ROLES)


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"user": "q"}, "no column for the answers"),
        ({"assistant": "a"}, "no column for user"),
        ({"user": "q", "assistant": "zzz"}, 'no column "zzz"'),
        ({"asker": "q", "assistant": "a"}, 'the role "asker"'),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(roles: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        mapping_from_config(roles, ["q", "a"])


def test_a_named_format_fixes_the_columns() -> None:
    chosen = mapping_from_config({}, ["instruction", "output", "id"], shape="alpaca")
    assert chosen.columns == {"user": "instruction", "assistant": "output"}
    with pytest.raises(DataError, match='"klingon" is unknown'):
        mapping_from_config({}, ["a"], shape="klingon")
    with pytest.raises(DataError, match='no column "question"'):
        mapping_from_config({}, ["a"], shape="qa")


# ---- one row


QA = mapping(user="q", assistant="a")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"q": "x"}, "missing_answer_key"),
        ({"a": "x"}, "missing_question_key"),
        ({"q": "x", "a": None}, "null_answer"),
        ({"q": "x", "a": ""}, "empty_answer"),
        ({"q": " \n", "a": "x"}, "whitespace_question"),
        ({"q": "x", "a": {"b": "c"}}, "wrong_type"),
        ({"q": "x", "a": b"bytes"}, "wrong_type"),
        ({"q": "x", "a": []}, "empty_answer"),
        ({"q": "x", "a": ["y", {}]}, "wrong_type"),
        (["q", "a"], "json_list_not_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
    ],
)
def test_a_row_without_question_or_answer_is_refused_by_kind(row: object, kind: str) -> None:
    assert refused(row, QA) == kind


@pytest.mark.parametrize(
    ("value", "text", "change"),
    [
        (42, "42", "numeric_answer"),
        (42.5, "42.5", "numeric_answer"),
        (True, "true", "boolean_as_text"),
        (datetime.date(2024, 5, 1), "2024-05-01", "date_as_text"),
        ("x\ud800", "x\ufffd", "lone_surrogate"),
    ],
)
def test_values_that_are_no_text_become_text_and_are_counted(
    value: object, text: str, change: str
) -> None:
    assert convert({"q": "x", "a": value}, QA) == Converted((example("x", text),), (change,))


def test_several_answers_make_several_examples_and_equal_ones_only_one() -> None:
    result = convert({"q": "x", "a": ["one", "two", "one", " "]}, QA)
    assert result == Converted((example("x", "one"), example("x", "two")), ("several_answers",))


def test_system_and_context_are_used_where_they_are_filled() -> None:
    roles = mapping(user="q", assistant="a", system="s", context="c")
    assert first({"q": "x", "a": "y", "s": "Be kind.", "c": "z"}, roles) == example(
        "x\n\nz", "y", system="Be kind."
    )
    assert first({"q": "x", "a": "y", "s": "", "c": None}, roles) == example("x", "y")
    assert first({"q": "x", "a": "y"}, roles) == example("x", "y")


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        (["sky", "blood"], "B", "B. blood"),
        (["sky", "blood"], "blood", "B. blood"),
        (["sky", "blood"], 0, "A. sky"),
        (["sky", "blood"], "1", "B. blood"),
        ({"text": ["sky", "blood"], "label": ["1", "2"]}, "2", "2. blood"),
        ({"x": "sky", "y": "blood"}, "y", "y. blood"),
    ],
)
def test_the_right_option_may_be_a_letter_a_number_or_its_text(
    options: Any, answer: Any, text: str
) -> None:
    roles = mapping(user="q", options="o", assistant="a")
    assert first({"q": "x", "o": options, "a": answer}, roles).reference == text


def test_a_number_that_is_no_option_is_refused() -> None:
    roles = mapping(user="q", options="o", assistant="a")
    assert refused({"q": "x", "o": ["sky"], "a": 4}, roles) == "no_such_option"


# ---- conversations


CHAT = mapping(messages="m")


def turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def test_sharegpt_and_openai_words_mean_the_same() -> None:
    ours = first({"m": [turn("system", "s"), turn("user", "x"), turn("assistant", "y")]}, CHAT)
    theirs = first(
        {
            "m": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "x"},
                {"from": "gpt", "value": "y"},
            ]
        },
        CHAT,
    )
    assert ours == theirs == example("x", "y", system="s")


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert first({"m": [turn("user", parts), turn("assistant", "y")]}, CHAT) == example("a\nb", "y")
    picture = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    assert refused({"m": [turn("user", picture), turn("assistant", "y")]}, CHAT) == "part_not_text"


def test_tool_turns_are_kept_as_text_and_counted() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    result = convert(
        {"m": [turn("user", "x"), call, turn("tool", "3"), turn("assistant", "It is 3.")]}, CHAT
    )
    assert isinstance(result, Converted)
    assert result.changes == ("tool_turn_as_text", "tool_turn_as_text")
    assert result.examples[0] == example("x", '[{"name": "add"}]', "Tool result:\n3", "It is 3.")


def test_a_call_beside_words_is_not_dropped() -> None:
    call = {"role": "assistant", "content": "Let me add.", "tool_calls": [{"name": "add"}]}
    result = convert({"m": [turn("user", "x"), call]}, CHAT)
    assert isinstance(result, Converted)
    assert result.changes == ("tool_turn_as_text",)
    assert result.examples[0] == example("x", 'Let me add.\n[{"name": "add"}]')


@pytest.mark.parametrize(
    ("turns", "expected", "change"),
    [
        ([("user", "a"), ("user", "b"), ("assistant", "c")], ("a\n\nb", "c"), "turns_joined"),
        (
            [("assistant", "Hi"), ("user", "a"), ("assistant", "c")],
            ("a", "c"),
            "opening_answer_removed",
        ),
        ([("user", "a"), ("assistant", "c"), ("user", "d")], ("a", "c"), "last_question_removed"),
    ],
)
def test_odd_orders_are_put_right_and_counted(
    turns: list[tuple[str, str]], expected: tuple[str, str], change: str
) -> None:
    result = convert({"m": [turn(*one) for one in turns]}, CHAT)
    assert result == Converted((example(*expected),), (change,))


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ([], "no_turns"),
        ("text", "wrong_type"),
        (["text"], "wrong_type"),
        ([turn("user", "a")], "no_assistant_turn"),
        ([turn("assistant", "a")], "no_question"),
        ([turn("user", "a"), turn("assistant", " ")], "empty_turn"),
        ([turn("narrator", "a"), turn("assistant", "b")], "unknown_role"),
        ([turn("user", "a"), turn("system", "s"), turn("assistant", "b")], "system_not_first"),
        ([turn("user", {"x": 1}), turn("assistant", "b")], "wrong_type"),
        ([{"role": "user"}, turn("assistant", "b")], "empty_turn"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_refused_by_kind(turns: object, kind: str) -> None:
    assert refused({"m": turns}, CHAT) == kind


def test_a_conversation_may_be_json_text_in_a_cell() -> None:
    cell = '[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]'
    assert first({"m": cell}, CHAT) == example("x", "y")


def test_a_system_column_fills_in_where_a_conversation_has_none() -> None:
    roles = mapping(messages="m", system="s")
    turns = [turn("user", "x"), turn("assistant", "y")]
    assert first({"m": turns, "s": "Be kind."}, roles).system == "Be kind."
    own = [turn("system", "own"), *turns]
    assert first({"m": own, "s": "Be kind."}, roles).system == "own"


def test_marks_of_templates_and_markup_stay_as_they_are() -> None:
    text = "{{ bos }} <script>alert(1)</script> <|im_end|> =1+1"
    assert first({"q": text, "a": text}, QA) == example(text, text)
