"""A step taken with tensors that have no data, for shapes the closed form was not compared with.

The steps are taken by `worker.simulate` in a process of its own, since this needs torch; here it is
started, and what it found is kept in the person's cache folder under a name made of all that
decides it. Where it cannot be done the reason is given, and the closed form holds.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.need import Need, longest_example
from sftplay_ui.engine.memory.terms import Parts, Peak, Phase
from sftplay_ui.engine.versions import installed
from sftplay_ui.engine.workspace import PROJECT_ROOT, user_cache

WORKER = "sftplay_ui.engine.worker.simulate"
# A step of a small model takes some seconds, most of them to import torch.
LONGEST_SECONDS = 120
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
# Raised when the simulator counts otherwise, so that what it found before is not used.
COUNTED_AS = 1


@dataclass(frozen=True)
class Case:
    """What to simulate: a model and a step of it.

    `config` is the model's config.json, `lengths` the tokens of each example of the micro-batch,
    `learned` how many of them have a loss, `lora` the settings of the adapter.
    """

    config: dict[str, Any]
    mode: Literal["qlora", "lora", "full"]
    precision: Literal["bf16", "fp16", "fp32"]
    device: str
    lengths: tuple[int, ...]
    learned: int
    optim: str
    checkpointing: bool
    lora: dict[str, Any]
    double_quant: bool = False
    packing: bool = True

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Case":
        """Read a case back from plain values."""
        return cls(**{**value, "lengths": tuple(value["lengths"])})


@dataclass(frozen=True)
class Simulated:
    """What a step needs at its worst moment, and of how many layers the tried models were."""

    phase: Phase
    parts: Parts
    layers: tuple[int, ...]

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Simulated":
        """Read an answer of the worker, or one that was kept."""
        return cls(value["phase"], Parts(**value["parts"]), tuple(value["layers"]))

    @property
    def peak(self) -> Peak:
        return Peak(self.phase, self.parts)

    def __str__(self) -> str:
        layers = " and ".join(str(n) for n in self.layers)
        used = ", ".join(f"{name} {found}" for name, found in versions().items())
        return f"simulated: a step of {layers} layers without data, with {used}"


def case_of(
    model: Mapping[str, Any],
    config: RunConfig,
    now: Need,
    device: DeviceInfo,
    lengths: TokenLengths | None,
) -> Case:
    """Put a run's decided settings and its heaviest micro-batch into a case."""
    setup, longest = now.setup, longest_example(config, lengths)
    whole, rest = divmod(setup.tokens, longest)
    return Case(
        config=dict(model),
        mode=setup.mode,
        precision=now.resolved.precision,
        device=device.kind,
        lengths=(longest,) * whole + ((rest,) if rest else ()),
        learned=setup.learned,
        optim=setup.optim,
        checkpointing=setup.checkpointing,
        lora=config.tuning.lora.model_dump(),
        double_quant=setup.double_quant,
        packing=config.train.packing is not False and now.resolved.backend == "bnb",
    )


def simulate(case: Case, *, seconds: float = LONGEST_SECONDS) -> Simulated | str:
    """Take the step without data, once; where that fails or takes too long, say why."""
    kept = remembered(case)
    if kept is not None:
        return kept
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", WORKER],
            input=json.dumps(asdict(case)) + "\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=PROJECT_ROOT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the simulation took longer than {seconds:g} seconds"
    except OSError as error:
        return f"the simulation could not be started ({error})"
    if done.returncode != 0:
        said = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
        return f"the simulation failed: {said.strip()}"
    value = json.loads(done.stdout.splitlines()[-1])
    file_of(case).parent.mkdir(parents=True, exist_ok=True)
    replace_text(file_of(case), json.dumps(value, indent=2) + "\n")
    return Simulated.of(value)


def remembered(case: Case) -> Simulated | None:
    """Read what was found for this very case, with these versions; None where it was not tried."""
    try:
        return Simulated.of(json.loads(file_of(case).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_of(case: Case) -> Path:
    """Name the file of a case: by the model, the settings, and all that computes."""
    decides = {"case": asdict(case), "versions": versions(), "counted as": COUNTED_AS}
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:20]
    return user_cache() / "memory" / f"simulated-{key}.json"


def versions() -> dict[str, str]:
    """List the versions of the libraries whose steps are simulated."""
    return installed(PACKAGES)
