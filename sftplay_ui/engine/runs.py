"""Runs: a run is a folder, and a handle is its path.

Start, follow, stop, kill, resume and list them. The state of a run is derived from its last event
and from whether its worker lives; it is never stored. What a worker does is left to `worker`.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sftplay_ui.engine.backends import settle_backend
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml, load_config
from sftplay_ui.engine.device import DeviceLock, detect_device
from sftplay_ui.engine.errors import (
    ConfigError,
    DeviceBusyError,
    ResumeError,
    RunNotFoundError,
    WorkerLostError,
)
from sftplay_ui.engine.events import (
    Event,
    EventReader,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    StepLogged,
    decode,
)
from sftplay_ui.engine.launching import (
    LAUNCHED,
    LOG,
    RECORD,
    start_worker,
    surroundings,
    worker_command,
)
from sftplay_ui.engine.preflight import need_room, refuse_hopeless
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace

State = Literal["running", "finished", "stopped", "failed", "lost"]
TAIL_BYTES = 64 * 1024
LEAVE_SECONDS = 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
RESERVED = {"con", "prn", "aux", "nul", "tb", "last"} | {
    f"{port}{i}" for port in ("com", "lpt") for i in range(10)
}


@dataclass(frozen=True)
class RunSummary:
    """One line about a run, for lists; `loss` and `step` are the last logged ones."""

    run: str
    job: str
    state: State
    step: int
    total_steps: int
    loss: float | None
    started: float


@dataclass(frozen=True)
class Run:
    """A run, by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.folder / LOG

    @property
    def workspace(self) -> Workspace:
        return Workspace.of_run(self.folder)

    def config(self) -> RunConfig:
        """Read the run's resolved configuration."""
        return load_config(self.folder / "config.yaml", (), self.workspace).config

    def job(self) -> str:
        """Name the job; "?" where the configuration can no longer be read."""
        try:
            return self.config().job
        except ConfigError:
            return "?"

    def events(self) -> list[Event]:
        """Read all events so far."""
        return EventReader(self.events_path).read_new()

    def worker(self) -> ProcessRecord | None:
        return ProcessRecord.read(self.folder / RECORD)

    def is_alive(self) -> bool:
        """Tell whether the run's worker lives, or another of its processes does."""
        return any(process.is_alive() for process in self.processes())

    def processes(self) -> list[ProcessRecord]:
        """List the worker, and what was started for it; where several learn that is a launcher."""
        started = ProcessRecord.read(self.folder / LAUNCHED)
        return [process for process in (started, self.worker()) if process is not None]

    def state(self) -> State:
        """Derive the state; liveness is asked first, so what a dead worker wrote is all there."""
        alive = self.is_alive()
        tail = last_events(self.events_path)
        return derive_state(tail[-1] if tail else None, alive)

    def summary(self) -> RunSummary:
        """Sum up the run from the end of its event file."""
        alive = self.is_alive()
        tail = last_events(self.events_path)
        step = next((e for e in reversed(tail) if isinstance(e, StepLogged)), None)
        return RunSummary(
            run=self.name,
            job=self.job(),
            state=derive_state(tail[-1] if tail else None, alive),
            step=step.step if step else 0,
            total_steps=step.total_steps if step else 0,
            loss=step.loss if step else None,
            started=(self.folder / "config.yaml").stat().st_mtime,
        )

    def follow(self, poll_seconds: float = 0.2) -> Iterator[Event]:
        """Yield events from the first to the last, waiting for new ones while the worker lives.

        The last event is a RunFinished, RunStopped or RunFailed; a worker that died without a word
        is reported as RunFailed with the code `worker_lost`. Of a resumed run, the end it had
        before is told as part of its story, and nothing twice where the record is cut back.
        """
        reader = EventReader(self.events_path)
        generation = 0
        while True:
            alive = self.is_alive()
            events = reader.read_new()
            if reader.generation != generation:
                generation = reader.generation
                # what stands before the mark was told already; it is written right after the cut
                mark = last_of(RunResumed, events)
                events = events[mark:] if mark >= 0 else []
            begun = last_of(RunStarted, events)
            for place, event in enumerate(events):
                yield event
                if isinstance(event, RunFinished | RunStopped | RunFailed) and place > begun:
                    return
            if not alive:
                yield self.lost()
                return
            time.sleep(poll_seconds)

    def lost(self) -> RunFailed:
        """Describe the end of a worker that said nothing."""
        return RunFailed(
            code=WorkerLostError.code,
            what=f"The worker of {self.name} ended without saying why.",
            fix=f"Resume the run; its log is {self.workspace.shorten(self.log_path)}.",
            time=time.time(),
        )

    def request_stop(self) -> None:
        """Ask the worker to save and leave; a second request asks it to leave at once."""
        stop = self.folder / "stop"
        stop.write_text("now" if stop.exists() else "soon", encoding="ascii")

    def kill(self) -> None:
        """End the run's processes and their children without asking."""
        for process in self.processes():
            process.kill_tree()

    def delete(self) -> None:
        """Remove the run's folder and its adapter; refused while the worker lives."""
        if not has_left(self):
            raise DeviceBusyError(f"{self.name} is still running.", "Stop it first.")
        shutil.rmtree(self.folder)
        shutil.rmtree(self.workspace.adapters / self.name, ignore_errors=True)
        shutil.rmtree(self.workspace.outputs / "tb" / self.name, ignore_errors=True)


def last_of(kind: type[Event], events: list[Event]) -> int:
    """Give the place of the last event of a kind, -1 where there is none."""
    places = (i for i in reversed(range(len(events))) if isinstance(events[i], kind))
    return next(places, -1)


def derive_state(last: Event | None, alive: bool) -> State:
    """Say what a run is doing, from its last event and whether its worker lives."""
    match last:
        case RunFinished():
            return "finished"
        case RunStopped():
            return "stopped"
        case RunFailed():
            return "failed"
    return "running" if alive else "lost"


def last_events(path: Path) -> list[Event]:
    """Read the events at the end of a file, without reading all of a long one."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    found = (decode(line.decode("utf-8", "replace")) for line in lines)
    return [event for event in found if event is not None]


def start_run(config: RunConfig, workspace: Workspace, standby: Standby | None = None) -> Run:
    """Make a run folder, start its worker in a session of its own, and return once it is there.

    A worker that waits in `standby` becomes the run's worker. Raises before anything is written:
    DeviceBusyError when another run holds the device, and whatever `refuse_hopeless` finds.
    """
    run, _ = open_run(config, workspace, standby=standby)
    return run


def open_run(
    config: RunConfig, workspace: Workspace, *, pipes: bool = False, standby: Standby | None = None
) -> tuple[Run, "subprocess.Popen[str]"]:
    """Start a run and give its process too; with `pipes`, its stdin and stdout stay connected."""
    refuse_busy_device()
    run = make_run(config, workspace)
    return run, launch(run, pipes=pipes, standby=standby)


def make_run(config: RunConfig, workspace: Workspace) -> Run:
    """Make a run's folder, and start nothing; raises first what `refuse_hopeless` finds."""
    refuse_hopeless(config, workspace)
    run = Run(new_folder(config, workspace))
    named = config.model_copy(update={"run_name": run.name})
    (run.folder / "config.yaml").write_text(config_to_yaml(named), encoding="utf-8")
    return run


def resume_run(run: Run, standby: Standby | None = None) -> Run:
    """Start the worker of a stopped, failed or lost run again; it goes on from its checkpoint."""
    if not has_left(run):
        raise ResumeError(f"{run.name} is still running.", "Follow it instead of resuming it.")
    if run.state() == "finished":
        raise ResumeError(f"{run.name} is finished.", "Extend it by some epochs instead.")
    run.config()  # a worker that could not read it would die without a word
    refuse_busy_device()
    need_room(run.workspace)
    launch(run, standby=standby)
    return run


def has_left(run: Run) -> bool:
    """Tell whether a run's worker is gone; one that has told its end is waited for a little."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while run.is_alive():
        if run.state() == "running" or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def refuse_busy_device() -> None:
    """Raise DeviceBusyError when a living run holds the device, naming it.

    A run that has told its end is only leaving: it is waited for, a few seconds at most.
    """
    lock = DeviceLock(detect_device().lock_name)
    deadline = time.monotonic() + LEAVE_SECONDS
    while (holder := lock.holder()) is not None:
        run = Run(Path(holder.run))
        if run.state() == "running" or time.monotonic() > deadline:
            raise DeviceBusyError(
                f"{run.name} is using the {lock.device_id} device.",
                "Wait until it is done, or stop it first.",
            )
        time.sleep(0.05)


def launch(
    run: Run, *, pipes: bool = False, fallen: str | None = None, standby: Standby | None = None
) -> "subprocess.Popen[str]":
    """Start a run's worker and wait for its record.

    Where one worker hands over to another, `fallen` says why its backend gave up, if it did; a stop
    that was asked for meanwhile is meant for both.
    """
    config = run.config()
    python, environment = surroundings(
        settle_backend(run.folder, config, fallen or ""), config.train.processes
    )
    if fallen is None:
        (run.folder / "stop").unlink(missing_ok=True)
    command = worker_command(run.folder, config.train.processes, python)
    warm = standby.hand_over(run.folder, command, environment, pipes=pipes) if standby else None
    return warm or start_worker(run.folder, command, environment, pipes=pipes)


def new_folder(config: RunConfig, workspace: Workspace) -> Path:
    """Make a folder no run has yet: the asked name, or with -2, -3 and so on behind it."""
    base = run_name(config)
    workspace.outputs.mkdir(parents=True, exist_ok=True)
    taken = {path.name.casefold() for path in workspace.outputs.iterdir()}
    number = 1
    while True:
        name = base if number == 1 else f"{base}-{number}"
        number += 1
        if name.casefold() in taken:
            continue
        try:
            (workspace.outputs / name).mkdir()
        except FileExistsError:
            continue
        return workspace.outputs / name


def run_name(config: RunConfig) -> str:
    """Check the asked name, or make one from the job and the model."""
    if config.run_name != "auto":
        check_run_name(config.run_name)
        return config.run_name
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model.name).name).strip("-.") or "model"
    match config.job:
        case "train":
            return f"{model}-{config.tuning.mode}" if config.tuning.mode != "auto" else model
        case "find_lr":
            return f"find-lr-{model}"
        case "evaluate":
            return f"evaluate-{Path(config.evaluate.run or model).name}"
        case "merge":
            return f"merge-{Path(config.merge.adapter or model).name}"
        case "chat":
            return f"chat-{Path(config.chat.run or model).name}"


def check_run_name(name: str) -> None:
    """Refuse names that are no plain folder name on every system."""
    if NAME.fullmatch(name) and name.split(".")[0].casefold() not in RESERVED and name[-1] != ".":
        return
    raise RunNotFoundError(
        f"{name!r} cannot be the name of a run.",
        "Use up to 80 letters, digits, dots, dashes and underscores, starting with a letter.",
    )


def list_runs(workspace: Workspace) -> list[Run]:
    """List the runs, newest first; a folder counts once its worker has been there."""
    if not workspace.outputs.is_dir():
        return []
    found = [p.parent for p in workspace.outputs.glob("*/worker.json")]
    found = [folder for folder in found if (folder / "config.yaml").exists()]
    return [
        Run(folder)
        for folder in sorted(
            found,
            key=lambda f: ((f / "config.yaml").stat().st_mtime, f.name),
            reverse=True,
        )
    ]


def find_run(name: str, workspace: Workspace) -> Run:
    """Find a run by its name or its path; RunNotFoundError names the ones there are."""
    runs = list_runs(workspace)
    for run in runs:
        if name in (run.name, str(run.folder)):
            return run
    known = ", ".join(run.name for run in runs[:5]) or "none yet"
    raise RunNotFoundError(f"There is no run called {name!r}.", f"Runs here: {known}.")


def stop_requested(folder: Path) -> bool:
    """Tell a worker whether it was asked to stop."""
    return (folder / "stop").exists()
