"""Trainings one after the other, in the same processes that learn together: imports are paid once.

`torch.distributed.run --nproc-per-node=2 -m tests.together PORT FOLDER...` trains each run as its
worker would; the first process keeps the record. A run that is named twice is broken off and then
goes on: stopped, or, where its folder is called `killed`, killed in children of the processes that
meet at the port.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.events import Event, EventWriter, RunFailed, RunResumed, StepLogged
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.worker.train import train

# a step after the first checkpoint, and before the second
DEATH = 4


def main(port: str, folders: list[str]) -> None:
    """Train the runs in turn."""
    torch.set_num_threads(1)
    for place, folder in enumerate(folders):
        run = Run(Path(folder))
        goes_on = folder in folders[place + 1 :]
        if goes_on and run.name == "killed":
            die_learning(run, port)
        else:
            AcceleratorState._reset_state(reset_partial_state=True)
            learn(run, stop=goes_on)


def die_learning(run: Run, port: str) -> None:
    """Let a child of each process learn until it is killed; nothing else is set up before."""
    child = os.fork()
    if child == 0:
        os.environ.update(MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="False")
        learn(run, kill=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"{run.name} was to be killed, and ended by itself")


def learn(run: Run, *, stop: bool = False, kill: bool = False) -> None:
    """Train a run; only the first process tells."""
    writer = EventWriter(run.events_path) if os.environ["RANK"] == "0" else None
    (run.folder / "stop").unlink(missing_ok=True)
    try:
        for event in train(run.config(), run.folder):
            if writer is not None:
                write(event, writer)
            if isinstance(event, StepLogged) and stop:
                run.request_stop()
            if isinstance(event, StepLogged) and kill and event.step == DEATH:
                os.kill(os.getpid(), signal.SIGKILL)
    except SFTPlayError as error:
        if writer is not None:
            writer.write(RunFailed(code=error.code, what=error.what, fix=error.fix))


def write(event: Event, writer: EventWriter) -> None:
    """Keep an event as a worker does."""
    if isinstance(event, RunResumed):
        writer.cut_back(event)
    writer.write(event)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
