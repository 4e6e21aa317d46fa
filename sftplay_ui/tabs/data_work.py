"""How far reading and processing are, for every page that asks, and how to stop them.

The work itself is an event of the page that began it; any page may look on, reload or be closed
meanwhile. What has been processed is read off the disk, whoever did it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.data.process import REPORT_NAME, DataProgress, Examination, OnProgress
from sftplay_ui.engine.errors import DataError

PHASES = {"read": "Reading", "compare": "Looking for duplicates", "write": "Writing"}


class Superseded(DataError):
    """The page asked for something newer, so that this answer is not wanted any more."""

    def __init__(self) -> None:
        super().__init__("The settings have changed.", "Wait for the newer look.")


@dataclass
class Doing:
    """One piece of work: how far it is, and whether it should end."""

    progress: DataProgress
    rows: int | None
    ends: type[DataError] | None = None


class DataWork:
    """What is being examined and processed in a workspace: at most one of each at a time."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.doing: dict[str, Doing] = {}
        self.rows: dict[tuple[str, ...], int] = {}
        self.found = 0
        self.newest: tuple[object, Examination] | None = None

    @contextmanager
    def begin(self, what: str, files: tuple[str, ...]) -> Iterator[OnProgress]:
        """Note how far the engine is while `what` (examine or process) lasts."""
        mine = Doing(DataProgress("read", 0, None), self.rows.get(files))
        with self.lock:
            self.doing[what] = mine

        def tell(progress: DataProgress) -> None:
            mine.progress = progress
            if mine.ends is not None:
                raise mine.ends()

        try:
            yield tell
        finally:
            with self.lock:
                if self.doing.get(what) is mine:
                    del self.doing[what]

    def examined(self, files: tuple[str, ...], exam: Examination, version: object = None) -> None:
        """Remember an examination: a reload asks for it again, and progress gets its total."""
        self.rows = {files: exam.rows}
        self.found = exam.found
        self.newest = version, exam

    def known(self, version: object) -> Examination | None:
        """Give the newest examination if it was of just this version of files and settings."""
        newest = self.newest
        return newest[1] if newest is not None and newest[0] == version else None

    def stop(self) -> None:
        """End the processing; what was processed before stays as it was."""
        self.end("process", Stopped)

    def give_way(self) -> None:
        """End the examination: something newer is about to be looked at."""
        self.end("examine", Superseded)

    def end(self, what: str, reason: type[DataError]) -> None:
        """Let a piece of work end with a reason when it next tells how far it is."""
        with self.lock:
            if (doing := self.doing.get(what)) is not None:
                doing.ends = reason

    def state(self, _query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Answer a page: what is being done, how far it is, and which set lies on the disk."""
        version = set_version(self.folder())
        with self.lock:
            what = "process" if "process" in self.doing else "examine"
            doing = self.doing.get(what)
        if doing is None:
            return {"what": "", "set": version}
        done, total = doing.progress.done, doing.progress.total
        if doing.progress.phase == "read":
            total = doing.rows
        words = PHASES.get(doing.progress.phase, doing.progress.phase)
        if done:
            words += f": {done:,}" + (f" of {total:,} rows" if total else " rows")
        share = min(1.0, done / total) if total and doing.progress.phase == "read" else None
        return {"what": what, "words": words, "share": share, "set": version}


def set_version(folder: Path) -> str:
    """Name the set that lies in a folder, so that a page can tell whether it shows that one."""
    report = folder / REPORT_NAME
    return f"{folder.name} {report.stat().st_mtime_ns}" if report.is_file() else ""


class Stopped(DataError):
    """A person stopped the processing."""

    def __init__(self) -> None:
        super().__init__(
            "Processing was stopped; the examples of before are as they were.",
            "Press Process to begin again.",
        )
