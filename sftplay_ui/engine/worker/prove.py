"""Measure a training step's memory beside its estimate: `python -m ...prove CONFIG ROOT GB`.

The card is held down to so many gigabytes, so a large one can answer for a small one. The steps are
those of the probe: the heaviest batch, from random tokens; nothing is kept. Prints one JSON object.
"""

import json
import os
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import load_config
from sftplay_ui.engine.device import DeviceInfo, detect_device, held
from sftplay_ui.engine.errors import DeviceMemoryError, SFTPlayError
from sftplay_ui.engine.memory.advice import with_train
from sftplay_ui.engine.memory.measured import remember
from sftplay_ui.engine.memory.need import need, settled_need
from sftplay_ui.engine.memory.proof import GIB, Measured, Proof
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.resolve import ModelSize, parameter_count, resolve
from sftplay_ui.engine.worker.memory_use import CudaMemory, DeviceMemory
from sftplay_ui.engine.worker.model.load import prepare
from sftplay_ui.engine.worker.model.placement import usable_device
from sftplay_ui.engine.worker.training.batches import Plan
from sftplay_ui.engine.worker.training.learner import Course, Learner, Stepper
from sftplay_ui.engine.worker.training.opening import make_accelerator
from sftplay_ui.engine.worker.training.optimizers import make_optimizer
from sftplay_ui.engine.worker.training.probe import Probe
from sftplay_ui.engine.workspace import Workspace

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def measure(
    config: RunConfig, base: ModelFolder, card: DeviceInfo, memory: DeviceMemory, *, context: int
) -> Proof:
    """Take steps with one example and with as many as fit; put the estimate beside each.

    `card` is what the estimate and the decisions go by, `context` what CUDA itself took. Raises
    DeviceMemoryError where not even one example fits.
    """
    shape, longest = ModelShape.of(base.config()), config.model.max_seq_len
    size = ModelSize.of(base.config(), parameter_count(base.path))
    resolved = resolve(config, card, size, longest)
    accelerator = make_accelerator(resolved, cpu=card.kind == "cpu")
    prepared = prepare(base, config, resolved, device=str(accelerator.device), longest=longest)
    share = resolved.effective_batch
    course = Course([], Plan([longest] * share, share, 1, 0), 1, 0, config.train.max_grad_norm)
    stepper = Stepper(
        Learner(prepared),
        course,
        accelerator=accelerator,
        optimizer=make_optimizer(prepared.model, resolved, config.train.weight_decay),
    )
    probe = Probe(stepper, memory, longest)
    found = probe.find(share, max(1, resolved.batch_size // 2))
    if not found.size and found.least is None:
        raise DeviceMemoryError(f"One example does not fit: {found.describe()}.", "Go smaller.")
    now = with_train(
        config, gradient_checkpointing=resolved.gradient_checkpointing, optim=resolved.optim
    )
    rows = tuple(
        compare(probe, now, shape, card, context=context, examples=examples)
        for examples in sorted({1, max(1, found.size)})
    )
    seen = [replace(each, context=context) for each in probe.seen]
    remember(shape, card, settled_need(config, shape, card, resolved), seen)
    return Proof(
        model=config.model.name,
        max_seq_len=longest,
        mode=resolved.mode,
        card=card.name,
        limit_bytes=card.total_bytes,
        context_bytes=context,
        versions={package: version(package) for package in PACKAGES},
        trials=found.describe(),
        rows=rows,
    )


def compare(
    probe: Probe,
    config: RunConfig,
    shape: ModelShape,
    card: DeviceInfo,
    *,
    context: int,
    examples: int,
) -> Measured:
    """Take steps with so many examples at once, and say what was predicted and what was needed."""
    probe.needed(examples)
    share = probe.stepper.plan.effective_batch
    pinned = with_train(config, batch_size=examples, grad_accum=share // examples)
    now = need(pinned, shape, card)
    return Measured(
        examples,
        int(now.peak.parts.total),
        probe.memory.allocated(),
        now.device_bytes,
        probe.memory.reserved() + context,
    )


def measure_here(config: RunConfig, workspace: Workspace, gigabytes: float) -> Proof:
    """Hold the card down to so many gigabytes, CUDA's own share among them, and measure."""
    device = detect_device()
    with held(device, workspace.outputs):
        torch.cuda.init()
        free, total = torch.cuda.mem_get_info()
        # what the driver counted as free before, less what it counts now, is CUDA's own
        context = max(0, device.free_bytes - free)
        limit = min(int(gigabytes * GIB), device.total_bytes)
        torch.cuda.set_per_process_memory_fraction(max(0.0, (limit - context) / total))
        memory = CudaMemory(torch.device("cuda"), limit - context)
        card = replace(device, total_bytes=limit, free_bytes=limit)
        base = fetch_model(config.model.name, revision=config.model.revision, workspace=workspace)
        return measure(config, base, card, memory, context=context)


def main(config_path: Path, root: Path, gigabytes: float) -> int:
    """Measure, and print the figures; an expected failure is one line on stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    workspace = Workspace(root)
    try:
        usable_device()
        proof = measure_here(load_config(config_path, (), workspace).config, workspace, gigabytes)
    except SFTPlayError as error:
        sys.stderr.write(f"{error.what} {error.fix}\n")
        return 1
    except torch.OutOfMemoryError:
        sys.stderr.write(f"the base model alone does not fit into {gigabytes:g} GB.\n")
        return 1
    out.write(json.dumps(asdict(proof)) + "\n")
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
