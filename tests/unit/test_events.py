"""The event file: written line by line, read by anybody, at any time."""

import dataclasses
import json
import math
import typing

import pytest

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.events import (
    KINDS,
    CheckpointSaved,
    ConfigResolved,
    EvaluationLogged,
    EventReader,
    EventWriter,
    PhaseStarted,
    RunResumed,
    RunStarted,
    RunStopped,
    SampleGenerated,
    StepLogged,
    Warned,
    cut_back,
    decode,
    encode,
)

STEP = StepLogged(
    step=3,
    total_steps=10,
    epoch=0.3,
    loss=1.25,
    learning_rate=1e-4,
    grad_norm=0.5,
    tokens=100,
    learned_tokens=60,
    tokens_per_second=700.0,
    peak_bytes=1 << 30,
)


def example(kind):
    """Fill every field of an event kind with a value of its type."""
    values = {int: 1, float: 0.5, str: "x"}
    hints = typing.get_type_hints(kind)
    made = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if hint in values:
            made[field.name] = values[hint]
        elif field.name == "choices":
            made[field.name] = (Choice("train.bf16", True, "why"),)
        elif field.name == "phase":
            made[field.name] = "train"
        else:
            made[field.name] = {"a": "b"} if field.name == "versions" else {"a": 1.0}
    return kind(**made)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_survives_the_file(kind):
    event = example(kind)
    assert decode(encode(event)) == event


def test_what_is_written_is_read_in_order(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    reader = EventReader(tmp_path / "events.jsonl")
    first = writer.write(Warned(code="a", what="one"))
    assert reader.read_new() == [first]
    second = writer.write(STEP)
    assert reader.read_new() == [second]
    assert reader.read_new() == []
    assert second.time >= first.time > 0
    writer.close()


def test_a_torn_last_line_waits_for_its_end(tmp_path):
    path = tmp_path / "events.jsonl"
    line = encode(STEP) + "\n"
    reader = EventReader(path)
    path.write_text(line + line[:20])
    assert reader.read_new() == [STEP]
    path.write_text(line + line)
    assert reader.read_new() == [STEP]


def test_a_writer_cuts_the_torn_line_of_a_dead_one(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(encode(STEP) + "\n" + '{"event": "Warn')
    writer = EventWriter(path)
    writer.write(Warned(code="a", what="after"))
    writer.close()
    assert [type(e) for e in EventReader(path).read_new()] == [StepLogged, Warned]


def test_unknown_kinds_and_fields_are_skipped(tmp_path):
    path = tmp_path / "events.jsonl"
    extra = json.dumps({**json.loads(encode(STEP)), "flavour": "new"})
    path.write_text('{"event": "Later", "x": 1}\nnot json\n[]\n' + extra + "\n")
    assert EventReader(path).read_new() == [STEP]


def test_a_line_separator_inside_a_text_does_not_split_the_line(tmp_path):
    sample = SampleGenerated(step=0, source="base", prompt="a\u2028b\x85c", reference="", text="\n")
    writer = EventWriter(tmp_path / "events.jsonl")
    written = writer.write(sample)
    writer.close()
    assert EventReader(tmp_path / "events.jsonl").read_new() == [written]


def test_nan_goes_through_json_as_null_and_comes_back():
    event = decode(encode(dataclasses.replace(STEP, loss=math.nan)))
    assert math.isnan(event.loss)
    assert "NaN" not in encode(dataclasses.replace(STEP, loss=math.nan))


def test_cutting_back_forgets_later_steps_and_the_end(tmp_path):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    choice = ConfigResolved(choices=(Choice("train.bf16", True, "why"),))
    for event in (
        choice,
        *(dataclasses.replace(STEP, step=i) for i in (1, 2, 3)),
        RunStopped(step=3),
    ):
        writer.write(event)
    writer.close()
    reader = EventReader(path)
    reader.read_new()
    cut_back(path, 2)
    kept = reader.read_new()
    assert reader.generation == 1
    assert [getattr(e, "step", None) for e in kept] == [None, 1, 2]


def test_cutting_back_forgets_what_follows_a_forgotten_step_up_to_the_next_start(tmp_path):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    for event in (
        RunStarted(job="train", versions={}, device="cpu"),
        EvaluationLogged(step=0, metrics={"eval_loss": 2.0}),
        CheckpointSaved(step=4, path="c", bytes=1),
        EvaluationLogged(step=4, metrics={"eval_loss": 1.0}),
        CheckpointSaved(step=6, path="c", bytes=1),
        PhaseStarted(phase="train", total=9),
        RunStarted(job="train", versions={}, device="cpu"),
        PhaseStarted(phase="load"),
    ):
        writer.write(event)
    writer.cut_back(RunResumed(step=4, evaluated=0))
    writer.write(RunResumed(step=4, evaluated=0))
    writer.close()
    kept = [(type(e).__name__, getattr(e, "step", None)) for e in EventReader(path).read_new()]
    assert kept == [
        ("RunStarted", None),
        ("EvaluationLogged", 0),
        ("CheckpointSaved", 4),
        ("RunStarted", None),
        ("PhaseStarted", None),
        ("RunResumed", 4),
    ]


def test_room_is_held_for_the_last_words_and_given_back(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) >= 64 * 1024
    writer.free_reserve()
    writer.write(Warned(code="a", what="one"))
    writer.close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["events.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": ["StepLogged"]}',
        '{"event": "RunStopped", "step": "x"}',
        '{"event": "ConfigResolved", "choices": 5}',
        '{"event": "ConfigResolved", "choices": [{"odd": 1}]}',
        '{"event": "Warned", "code": 1, "what": null}',
        "[1]",
    ],
)
def test_a_line_with_values_of_another_kind_is_passed_over(line):
    assert decode(line) is None
