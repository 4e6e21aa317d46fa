"""A worker that is there before its run: it has imported what takes long, and waits for a folder.

The window keeps one while nothing runs, and whoever starts a run offers it that run first
(`Standby.hand_over`). Until then it has no folder, record, lock, model or CUDA context; from then
on it is that run's worker like any other. Wherever it might differ from a fresh one by more than
the clock, a fresh one is started instead:

* it would be started by another command (another interpreter, several processes) or with other
  environment variables: all are compared, since any library may have read any of them;
* a file of this program or the set of installed packages has changed since: it would go on with a
  mixture of old and new modules;
* it is not ready, or does not leave its record in the run's folder at once. Then it is killed
  before another is started: a run never has two workers.

It ends with its window, however that ends: it reads a pipe that only the window holds open. What
the worker's own side does is in `worker.__main__`.
"""

import json
import subprocess
import sysconfig
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from sftplay_ui.engine.backends import Receipt
from sftplay_ui.engine.launching import LAUNCHED, OWN_SESSION, RECORD, surroundings, worker_command
from sftplay_ui.engine.processes import ProcessRecord, reap
from sftplay_ui.engine.workspace import PROJECT_ROOT

READY: Final = "ready"
# the page has loaded, and nobody is about to start anything
IDLE_SECONDS = 3.0
ANSWER_SECONDS = 5.0
# a waiting worker takes a tenth of this (0.36 GB, measured without a GPU)
LEAST_FREE_BYTES = 3_600_000_000

# where nothing speaks against it, a run is started by this command with these variables
USUAL: Final = Receipt("bnb", "bnb", "as asked")


class WarmWorker:
    """One process that waits for its run."""

    def __init__(self) -> None:
        # before it starts: what changes while it imports counts as changed
        self.stamp = code_stamp()
        python, self.environment = surroundings(USUAL)
        self.command = worker_command(None, 1, python)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=PROJECT_ROOT,
            env=self.environment,
            encoding="utf-8",
            **OWN_SESSION,
        )
        self.record = ProcessRecord.of(self.process.pid)
        self.ready = threading.Event()
        self.listener = threading.Thread(target=self.listen, name="warm worker", daemon=True)
        self.listener.start()
        reap(self.process)

    def listen(self) -> None:
        """Wait for the word that all is imported."""
        assert self.process.stdout is not None
        for line in iter(self.process.stdout.readline, ""):
            if line.strip() == READY:
                self.ready.set()
                return

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def suits(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Tell whether a fresh worker would be the same but for the time it takes."""
        return (
            self.ready.is_set()
            and list(command) == [*self.command, str(folder)]
            and dict(environment) == self.environment
            and code_stamp() == self.stamp
        )

    def become(self, folder: Path, *, pipes: bool) -> bool:
        """Give it the run's folder; False where it does not answer at once."""
        stdin = self.process.stdin
        assert stdin is not None
        self.record.write(folder / LAUNCHED)
        try:
            stdin.write(json.dumps({"run": str(folder), "pipes": pipes}) + "\n")
            stdin.flush()
        except OSError:  # it has just died
            return False
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.has_come(folder):
            if not self.is_alive() or time.monotonic() > deadline:
                # a short run may have ended between the two looks
                return self.has_come(folder)
            time.sleep(0.01)
        return True

    def has_come(self, folder: Path) -> bool:
        """Tell whether it has left its record in the run's folder."""
        found = ProcessRecord.read(folder / RECORD)
        return found is not None and found.is_of(self.record)

    def let_go(self) -> None:
        """Close this side of its pipes: its run needs none."""
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            # what a dead one did not read cannot be written any more
            with suppress(OSError):
                pipe.close()

    def close(self) -> None:
        """End it; it has nothing to lose."""
        self.process.kill()
        self.process.wait()
        self.let_go()


class Standby:
    """At most one worker that waits, kept by a window; `tend` starts it, `hand_over` uses it up."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.worker: WarmWorker | None = None
        self.idle_since: float | None = None
        self.is_closed = False

    def tend(self, *, idle: bool) -> None:
        """Start a worker when nothing has run for a moment and there is memory to spare.

        To be called about once a second while somebody looks at the window. What runs gets the
        memory of one that waits. One that ended by itself is not replaced before something has run:
        whoever ended it, or whatever did, had a reason.
        """
        with self.lock:
            now = time.monotonic()
            if not idle or self.idle_since is None:
                self.idle_since = now
            if not idle:
                self.put_down()
            idle_long = now - self.idle_since >= IDLE_SECONDS
            if idle_long and psutil.virtual_memory().available >= LEAST_FREE_BYTES:
                # a file is being replaced, or no process can be had: tried again later
                with suppress(OSError):
                    self.start()

    def start(self) -> None:
        """Start a worker that waits, unless there is one."""
        with self.lock:
            if self.worker is None and not self.is_closed:
                self.worker = WarmWorker()

    def hand_over(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        pipes: bool = False,
    ) -> "subprocess.Popen[str] | None":
        """Let the waiting worker become a run's worker; None where a fresh one has to be started.

        `command` and `environment` are the fresh one's. With `pipes`, stdin and stdout stay
        connected.
        """
        with self.lock:
            worker, self.worker = self.worker, None
            self.idle_since = None
        if worker is None:
            return None
        taken = False
        # a file is being replaced, or the disk is full: a fresh one is started, or tells that
        with suppress(OSError):
            taken = worker.suits(folder, command, environment) and worker.become(
                folder, pipes=pipes
            )
        if not taken:
            worker.close()
            return None
        if not pipes:
            worker.let_go()
        return worker.process

    def close(self) -> None:
        """End the worker that waits, if any, and start none any more."""
        with self.lock:
            self.is_closed = True
            self.put_down()

    def put_down(self) -> None:
        """End the worker that waits, if any."""
        with self.lock:
            worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()


def code_stamp() -> tuple[object, ...]:
    """Tell one state of this program's files and of the installed packages from another."""
    modules = sorted((PROJECT_ROOT / "sftplay_ui").rglob("*.py"))
    stats = [(str(path), path.stat()) for path in modules]
    packages = Path(sysconfig.get_path("purelib"))
    return (
        packages.stat().st_mtime_ns,
        *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats),
    )
