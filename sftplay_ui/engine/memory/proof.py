"""The estimate against a real card: what was predicted, what was measured, and what to do with it.

Measuring needs torch and a card, so a worker does it (`worker.prove`), on a card held down to a
smaller one's memory. Here it is started, and its figures become a file and a line of a table.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import BackendError
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

GIB = 1 << 30
HEADER = (
    "| model, tokens, at once | card | allocated: predicted, measured | on the card: predicted, "
    "measured |\n|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """One size of micro-batch: bytes of tensors and bytes on the card, predicted and measured."""

    examples: int
    predicted_allocated: int
    measured_allocated: int
    predicted_device: int
    measured_device: int


@dataclass(frozen=True)
class Proof:
    """All that was measured on a card of which `limit_bytes` were to be used."""

    model: str
    max_seq_len: int
    mode: str
    card: str
    limit_bytes: int
    context_bytes: int
    versions: dict[str, str]
    trials: str
    rows: tuple[Measured, ...]

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Proof":
        """Read what the worker printed."""
        return cls(**{**value, "rows": tuple(Measured(**row) for row in value["rows"])})

    def table(self) -> str:
        """Write the lines for the README."""
        lines = [HEADER]
        for row in self.rows:
            allocated = f"{gib(row.predicted_allocated)}, {gib(row.measured_allocated)}"
            device = f"{gib(row.predicted_device)}, {gib(row.measured_device)}"
            what = f"{Path(self.model).name} {self.mode}, {self.max_seq_len}, {row.examples}"
            card = f"{self.card} held to {gib(self.limit_bytes)}"
            lines.append(f"| {what} | {card} | {allocated} GiB | {device} GiB |")
        return "\n".join(lines)


def gib(size: int) -> str:
    """Word a size in GiB."""
    return f"{size / GIB:.2f}"


def prove(
    config: RunConfig, device: DeviceInfo, workspace: Workspace, *, gigabytes: float
) -> tuple[Proof, Path]:
    """Measure on the card what the estimate predicts; give it with the file it was written to.

    Raises BackendError where there is no CUDA card or the worker fails, and ModelError where the
    base model cannot be had.
    """
    if device.kind != "cuda":
        raise BackendError(
            f"There is no NVIDIA card here to measure on, only {device.name}.",
            "Run it where there is one; `estimate --card 8` predicts without measuring.",
        )
    fetch_model(config.model.name, revision=config.model.revision, workspace=workspace)
    with tempfile.TemporaryDirectory(prefix="sft-play-proof-") as folder:
        wanted = Path(folder, "config.yaml")
        wanted.write_text(config_to_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "sftplay_ui.engine.worker.prove"]
        done = subprocess.run(
            [*command, str(wanted), str(workspace.root), str(gigabytes)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=PROJECT_ROOT,
            check=False,
        )
    if done.returncode != 0:
        said = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise BackendError(
            f"Measuring on {device.name} failed: {said}",
            "Close what else uses the card, or choose a smaller model.",
        )
    proof = Proof.of(json.loads(done.stdout.splitlines()[-1]))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(proof.model).name)
    workspace.outputs.mkdir(parents=True, exist_ok=True)
    path = workspace.outputs / f"memory-proof-{name}-{proof.max_seq_len}.json"
    replace_text(path, json.dumps(asdict(proof), indent=2) + "\n")
    return proof, path
