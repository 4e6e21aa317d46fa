"""Phases of a job: a blocking call told as events, and the stop that every phase honours."""

import os
import queue
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sftplay_ui.engine.events import Event, PhaseProgressed, PhaseStarted
from sftplay_ui.engine.models.downloads import OnProgress, Progress
from sftplay_ui.engine.runs import stop_requested

Result = TypeVar("Result")


class StopRequested(Exception):
    """The person asked the run to stop: a wish, not an error."""


def alone() -> bool:
    """Tell whether this process does the job by itself.

    Several that learn together leave together, at the end of a step: one that left by itself would
    keep the others waiting for it.
    """
    return os.environ.get("WORLD_SIZE", "1") == "1"


def leave_if_asked(run_dir: Path) -> None:
    """Raise StopRequested when the run was asked to stop, and nobody waits for this process."""
    if alone() and stop_requested(run_dir):
        raise StopRequested


def leave_if_urged(run_dir: Path) -> None:
    """Raise StopRequested when the run was asked twice: the step it is in is given up."""
    if not alone():
        return
    try:
        urged = (run_dir / "stop").read_text(encoding="ascii") == "now"
    except FileNotFoundError:
        return
    if urged:
        raise StopRequested


def tell_progress(
    call: Callable[[OnProgress], Result], run_dir: Path
) -> Generator[Event, None, Result]:
    """Run a call that reports progress in a thread, and yield its reports as events.

    Raises what the call raises, and StopRequested when the run is asked to stop meanwhile: the call
    ends at its next report.
    """
    reports: queue.Queue[Progress | None] = queue.Queue()

    def report(progress: Progress) -> None:
        leave_if_asked(run_dir)
        reports.put(progress)

    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(call, report)
        outcome.add_done_callback(lambda _: reports.put(None))
        total = None
        while (progress := reports.get()) is not None:
            if progress.total != total:
                total = progress.total
                yield PhaseStarted(phase="download", total=total or 0)
            yield PhaseProgressed(done=progress.done)
    return outcome.result()
