"""Splitting: exact sizes, whole groups, the same result on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftplay_ui.engine.data.split import (
    LEFT_OUT,
    SPLITS,
    Sizes,
    assign_splits,
    hash_text,
    plain_question,
)
from sftplay_ui.engine.errors import DataError

EIGHTY = Sizes(0.8, 0.1, 0.1)


def names(count: int) -> np.ndarray:
    return np.array([hash_text(f"question {n}") for n in range(count)], np.uint64)


def split(
    groups: np.ndarray, sizes: Sizes = EIGHTY, *, files: np.ndarray | None = None, seed: int = 42
) -> np.ndarray:
    sources = np.zeros(len(groups), np.uint16) if files is None else files
    return assign_splits(groups, sources, sizes, seed=seed)


def counts(result: np.ndarray) -> list[int]:
    return [int((result == n).sum()) for n in range(len(SPLITS))]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(300, [240, 30, 30]), (260, [208, 26, 26]), (10, [8, 1, 1]), (15, [12, 2, 1])],
)
def test_shares_give_exact_sizes(rows: int, expected: list[int]) -> None:
    assert counts(split(names(rows))) == expected


def test_a_repeated_question_does_not_spoil_the_sizes() -> None:
    groups = names(300)
    groups[288] = groups[5]
    result = split(groups)
    assert counts(result) == [240, 30, 30]
    assert result[288] == result[5]


@given(st.lists(st.integers(0, 12), min_size=40, max_size=120), st.integers(0, 2**31 - 1))
def test_a_group_is_never_in_two_splits(members: list[int], seed: int) -> None:
    groups = np.array([hash_text(str(member)) for member in members], np.uint64)
    try:
        result = split(groups, Sizes(0.6, 0.2, 0.2), seed=seed)
    except DataError:
        return
    for group in np.unique(groups):
        assert len(set(result[groups == group].tolist())) == 1
    assert sum(counts(result)) == len(members)


def test_the_split_is_the_same_on_every_machine() -> None:
    assert (
        "".join(map(str, split(names(40)).tolist())) == "1000000000000000010000000020011220002000"
    )


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    groups = names(200)
    order = np.argsort(groups)
    assert np.array_equal(split(groups)[order], split(groups[order]))


def test_another_seed_gives_another_split_of_the_same_sizes() -> None:
    one, two = split(names(100)), split(names(100), seed=7)
    assert counts(one) == counts(two)
    assert not np.array_equal(one, two)


def test_every_file_is_spread_over_the_splits() -> None:
    files = np.array([0] * 200 + [1] * 100, np.uint16)
    result = split(names(300), files=files)
    assert counts(result) == [240, 30, 30]
    assert counts(result[files == 1]) == [80, 10, 10]


def test_counts_take_what_they_ask_for_and_leave_the_rest() -> None:
    result = split(names(100), Sizes(50, 10, 5))
    assert counts(result) == [50, 10, 5]
    assert int((result == LEFT_OUT).sum()) == 35


def test_shares_below_one_leave_the_rest() -> None:
    assert counts(split(names(100), Sizes(0.5, 0.1, 0))) == [50, 10, 0]


def test_a_group_too_big_for_its_split_goes_to_train() -> None:
    groups = names(20)
    groups[:15] = groups[0]
    result = split(groups)
    assert set(result[:15].tolist()) == {0}
    assert counts(result)[1:] == [2, 2]


@pytest.mark.parametrize(
    ("rows", "sizes", "words"),
    [
        (3, EIGHTY, "3 examples are too few for the split: val and test would be empty"),
        (1, EIGHTY, "1 example is too few"),
        (100, Sizes(0.8, 0.2, 0.2), "add up to 1.2"),
        (100, Sizes(0, 0, 0), "no examples at all"),
        (100, Sizes(200, 10, 10), "asks for 220 examples, and there are 100"),
        (100, Sizes(50, 0.1, 0.1), "mixes numbers of examples with shares"),
    ],
)
def test_what_cannot_be_split_is_said_and_not_guessed(rows: int, sizes: Sizes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        split(names(rows), sizes)


def test_a_split_of_nothing_is_fine_where_it_was_asked_for() -> None:
    assert counts(split(names(3), Sizes(1, 0, 0))) == [3, 0, 0]


@pytest.mark.parametrize(
    ("one", "two"),
    [("What is X?", "what  is x"), ("  HOW? ", "how"), ("Ｗｈｙ？", "why"), ("Straße", "STRASSE")],
)
def test_spacing_case_and_end_marks_make_no_other_question(one: str, two: str) -> None:
    assert plain_question(one) == plain_question(two)


@pytest.mark.parametrize(
    ("one", "two"), [("Is C fast?", "Is C++ fast?"), ("3+4?", "3-4?"), ("a b", "ab")]
)
def test_signs_inside_make_another_question(one: str, two: str) -> None:
    assert plain_question(one) != plain_question(two)
