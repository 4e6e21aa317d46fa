"""A mirror of a run's events for TensorBoard: the same numbers under the names people know.

The event file stays the record; this is written after each event was told, and never read here.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sftplay_ui.engine.events import EvaluationLogged, Event, RunResumed, StepLogged

FLUSH_SECONDS = 5


def mirrored(events: Iterator[Event], folder: Path) -> Iterator[Event]:
    """Yield the events as they come, and write their numbers to TensorBoard's file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
    try:
        for event in events:
            yield event
            match event:
                case StepLogged(step=step):
                    write(writer, step, step_scalars(event))
                case EvaluationLogged(step=step, metrics=metrics):
                    write(writer, step, {f"eval/{key}": value for key, value in metrics.items()})
                case RunResumed(step=step):
                    forget(writer, step + 1)
    finally:
        writer.close()


def step_scalars(event: StepLogged) -> Mapping[str, float]:
    """Name the numbers of a step."""
    return {
        "train/loss": event.loss,
        "train/learning_rate": event.learning_rate,
        "train/grad_norm": event.grad_norm,
        "train/epoch": event.epoch,
        "speed/tokens_per_second": event.tokens_per_second,
        "memory/peak_bytes": event.peak_bytes,
    }


def write(writer: EventFileWriter, step: int, scalars: Mapping[str, float]) -> None:
    """Write some numbers of one step."""
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    writer.add_event(BoardEvent(wall_time=time.time(), step=step, summary=Summary(value=values)))


def forget(writer: EventFileWriter, step: int) -> None:
    """Let TensorBoard drop what an earlier start wrote from this step on."""
    log = SessionLog(status=SessionLog.START)
    writer.add_event(BoardEvent(wall_time=time.time(), step=step, session_log=log))
