"""The mirror for TensorBoard: all the numbers, and none that were taken back."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sftplay_ui.engine.events import EvaluationLogged, PhaseStarted, RunResumed, StepLogged
from sftplay_ui.engine.worker.tensorboard import mirrored


def step(number: int, loss: float) -> StepLogged:
    return StepLogged(
        step=number,
        total_steps=4,
        epoch=number / 4,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=2.0,
        tokens=10,
        learned_tokens=5,
        tokens_per_second=100.0,
        peak_bytes=2**30,
    )


def read(folder, tag: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder))
    board.Reload()
    return [(event.step, round(event.value, 3)) for event in board.Scalars(tag)]


def test_events_pass_through_and_their_numbers_are_written(tmp_path):
    events = [
        PhaseStarted(phase="train", total=4),
        step(1, 2.5),
        EvaluationLogged(step=1, metrics={"eval_loss": 1.5}),
        step(2, 2.0),
    ]
    assert list(mirrored(iter(events), tmp_path / "tb")) == events
    assert read(tmp_path / "tb", "train/loss") == [(1, 2.5), (2, 2.0)]
    assert read(tmp_path / "tb", "eval/eval_loss") == [(1, 1.5)]
    assert read(tmp_path / "tb", "memory/peak_bytes") == [(1, 2**30), (2, 2**30)]


def test_an_event_is_told_before_it_is_mirrored(tmp_path):
    told = mirrored(iter([step(1, 2.5)]), tmp_path / "tb")
    assert next(told) == step(1, 2.5)


def test_steps_that_are_taken_again_replace_what_was_there(tmp_path):
    list(mirrored(iter([step(1, 3.0), step(2, 2.9), step(3, 2.8)]), tmp_path / "tb"))
    list(mirrored(iter([RunResumed(step=1, evaluated=0), step(2, 1.0)]), tmp_path / "tb"))
    assert read(tmp_path / "tb", "train/loss") == [(1, 3.0), (2, 1.0)]
