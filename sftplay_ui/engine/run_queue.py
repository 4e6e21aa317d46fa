"""Runs that wait for the device: each a folder with its configuration and a place in line.

The place is a number in the file `queued` of the run's folder, so a queue outlives every process.
Whoever notices that the device is free starts the next run: a worker that ends, the window when it
looks, the command that adds a run. A lock keeps two of them from starting at once in one project; a
worker that finds the device taken all the same, by another project, goes back to its place.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sftplay_ui.engine.checkpoints import list_checkpoints
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import DeviceLock, detect_device, devices_of, nvidia_cards
from sftplay_ui.engine.errors import DeviceBusyError, RunNotFoundError
from sftplay_ui.engine.launching import LAUNCHED, RECORD
from sftplay_ui.engine.preflight import refuse_hopeless
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.runs import Run, launch, list_runs, new_folder, start_run
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace

PLACE = "queued"
LOCK_SECONDS = 60


def waiting(workspace: Workspace) -> list[Run]:
    """List the runs that wait, the next one first."""
    found = []
    for file in workspace.outputs.glob(f"*/{PLACE}"):
        # a run with a worker has begun; it keeps its place until it has the device
        if (file.parent / RECORD).exists() or Run(file.parent).is_alive():
            continue
        with suppress(OSError, ValueError):
            found.append((int(file.read_text(encoding="ascii")), file.parent))
    return [Run(folder) for _, folder in sorted(found)]


def enqueue(config: RunConfig, workspace: Workspace, standby: Standby | None = None) -> Run:
    """Put a run at the end of the line; it is started at once where nothing is in its way.

    Raises what `refuse_hopeless` finds, before anything is written.
    """
    refuse_hopeless(config, workspace)
    with queue_lock(workspace):
        run = Run(new_folder(config, workspace))
        named = config.model_copy(update={"run_name": run.name})
        (run.folder / "config.yaml").write_text(config_to_yaml(named), encoding="utf-8")
        others = [place_of(other) for other in waiting(workspace)]
        write_place(run, max(others, default=0) + 1)
    start_next(workspace, standby)
    return run


def cancel(name: str, workspace: Workspace) -> None:
    """Take a run out of the line, with its folder; RunNotFoundError where it does not wait."""
    with queue_lock(workspace):
        shutil.rmtree(find_waiting(name, workspace).folder)


def move_up(name: str, workspace: Workspace) -> None:
    """Let a run change places with the one before it; the first stays where it is."""
    with queue_lock(workspace):
        run = find_waiting(name, workspace)
        line = waiting(workspace)
        at = line.index(run)
        if at:
            before = line[at - 1]
            mine, theirs = place_of(run), place_of(before)
            write_place(run, theirs)
            write_place(before, mine)


def start_next(workspace: Workspace, standby: Standby | None = None) -> Run | None:
    """Start the first run in line if the device is free; None where there is none or it is not."""
    if not waiting(workspace):
        return None
    try:
        with queue_lock(workspace, seconds=0):
            line = waiting(workspace)
            if not line or is_busy(workspace, line[0].config().train.processes):
                return None
            launch(line[0], standby=standby)
            note_early_death(line[0])
            return line[0]
    except Timeout:
        # another process is at it this very moment
        return None


def note_early_death(run: Run) -> None:
    """Let a run whose worker died before it said a word count as lost, not as waiting again."""
    launched = ProcessRecord.read(run.folder / LAUNCHED)
    if launched is not None and not launched.is_alive() and run.worker() is None:
        launched.write(run.folder / RECORD)


def leave_line(run: Run) -> None:
    """Give up a run's place in line, if it has one: its worker holds the device now."""
    (run.folder / PLACE).unlink(missing_ok=True)


def keep_place(run: Run) -> None:
    """Give a run whose worker hands over the first place in line, should another take the device.

    Between two workers nobody holds the device. A run with checkpoints gets none: cancelling what
    waits deletes it, and a failed one can be resumed.
    """
    if not has_place(run) and not list_checkpoints(run.folder / "checkpoints"):
        write_place(run, 0)


def has_place(run: Run) -> bool:
    """Tell whether a run has a place in line and does not hold the device for good yet."""
    return (run.folder / PLACE).exists()


def back_in_line(run: Run) -> None:
    """Let a run that found the device taken wait in its old place, as if it had not begun.

    Its worker calls this, and ends.
    """
    # what tells of the worker goes last: without it the run counts as waiting
    for name in (run.events_path.name, LAUNCHED, RECORD):
        (run.folder / name).unlink(missing_ok=True)


@contextmanager
def starting(workspace: Workspace) -> Iterator[None]:
    """Keep everybody else from starting a run of this project meanwhile, the line included.

    Raises DeviceBusyError where a run is just being started, or goes on and holds no device yet.
    Whether there is a device that nobody holds is left to `refuse_busy_device`.
    """
    try:
        with queue_lock(workspace):
            run = living(workspace, without=holding())
            if run is not None:
                raise DeviceBusyError(
                    f"{run.name} is running already ({run.job()}).",
                    "Wait until it is done, or stop it first; a training can be queued.",
                )
            yield
    except Timeout:
        raise DeviceBusyError(
            "Another run is being started at this moment.", "Wait a little and try again."
        ) from None


def start_now(config: RunConfig, workspace: Workspace, standby: Standby | None = None) -> Run:
    """Start a run past the line, while nobody else starts one; raises as `start_run` does."""
    with starting(workspace):
        return start_run(config, workspace, standby)


def is_busy(workspace: Workspace, processes: int = 1) -> bool:
    """Tell whether anybody holds what a run takes, or a run of this project is going on."""
    taken = devices_of(detect_device(), processes)
    if any(DeviceLock(device.lock_name).holder() is not None for device in taken):
        return True
    # a worker takes the device a moment after it has begun
    return living(workspace) is not None


def living(workspace: Workspace, without: Collection[Path] = ()) -> Run | None:
    """Find a run of this project that is going on, if any, other than those in these folders."""
    runs = [run for run in list_runs(workspace) if run.folder.resolve() not in without]
    return next((run for run in runs if run.is_alive() and run.state() == "running"), None)


def holding() -> set[Path]:
    """List the folders of the runs that hold a device, of all that may be used here."""
    devices = nvidia_cards() or [detect_device()]
    holders = [DeviceLock(device.lock_name).holder() for device in devices]
    return {Path(holder.run).resolve() for holder in holders if holder is not None}


def queue_lock(workspace: Workspace, *, seconds: float = LOCK_SECONDS) -> FileLock:
    """Keep other processes from changing the line; the lock ends with its process."""
    workspace.outputs.mkdir(parents=True, exist_ok=True)
    return FileLock(workspace.outputs / ".queue.lock", timeout=seconds)


def find_waiting(name: str, workspace: Workspace) -> Run:
    """Find a waiting run by its name."""
    line = waiting(workspace)
    for run in line:
        if run.name == name:
            return run
    if (workspace.outputs / name / "worker.json").exists():
        raise DeviceBusyError(f"{name} has begun already.", "Stop it instead.")
    known = ", ".join(run.name for run in line) or "none"
    raise RunNotFoundError(f"No run called {name!r} waits.", f"Runs that wait: {known}.")


def place_of(run: Run) -> int:
    return int((run.folder / PLACE).read_text(encoding="ascii"))


def write_place(run: Run, number: int) -> None:
    """Write a run's place in one move, so that no reader finds half a number."""
    staged = run.folder / f".{PLACE}"
    staged.write_text(str(number), encoding="ascii")
    staged.replace(run.folder / PLACE)
