"""How long a run will take: from the speed of runs like it, else reckoned, else a plain guess.

A speed that was measured once is remembered in the person's cache folder for this device, model
shape and mode, so that it outlives the run. Where nothing was trained yet, the speed of matrix
products can be measured in seconds. Evaluations and loading are not counted.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.backends import BACKEND
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.engine.events import ConfigResolved, RunStarted, StepLogged
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.runs import Run, list_runs
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace, user_cache

RECENT_RUNS = 20
# The first steps warm up caches and are left out where there are others.
WARM_UP = 2
# Products one can hope for in training, in FLOP/s: a middling graphics card, one core of a CPU.
CARD, CORE, CORE_BF16 = 8e12, 4e10, 1.2e11
# How much of its matrix products' speed a machine reaches in training. On two cores 0.47 to 0.57
# was seen (benchmarks/train_speed.py); untested on cards.
SHARE = 0.5
PRODUCTS = "sftplay_ui.engine.worker.products"
LONGEST_CALIBRATION_SECONDS = 120


@dataclass(frozen=True)
class Forecast:
    """How long training takes, and where the figure comes from; `measured` is False for a guess."""

    seconds_per_epoch: float
    seconds_per_step: float
    total_seconds: float
    tokens_per_second: float
    measured: bool
    source: str


@dataclass(frozen=True)
class Speed:
    tokens_per_second: float
    measured: bool
    source: str


@dataclass(frozen=True)
class Work:
    """What is to be done: examples and tokens of one epoch."""

    examples: int
    tokens: int


def forecast(config: RunConfig, *, work: Work, speed: Speed, effective_batch: int) -> Forecast:
    """Say how long a run takes at a speed; `max_steps` cuts it as it cuts the run."""
    steps_per_epoch = max(1, math.ceil(work.examples / effective_batch))
    epoch = work.tokens / speed.tokens_per_second
    step = epoch / steps_per_epoch
    train = config.train
    steps = train.max_steps or max(1, math.ceil(train.epochs * steps_per_epoch - 1e-9))
    return Forecast(
        seconds_per_epoch=epoch,
        seconds_per_step=step,
        total_seconds=steps * step,
        tokens_per_second=speed.tokens_per_second,
        measured=speed.measured,
        source=speed.source,
    )


def find_speed(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    *,
    resolved: Resolved,
    workspace: Workspace,
    calibrate: bool = False,
) -> Speed:
    """Find out how fast this model trains here: a run like it, one remembered, else reckoned.

    With `calibrate`, matrix products are measured where nothing else is known: some seconds, once.
    """
    key = speed_key(shape, device, resolved)
    for run in list_runs(workspace)[:RECENT_RUNS]:
        found = measured_speed(run, config, device, resolved)
        if found is not None:
            remember(key, found)
            return Speed(found, True, f"measured in the run {run.name}")
    kept = remembered().get(key)
    if kept is not None:
        return Speed(kept, True, "measured on this machine in an earlier run")
    products = product_speed(shape, device, resolved, calibrate=calibrate)
    other = "" if resolved.backend == "bnb" else ", as for bnb"
    if products is not None:
        told = f"reckoned{other} from how fast this machine multiplies matrices, which was measured"
        return Speed(SHARE * products / work_of_a_token(shape, resolved), False, told)
    guessed = flops(device, resolved) / work_of_a_token(shape, resolved)
    return Speed(guessed, False, f"a rough guess{other}: nothing was measured here yet")


def product_speed(
    shape: ModelShape, device: DeviceInfo, resolved: Resolved, *, calibrate: bool
) -> float | None:
    """Give the FLOP/s of matrix products of this model's size, remembered or measured now.

    None where it was never measured, or cannot be.
    """
    size = (shape.hidden, shape.intermediate)
    key = f"{device.name} | products {size[0]}x{size[1]} {resolved.precision}"
    kept = remembered().get(key)
    if kept is not None or not calibrate:
        return kept
    command = [sys.executable, "-m", PRODUCTS, device.kind, resolved.precision, *map(str, size)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=PROJECT_ROOT,
            timeout=LONGEST_CALIBRATION_SECONDS,
            check=True,
        )
        found = float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    remember(key, found)
    return found


def speed_key(shape: ModelShape, device: DeviceInfo, resolved: Resolved) -> str:
    """Name what a speed holds for."""
    model = f"{shape.family} {shape.layers}x{shape.hidden}x{shape.intermediate}x{shape.vocabulary}"
    recomputed = "recomputed" if resolved.gradient_checkpointing else "kept"
    backend = "" if resolved.backend == "bnb" else f" {resolved.backend}"
    return f"{device.name} | {model} | {resolved.mode} {resolved.precision} {recomputed}{backend}"


def like(resolved: Resolved) -> dict[str, object]:
    """Name the choices that decide about speed."""
    return {
        "tuning.mode": resolved.mode,
        "precision": resolved.precision,
        "train.gradient_checkpointing": resolved.gradient_checkpointing,
    }


def measured_speed(
    run: Run, config: RunConfig, device: DeviceInfo, resolved: Resolved
) -> float | None:
    """Read the median speed of a training run of this model and kind on this device."""
    try:
        ran = run.config()
    except ConfigError:  # of another version
        return None
    same_model = ran.model.name == config.model.name and ran.model.revision == config.model.revision
    if ran.job != "train" or not same_model:
        return None
    events = run.events()
    started = next((e for e in events if isinstance(e, RunStarted)), None)
    chosen = {
        choice.setting: choice.value
        for event in events
        if isinstance(event, ConfigResolved)
        for choice in event.choices
    }
    alike = all(chosen.get(setting) == value for setting, value in like(resolved).items())
    # what ran before backends were told was bnb
    alike = alike and chosen.get(BACKEND, "bnb") == resolved.backend
    speeds = [e.tokens_per_second for e in events if isinstance(e, StepLogged)]
    speeds = [speed for speed in speeds if speed > 0]
    if started is None or started.device != device.name or not alike or not speeds:
        return None
    return statistics.median(speeds[WARM_UP:] or speeds)


def speeds_file() -> Path:
    """Name the file that remembers speeds."""
    return user_cache() / "speeds.json"


def remembered() -> dict[str, float]:
    """Read the remembered speeds; a damaged file counts as none, a run fills it again."""
    try:
        stored = json.loads(speeds_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    items = stored.items() if isinstance(stored, dict) else ()
    return {
        key: float(value) for key, value in items if isinstance(value, int | float) and value > 0
    }


def remember(key: str, tokens_per_second: float) -> None:
    """Keep a speed for the time when its run is gone."""
    speeds = remembered()
    if speeds.get(key) != tokens_per_second:
        text = json.dumps({**speeds, key: tokens_per_second}, indent=2)
        speeds_file().parent.mkdir(parents=True, exist_ok=True)
        replace_text(speeds_file(), text + "\n")


def work_of_a_token(shape: ModelShape, resolved: Resolved) -> int:
    """Count the FLOP of a trained token: 2 for each weight forward, 2 or 4 backward."""
    products = 6 if resolved.mode == "full" else 4
    products += 2 if resolved.gradient_checkpointing else 0
    return products * (shape.linear_weights + shape.vocabulary * shape.hidden)


def flops(device: DeviceInfo, resolved: Resolved) -> float:
    """Guess what the device computes in a second."""
    if device.kind != "cpu":
        return CARD
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return cores * (CORE_BF16 if resolved.precision == "bf16" else CORE)
