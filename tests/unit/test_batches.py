"""The plan of a run and what lies in a micro-batch."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.text.tokens import TokenisedExample
from sftplay_ui.engine.worker.training.batches import Plan, learned_count, padded, side_by_side

LENGTHS = [5, 9, 2, 7, 7, 3, 8, 1, 6, 4, 30]


def plan(effective_batch=4, **train) -> Plan:
    return Plan.make(LENGTHS, TrainConfig(**train), effective_batch)


def example(*tokens: int, learned: str) -> TokenisedExample:
    return TokenisedExample(tokens, bytes(int(mark) for mark in learned))


def test_every_epoch_takes_every_example_once_in_another_order():
    made = plan(epochs=2)
    assert made.steps == 6
    epochs = [[made.examples(step) for step in steps] for steps in ((1, 2, 3), (4, 5, 6))]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == list(range(len(LENGTHS)))
    assert epochs[0] != epochs[1]


def test_the_plan_depends_on_the_seed_and_on_nothing_else():
    assert plan().examples(5) == plan().examples(5)
    assert [plan(seed=1).examples(n) for n in (1, 2)] != [plan().examples(n) for n in (1, 2)]


def test_the_heaviest_batch_comes_first_and_a_step_begins_with_its_longest():
    made = plan()
    weights = [sum(LENGTHS[n] for n in made.examples(step)) for step in (1, 2, 3)]
    assert weights[0] == max(weights)
    lengths = [LENGTHS[n] for n in made.examples(1)]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("train", "steps"),
    [({"epochs": 1}, 3), ({"epochs": 0.5}, 2), ({"epochs": 0.01}, 1), ({"max_steps": 40}, 40)],
)
def test_steps_come_from_epochs_or_from_max_steps(train, steps):
    assert plan(**train).steps == steps


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_step_is_cut_into_micro_batches_of_a_size_and_nothing_is_lost(size):
    made = plan()
    for step in range(1, 4):
        cut = made.cut(made.examples(step), size)
        assert list(chain.from_iterable(cut)) == made.examples(step)
        assert all(len(batch) == size for batch in cut[:-1])
        assert len(cut[-1]) <= size


@pytest.mark.parametrize("padded", [True, False])
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    size=st.integers(1, 4),
    short=st.integers(0, 10),
)
def test_short_examples_are_cut_by_the_room_that_long_ones_take(padded, lengths, size, short):
    lengths = sorted(lengths, reverse=True)
    # the longest of another split may be longer than what is asked to fit
    longest = max(1, max(lengths) - short)
    made = Plan.make(lengths, TrainConfig(), 4)
    cut = made.cut(range(len(lengths)), size, longest=longest, padded=padded)
    assert list(chain.from_iterable(cut)) == list(range(len(lengths)))
    for batch, after in zip(cut, [*cut[1:], None], strict=True):
        room = takes(lengths, batch, padded)
        assert room <= size * longest or len(batch) == 1
        # as many as fit
        assert after is None or takes(lengths, [*batch, after[0]], padded) > size * longest


def takes(lengths, batch, padded) -> int:
    return len(batch) * lengths[batch[0]] if padded else sum(lengths[n] for n in batch)


@given(lengths=st.lists(st.integers(1, 50), max_size=30), count=st.integers(1, 5))
def test_dealt_examples_weigh_about_the_same_in_each_hand(lengths, count):
    lengths = sorted(lengths, reverse=True)
    hands = Plan.make(lengths or [1], TrainConfig(), 4).deal(range(len(lengths)), count)
    assert sorted(chain.from_iterable(hands)) == list(range(len(lengths)))
    weights = [sum(lengths[n] for n in hand) for hand in hands]
    assert max(weights) - min(weights) <= max(lengths, default=0)


def test_side_by_side_targets_never_cross_from_one_example_to_the_next():
    batch = side_by_side([example(1, 2, 3, learned="001"), example(7, 8, learned="11")])
    assert batch.input_ids.tolist() == [[1, 2, 3, 7, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    # token 7 is learned, but nothing of its own example comes before it
    assert batch.keep.tolist() == [1, 3]
    assert batch.target.tolist() == [3, 8]
    assert (batch.tokens, batch.learned_tokens) == (5, 2)


def test_padded_examples_keep_the_same_targets():
    batch = padded([example(1, 2, 3, learned="001"), example(7, 8, learned="11")], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3], [7, 8, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    flat = batch.input_ids.flatten()
    assert flat[batch.keep].tolist() == [2, 7]
    assert torch.equal(flat[batch.keep + 1], batch.target)


def test_examples_of_one_length_need_no_mask():
    assert padded([example(1, 2, learned="01")] * 2, pad_id=0).attention_mask is None


def test_the_pad_token_may_be_learned_where_it_is_the_end_token():
    batch = padded([example(5, 9, learned="01"), example(5, learned="0")], pad_id=9)
    assert batch.target.tolist() == [9]


def test_a_learned_first_token_teaches_nothing():
    assert learned_count(example(1, 2, learned="11")) == 1
