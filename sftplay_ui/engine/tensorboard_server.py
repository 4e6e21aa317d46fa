"""TensorBoard as a process of its own: start it, find it again, stop it.

It listens on loopback only, since it has no login. Writing the logs is left to the worker.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.processes import ProcessRecord, reap
from sftplay_ui.engine.workspace import Workspace

FIRST_PORT = 6006
PORTS = 50
START_SECONDS = 60


@dataclass(frozen=True)
class TensorBoard:
    """The TensorBoard of one workspace; its record lies beside its logs."""

    workspace: Workspace

    @property
    def logs(self) -> Path:
        return self.workspace.outputs / "tb"

    @property
    def record(self) -> Path:
        return self.logs / "server.json"

    def url(self) -> str | None:
        """Give the address of the running server; None when there is none."""
        process = ProcessRecord.read(self.record)
        if process is None or not process.is_alive():
            return None
        return (self.logs / "server.url").read_text(encoding="ascii")

    def start(self) -> str:
        """Start the server unless it runs already; return its address once it answers."""
        running = self.url()
        if running is not None:
            return running
        self.logs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        log = self.logs / "server.log"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(self.logs)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=sys.platform != "win32",
            )
        reap(process)
        url = f"http://127.0.0.1:{port}/"
        ProcessRecord.of(process.pid).write(self.record)
        (self.logs / "server.url").write_text(url, encoding="ascii")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if answers(port):
                return url
            time.sleep(0.1)
        raise SFTPlayError(
            "TensorBoard did not start.", f"Its log is {self.workspace.shorten(log)}."
        )

    def stop(self) -> bool:
        """Stop the server; False when there was none."""
        process = ProcessRecord.read(self.record)
        if process is None or not process.is_alive():
            return False
        process.kill_tree()
        self.record.unlink()
        return True

    def clean(self) -> int:
        """Delete the logs of all runs; gives how many runs had some."""
        self.stop()
        folders = [path for path in self.logs.glob("*") if path.is_dir()]
        for folder in folders:
            shutil.rmtree(folder)
        return len(folders)


def free_port() -> int:
    """Find a free port on loopback, from TensorBoard's usual one on."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise SFTPlayError(
        f"No port between {FIRST_PORT} and {FIRST_PORT + PORTS} is free.",
        "Stop a program that uses one of them.",
    )


def answers(port: int) -> bool:
    """Tell whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
