"""What steps were seen to need on this device, remembered for the next estimate.

The probe before a run's first step and `estimate --prove` measure; what they saw is kept in the
person's cache folder for this device, model shape and settings. What is made of it is left to
`basis`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.need import Need
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.simulation import versions
from sftplay_ui.engine.workspace import user_cache

# Sizes remembered for one device, shape and settings: the newest.
MOST = 16


@dataclass(frozen=True)
class Measurement:
    """A micro-batch of `tokens`, all learned, in examples of `longest`, and bytes at the peak.

    `allocated` are tensors, `reserved` what the allocator took for them, `context` what the process
    takes besides, where it was measured.
    """

    tokens: int
    longest: int
    allocated: int
    reserved: int
    context: int | None = None


def remember(shape: ModelShape, device: DeviceInfo, now: Need, seen: Sequence[Measurement]) -> None:
    """Keep what was measured; a size that was measured before is replaced."""
    if not seen:
        return
    kept, key = read(), measured_key(shape, device, now)
    sizes = {(each.tokens, each.longest): each for each in kept.get(key, ())}
    for each in seen:
        sizes.pop((each.tokens, each.longest), None)
        sizes[each.tokens, each.longest] = each
    kept[key] = tuple(sizes.values())[-MOST:]
    value = {key: [asdict(each) for each in found] for key, found in kept.items()}
    measured_file().parent.mkdir(parents=True, exist_ok=True)
    replace_text(measured_file(), json.dumps(value, indent=2) + "\n")


def recall(shape: ModelShape, device: DeviceInfo, now: Need) -> tuple[Measurement, ...]:
    """Give what was measured on this device for such a model and such settings."""
    return read().get(measured_key(shape, device, now), ())


def measured_key(shape: ModelShape, device: DeviceInfo, now: Need) -> str:
    """Name what a measurement holds for: all that decides about memory but the tokens."""
    resolved, setup, config = now.resolved, now.setup, now.config
    lora, train = config.tuning.lora, config.train
    widths = (shape.layers, shape.hidden, shape.intermediate, shape.kv_width, shape.vocabulary)
    learns = "all" if setup.mode == "full" else f"adapter of {setup.adapter}"
    layers = f"dropout {lora.dropout > 0} dora {lora.use_dora} packing {train.packing}"
    together = f"{train.processes} {train.sharding}"
    scales = " double_quant" * setup.double_quant
    recomputed = "recomputed" if setup.checkpointing else "kept"
    libraries = " ".join(f"{name} {found}" for name, found in versions().items())
    return (
        f"{device.name} | {shape.family} {'x'.join(map(str, widths))} | {resolved.backend} "
        f"{setup.mode} {resolved.precision} {learns}{scales} {setup.optim} {recomputed} | "
        f"{layers} | {together} | "
        f"{libraries}"
    )


def measured_file() -> Path:
    """Name the file that remembers."""
    return user_cache() / "memory" / "measured.json"


def read() -> dict[str, tuple[Measurement, ...]]:
    """Read what is remembered; a damaged file counts as nothing, the next probe fills it again."""
    try:
        stored = json.loads(measured_file().read_text(encoding="utf-8"))
        return {
            key: tuple(Measurement(**value) for value in values) for key, values in stored.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
