"""Which command starts a worker: one process, several on this machine, or several machines.

The worker is the same in all cases; the launcher tells each process its rank. Starting it, and
following what it tells, is left to `runs`.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.backends import Receipt, unsloth_python, unsloth_surroundings
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.errors import ConfigError

# threads of a worker that wait for each other let other programs run: several times faster on a
# busy computer, and the person's own work stays smooth (benchmarks/busy_machine.py)
WAIT_WITHOUT_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# it outlives the window, and is not stopped by its Ctrl-C; on Windows without a console of its own
OWN_SESSION: dict[str, Any] = (
    {"creationflags": 0x08000200} if sys.platform == "win32" else {"start_new_session": True}
)
# the app's own interpreter, for a worker that runs in a backend's one and starts the next run
APP_PYTHON = "SFTPLAY_PYTHON"
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


def worker_command(folder: Path, processes: int, python: str | None = None) -> list[str]:
    """Give the command for a run's worker on this machine; `python` is the backend's own one."""
    python = python or app_python()
    worker = ["-m", "sftplay_ui.engine.worker", str(folder)]
    if processes == 1:
        return [python, *worker]
    # accelerate's own launcher starts a single process on a machine without a GPU
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [python, *together, *worker]


def app_python() -> str:
    """Name the app's interpreter, also where this process runs in a backend's environment."""
    return os.environ.get(APP_PYTHON) or sys.executable


def surroundings(receipt: Receipt) -> tuple[str, dict[str, str]]:
    """Give the interpreter and the environment variables of a worker with this backend."""
    common = {**WAIT_WITHOUT_SPINNING, **os.environ, APP_PYTHON: app_python()}
    if receipt.used != "unsloth":
        return app_python(), common
    return str(unsloth_python()), {**common, **unsloth_surroundings(detect_device())}


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
