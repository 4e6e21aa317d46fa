"""Which command starts a worker: one process, several on this machine, or several machines.

The worker is the same in all cases; the launcher tells each process its rank. When to start it,
and following what it tells, is left to `runs`.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.backends import Receipt, unsloth_python, unsloth_surroundings
from sftplay_ui.engine.device import cpu_device, detect_device
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.engine.processes import ProcessRecord, reap
from sftplay_ui.engine.workspace import PROJECT_ROOT

# threads of a worker that wait for each other let other programs run: several times faster on a
# busy computer, and the person's own work stays smooth (benchmarks/busy_machine.py)
WAIT_WITHOUT_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# it outlives the window, and is not stopped by its Ctrl-C; on Windows without a console of its own
OWN_SESSION: dict[str, Any] = (
    {"creationflags": 0x08000200} if sys.platform == "win32" else {"start_new_session": True}
)
# the app's own interpreter, for a worker that runs in a backend's one and starts the next run
APP_PYTHON = "SFTPLAY_PYTHON"
# the worker's own record, and that of the process that was started for it
RECORD = "worker.json"
LAUNCHED = "launched.json"
LOG = "worker.log"
START_SECONDS = 60
PORT = 29500
Kind = Literal["cpu", "cuda", "mps"]
CONFIG = "configs/accelerate_config.yaml"


@dataclass(frozen=True)
class Cluster:
    """Several machines that learn together, each with as many processes; the first has `address`.

    All of them see the run's folder under the same path, with the same model and examples.
    """

    nodes: int
    processes: int
    address: str
    port: int = PORT
    kind: Kind = "cuda"

    @classmethod
    def at(cls, address: str, *, nodes: int, processes: int, kind: Kind) -> "Cluster":
        """Read the first machine's address, HOST or HOST:PORT; ConfigError when it is neither."""
        host, _, port = address.strip().partition(":")
        if not host or (port and not port.isdecimal()):
            raise ConfigError(
                f"Several machines need the address of the first one, not {address!r}.",
                "Give HOST or HOST:PORT; on the command line with --address.",
            )
        return cls(nodes, processes, host, int(port or PORT), kind)


def worker_command(folder: Path | None, processes: int, python: str | None = None) -> list[str]:
    """Give the command for a run's worker on this machine; `python` is the backend's own one.

    Without a folder it is the command for a worker that waits to be told one.
    """
    python = python or app_python()
    worker = ["-m", "sftplay_ui.engine.worker", *([str(folder)] if folder else [])]
    if processes == 1:
        return [python, *worker]
    # accelerate's own launcher starts a single process on a machine without a GPU
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [python, *together, *worker]


def app_python() -> str:
    """Name the app's interpreter, also where this process runs in a backend's environment."""
    return os.environ.get(APP_PYTHON) or sys.executable


def surroundings(receipt: Receipt, processes: int = 1) -> tuple[str, dict[str, str]]:
    """Give the interpreter and the environment variables of a worker with this backend."""
    common = {**WAIT_WITHOUT_SPINNING, **os.environ, APP_PYTHON: app_python()}
    if processes > 1:
        # the launcher would leave one core to each
        common.setdefault("OMP_NUM_THREADS", str(max(1, cpu_device().cores // processes)))
    if receipt.used != "unsloth":
        return app_python(), common
    return str(unsloth_python()), {**common, **unsloth_surroundings(detect_device())}


def start_worker(
    folder: Path, command: Sequence[str], environment: Mapping[str, str], *, pipes: bool = False
) -> "subprocess.Popen[str]":
    """Start a run's worker and wait for its record; `pipes` keep its stdin and stdout connected."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else log,
            stderr=log,
            cwd=PROJECT_ROOT,
            env=environment,
            encoding="utf-8",
            **OWN_SESSION,
        )
    ProcessRecord.of(process.pid).write(folder / LAUNCHED)
    reap(process)
    wait_for_worker(folder, process)
    return process


def wait_for_worker(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Return when the new worker has written its record, or has ended."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        worker = ProcessRecord.read(folder / RECORD)
        if worker is not None and worker.is_alive():
            return
        time.sleep(0.01)


def node_commands(folder: Path, cluster: Cluster) -> list[str]:
    """Give the command line for each machine, to be started in the project's folder there."""
    return [shlex.join(node_command(folder, cluster, rank)) for rank in range(cluster.nodes)]


def node_command(folder: Path, cluster: Cluster, rank: int) -> list[str]:
    """Give the command for one machine: `accelerate launch`, or on CPUs torch's own launcher."""
    python = ".venv/bin/python"
    worker = ["-m", "sftplay_ui.engine.worker", str(folder)]
    if cluster.kind != "cuda":
        return [
            *(python, "-m", "torch.distributed.run"),
            f"--nnodes={cluster.nodes}",
            f"--nproc-per-node={cluster.processes}",
            f"--node-rank={rank}",
            f"--master-addr={cluster.address}",
            f"--master-port={cluster.port}",
            *worker,
        ]
    return [
        *(python, "-m", "accelerate.commands.launch", "--config_file", CONFIG),
        *("--num_machines", str(cluster.nodes)),
        *("--num_processes", str(cluster.nodes * cluster.processes)),
        *("--machine_rank", str(rank)),
        *("--main_process_ip", cluster.address),
        *("--main_process_port", str(cluster.port)),
        *worker,
    ]
