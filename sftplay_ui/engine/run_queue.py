"""Runs that wait for the device: each a folder with its configuration and a place in line.

The place is a number in the file `queued` of the run's folder, so a queue outlives every process.
Whoever notices that the device is free starts the next run: a worker that ends, the window when it
looks, the command that adds a run. A lock keeps two of them from starting at once.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import DeviceLock, detect_device
from sftplay_ui.engine.errors import DeviceBusyError, RunNotFoundError
from sftplay_ui.engine.preflight import refuse_hopeless
from sftplay_ui.engine.runs import Run, launch, list_runs, new_folder
from sftplay_ui.engine.workspace import Workspace

PLACE = "queued"
LOCK_SECONDS = 60


def waiting(workspace: Workspace) -> list[Run]:
    """List the runs that wait, the next one first."""
    found = []
    for file in workspace.outputs.glob(f"*/{PLACE}"):
        # a run with a worker has begun, should its place have been left behind
        if (file.parent / "worker.json").exists():
            continue
        with suppress(OSError, ValueError):
            found.append((int(file.read_text(encoding="ascii")), file.parent))
    return [Run(folder) for _, folder in sorted(found)]


def enqueue(config: RunConfig, workspace: Workspace) -> Run:
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
    start_next(workspace)
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


def start_next(workspace: Workspace) -> Run | None:
    """Start the first run in line if the device is free; None where there is none or it is not."""
    if not waiting(workspace):
        return None
    try:
        with queue_lock(workspace, seconds=0):
            line = waiting(workspace)
            if not line or is_busy(workspace):
                return None
            launch(line[0])
            (line[0].folder / PLACE).unlink(missing_ok=True)
            return line[0]
    except Timeout:
        # another process is at it this very moment
        return None


def is_busy(workspace: Workspace) -> bool:
    """Tell whether a run is going on; one that has told its end is only leaving."""
    holder = DeviceLock(detect_device().lock_name).holder()
    if holder is not None and Run(Path(holder.run)).state() == "running":
        return True
    # a worker takes the device a moment after it has begun
    return any(run.is_alive() and run.state() == "running" for run in list_runs(workspace))


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
