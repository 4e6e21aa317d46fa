"""All runs of a workspace, as the window sees them: alive.

For each run that lives or is looked at, a background thread follows its worker's events into a
queue; whoever asks drains that queue into the run's `Story`. Pages only read: `since` answers
"all that is new to you" in one small dict. Nothing here can slow down a worker: it writes a file,
and a full queue holds up the file's reader only.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sftplay_ui.answers import Seen, Signature, run_since, signature, small_facts
from sftplay_ui.backend_setup import BackendSetup
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo, DeviceLock, detect_device
from sftplay_ui.engine.errors import RunNotFoundError, SFTPlayError
from sftplay_ui.engine.events import Event, EventReader
from sftplay_ui.engine.extension import extend_run
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.run_queue import enqueue, start_next, start_now, starting, waiting
from sftplay_ui.engine.runs import Run, RunSummary, find_run, list_runs, resume_run
from sftplay_ui.engine.warm_worker import Standby
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.story import Story

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0
DEVICE_SECONDS = 2.0
QUEUE_SIZE = 4096
RUNS_LISTED = 200


@dataclass(frozen=True)
class Restarted:
    """The event file was replaced (a resume cut it back): the story begins anew."""


@dataclass(frozen=True)
class Ended:
    """The worker is gone and all it wrote has been read."""


class Follower:
    """One run, followed by a thread of its own; `story` is up to date after each `drain`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.worker = ProcessRecord.read(run.folder / "worker.json")
        self.story = Story(run)
        self.queue: queue.Queue[Event | Restarted | Ended] = queue.Queue(QUEUE_SIZE)
        self.closed = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.pump, name=f"follow {run.name}", daemon=True)
        self.thread.start()

    def pump(self) -> None:
        """Follow the run's events into the queue until its worker is gone."""
        reader = EventReader(self.run.events_path)
        generation = reader.generation
        while not self.closed.is_set():
            # asked before reading: what a dead worker wrote is then all there
            alive = self.worker is not None and self.run.is_alive()
            events = reader.read_new()
            if reader.generation != generation:
                generation = reader.generation
                self.put(Restarted())
            for event in events:
                self.put(event)
            if not alive:
                self.put(Ended())
                return
            self.closed.wait(POLL_SECONDS)

    def put(self, item: Event | Restarted | Ended) -> None:
        """Wait for room: nothing is dropped, and the worker does not notice."""
        while not self.closed.is_set():
            try:
                self.queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return

    def drain(self) -> Story:
        """Bring the story up to date with what the thread has read."""
        with self.lock:
            while True:
                try:
                    item = self.queue.get_nowait()
                except queue.Empty:
                    return self.story
                match item:
                    case Restarted():
                        self.story = Story(self.run)
                    case Ended():
                        self.story.end()
                    case _:
                        self.story.add(item)

    def close(self) -> None:
        self.closed.set()


@dataclass
class Library:
    """The runs on disk, newest first, read again only where their files changed."""

    rows: dict[str, tuple[tuple[Signature, bool], RunSummary]] = field(default_factory=dict)

    def summaries(self, runs: Iterable[Run]) -> list[RunSummary]:
        """Sum up each run; a run whose configuration cannot be read is left out."""
        found: dict[str, tuple[tuple[Signature, bool], RunSummary]] = {}
        for run in runs:
            key = (signature(run.events_path), run.is_alive())
            known = self.rows.get(run.name)
            try:
                summary = known[1] if known and known[0] == key else run.summary()
            except (SFTPlayError, OSError):
                continue
            found[run.name] = (key, summary)
        self.rows = found
        return [summary for _, summary in found.values()]


class LiveRuns:
    """The runs of one workspace; attaches to whatever lives there, whoever started it."""

    def __init__(
        self,
        workspace: Workspace,
        setup: BackendSetup | None = None,
        standby: Standby | None = None,
    ) -> None:
        self.workspace: Final = workspace
        # None where those who use the window may not install anything on its computer
        self.setup: Final = setup
        self.standby: Final = standby
        self.followers: dict[str, Follower] = {}
        self.library = Library()
        self.listed: list[RunSummary] = []
        self.lock = threading.RLock()
        self.looked = 0.0
        self.device_looked = 0.0
        self.device: DeviceInfo | None = None
        self.line: list[Run] = []
        self.tending: threading.Thread | None = None
        # who holds the device without doing a job puts it down when one begins
        self.make_room: list[Callable[[], None]] = []
        self.look(force=True)

    def look(self, *, force: bool = False) -> None:
        """Look for new, resumed and deleted runs; at most once a second unless forced."""
        with self.lock:
            now = time.monotonic()
            if not force and now - self.looked < LOOK_SECONDS:
                return
            self.looked = now
            self.tend_line()
            runs = {run.name: run for run in list_runs(self.workspace)[:RUNS_LISTED]}
            self.listed = self.library.summaries(runs.values())
            for name in self.followers.keys() - runs.keys():
                self.followers.pop(name).close()
            newest: set[str] = set()
            for row in self.listed:
                if row.state == "running" or row.job not in newest:
                    self.follow(runs[row.run])
                newest.add(row.job)

    def follow(self, run: Run) -> Follower:
        """Give the run's follower; a new one where there is none or the run has a new worker."""
        with self.lock:
            known = self.followers.get(run.name)
            worker = ProcessRecord.read(run.folder / "worker.json")
            if known is not None and known.worker == worker:
                return known
            if known is not None:
                known.close()
            self.followers[run.name] = Follower(run)
            return self.followers[run.name]

    def story(self, name: str) -> Story:
        """Tell what a run has told so far; RunNotFoundError where there is no such run."""
        folder = self.workspace.outputs / name
        if Path(name).name != name or not (folder / "worker.json").is_file():
            raise RunNotFoundError(f"There is no run called {name!r}.", "Choose one of the list.")
        return self.follow(Run(folder)).drain()

    def summaries(self, job: str | None = None) -> list[RunSummary]:
        """List the runs on disk, newest first, all or those of one job."""
        self.look(force=True)
        return [row for row in self.listed if job in (None, row.job)]

    def start(self, config: RunConfig) -> Run:
        """Start a run, one at a time; DeviceBusyError names the run that is in the way."""
        for give_way in self.make_room:
            give_way()
        with self.lock:
            run = start_now(config, self.workspace, self.standby)
            self.look(force=True)
            return run

    def resume(self, name: str) -> Run:
        """Let a stopped, failed or lost run go on."""
        for give_way in self.make_room:
            give_way()
        with self.lock, starting(self.workspace):
            run = resume_run(find_run(name, self.workspace), self.standby)
            self.look(force=True)
            return run

    def extend(self, name: str, epochs: float) -> Run:
        """Let a finished training run learn longer; ValueError for epochs that are none."""
        for give_way in self.make_room:
            give_way()
        with self.lock, starting(self.workspace):
            run = extend_run(find_run(name, self.workspace), epochs, self.standby)
            self.look(force=True)
            return run

    def enqueue(self, config: RunConfig) -> tuple[Run, int]:
        """Put a run in line; gives its place there, 0 where it has started at once."""
        run = enqueue(config, self.workspace, self.standby)
        self.look(force=True)
        names = [each.name for each in waiting(self.workspace)]
        return run, names.index(run.name) + 1 if run.name in names else 0

    def tend_line(self) -> None:
        """Start the next run in line, should the worker before it have died; without waiting."""
        self.line = waiting(self.workspace)
        if self.line and (self.tending is None or not self.tending.is_alive()):
            self.tending = threading.Thread(
                target=start_next,
                args=(self.workspace, self.standby),
                name="tend the line",
                daemon=True,
            )
            self.tending.start()

    def close(self) -> None:
        """End the threads, and the worker that waits for a run; the runs go on."""
        with self.lock:
            for follower in self.followers.values():
                follower.close()
        if self.standby is not None:
            self.standby.close()

    def since(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a page: everything small about the selected run, and of its series what is new."""
        self.look()
        if self.standby is not None:
            self.standby.tend(idle=self.is_idle())
        seen = Seen.of(query)
        answer: dict[str, Any] = {
            "project": self.workspace.root.name,
            "device": self.device_facts(),
            "jobs": self.jobs(),
            "line": [run.name for run in self.line],
            "setup": self.setup.progress().to_json() if self.setup else None,
            **self.library_since(seen),
        }
        name = self.selected(seen.run if query.get("chosen") else None)
        if name is None:
            return {**answer, "run": None, "state": "idle", "total": 0}
        try:
            story = self.story(name)
        except RunNotFoundError:  # deleted a moment ago
            return {**answer, "run": None, "state": "idle", "total": 0}
        return {**answer, **run_since(story, seen)}

    def selected(self, wanted: str | None) -> str | None:
        """Choose the run a page shows: the wanted one, else the newest living, else the newest."""
        with self.lock:
            names = {row.run for row in self.listed}
            if wanted in names:
                return wanted
            training = [row for row in self.listed if row.job in ("train", "find_lr")]
            alive = [row for row in training if row.state == "running"]
            return next((row.run for row in [*alive, *training]), None)

    def jobs(self) -> list[dict[str, Any]]:
        """Describe the newest run of each job and every living one, newest first."""
        with self.lock:
            rows = list(self.listed)
        found: list[dict[str, Any]] = []
        newest: set[str] = set()
        for row in rows:
            follower = self.followers.get(row.run)
            if follower is None:
                continue
            story = follower.drain()
            if row.job not in newest or story.state == "running":
                found.append({"job": row.job, **small_facts(story)})
            newest.add(row.job)
        return found

    def library_since(self, seen: Seen) -> dict[str, Any]:
        """Give the list of runs where it differs from what the page has."""
        with self.lock:
            rows = [asdict(row) for row in self.listed]
        version = f"{hash(str(rows)):x}"
        return (
            {"library": version} if version == seen.library else {"library": version, "runs": rows}
        )

    def is_idle(self) -> bool:
        """Tell whether no run of this project goes on, and none of another holds the device."""
        if any(row.state == "running" for row in self.listed):
            return False
        device = self.looked_up_device()
        return DeviceLock(device.lock_name).holder() is None

    def looked_up_device(self) -> DeviceInfo:
        """Give the device, looked up every two seconds."""
        with self.lock:
            now = time.monotonic()
            if self.device is None or now - self.device_looked > DEVICE_SECONDS:
                self.device, self.device_looked = detect_device(), now
            return self.device

    def device_facts(self) -> dict[str, Any]:
        """Name the device and how much of its memory is taken."""
        device = self.looked_up_device()
        return {
            "name": device.name,
            "kind": device.kind,
            "total": device.total_bytes,
            "used": device.total_bytes - device.free_bytes,
        }
