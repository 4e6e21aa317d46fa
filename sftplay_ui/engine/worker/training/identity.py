"""What makes two parts of a run one run: compared before a checkpoint is loaded.

A resume with other data, another model or another adapter shape would go on without an error and be
wrong, or end the process inside the optimizer. So whatever must be the same is written down once.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from sftplay_ui.engine.checkpoints import file_hash
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.models.folder import weight_files

SAMPLED_BYTES = 1 << 20
SAMPLES = 64


@dataclass(frozen=True)
class Identity:
    """All that may not change between a stop and a resume; files by the start of their sha256."""

    base_model: str
    tokenizer: str
    template: str
    train_data: str
    seed: int
    mode: str
    backend: str
    precision: str
    lora: str
    optimizer: str
    effective_batch: int
    max_seq_len: int
    packing: bool
    loss: str = "learned tokens, mean over the step"
    double_quant: bool = False
    unpacked: bool = False

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check(self, path: Path) -> None:
        """Raise ResumeError, naming both values, where the run in `path` was another one."""
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResumeError(
                f"{path} is missing or damaged, so nobody can tell whether this is the same run.",
                "Start a new run.",
            ) from error
        now = asdict(self)
        # what an older version did not write down was as it is by default
        before = {
            f.name: None if f.default is MISSING else f.default for f in fields(self)
        } | before
        changed = [
            f"{name} was {before[name]!r} and is {value!r}"
            for name, value in now.items()
            if before[name] != value
        ]
        if changed:
            raise ResumeError(
                f"This is not the run it was: {'; '.join(changed)}.",
                "Put back what was changed, or start a new run.",
            )


def model_hash(folder: Path) -> str:
    """Hash a base model: its configuration, and its weights by size, header and samples.

    Weights of gigabytes are read at 64 places spread over each file: a model that was tuned on, or
    replaced, differs at all of them.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(0, size, max(SAMPLED_BYTES, size // SAMPLES)):
                file.seek(place)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def short_hash(path: Path) -> str:
    """Hash one file, shortened for people."""
    return file_hash(path)[:16]
