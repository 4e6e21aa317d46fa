"""Which process is which: a process id alone is not enough, since ids are used again.

A record holds pid, start time and boot id, so a stale record never passes for a live worker.
"""

import json
import os
import subprocess
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

START_TIME_SLACK_SECONDS = 1.0


@dataclass(frozen=True)
class ProcessRecord:
    """One process, told apart from any later one with the same pid."""

    pid: int
    started: float
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        """Describe a running process; psutil.NoSuchProcess if there is none."""
        return cls(pid, psutil.Process(pid).create_time(), boot_id())

    @classmethod
    def read(cls, path: Path) -> "ProcessRecord | None":
        """Read a record; None where there is none or it cannot be understood."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(record["pid"]), float(record["started"]), str(record["boot_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write the record in one move, so that no reader sees half of it."""
        staged = path.with_name(f"{path.name}.{os.getpid()}")
        staged.write_text(json.dumps(asdict(self)), encoding="utf-8")
        staged.replace(path)

    def is_of(self, other: "ProcessRecord") -> bool:
        """Tell whether both records are of one process, whoever of them asked for its start."""
        same_start = abs(self.started - other.started) < START_TIME_SLACK_SECONDS
        return (self.pid, self.boot_id) == (other.pid, other.boot_id) and same_start

    def is_alive(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        if self.boot_id != boot_id():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_TIME_SLACK_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def kill_tree(self) -> None:
        """End the process and all below it; collected first, since orphans lose their parent."""
        if not self.is_alive():
            return
        try:
            process = psutil.Process(self.pid)
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            return
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=5)


def reap(process: "subprocess.Popen[Any]") -> None:
    """Wait for a child in the background, so that it does not stay as a zombie when it ends."""
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()


def boot_id() -> str:
    """Name this start of the machine; the kernel's id where there is one, else the boot time."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
