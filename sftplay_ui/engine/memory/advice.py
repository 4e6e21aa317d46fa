"""Which single change of the settings saves most memory, and what it costs."""

from collections.abc import Iterator
from dataclasses import dataclass

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import BackendError, ConfigError
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.need import Need, longest_example, need
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.resolve import Mode, is_shared_out

BEST = 3
# What saves less is not worth a change.
WORTH = 0.01
SHORTEST = 128


@dataclass(frozen=True)
class Change:
    """One setting to change: the bytes it saves, and its price in words."""

    setting: str
    value: str | int | bool
    saved_bytes: int
    price: str

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return (
            f"{self.setting}: {value} saves {self.saved_bytes / (1 << 30):.2f} GiB ({self.price})"
        )


def best_changes(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    lengths: TokenLengths | None,
    now: Need,
) -> tuple[Change, ...]:
    """List the single changes that save most, the best first; all else stays as decided `now`."""
    found = []
    fixed = pinned(config, now)
    for setting, value, price, other in candidates(
        fixed, device, now, longest_example(config, lengths)
    ):
        try:
            then = need(other, shape, device, lengths, now.correction)
        except (BackendError, ConfigError):  # not on this device, or not with this model
            continue
        saved = now.device_bytes - then.device_bytes
        if saved > WORTH * now.device_bytes:
            found.append(Change(setting, value, saved, price))
    return tuple(sorted(found, key=lambda change: -change.saved_bytes)[:BEST])


def pinned(config: RunConfig, now: Need) -> RunConfig:
    """Write what was decided into the configuration, so that a change moves nothing else."""
    resolved = now.resolved
    return with_train(
        config.model_copy(
            update={"tuning": config.tuning.model_copy(update={"mode": resolved.mode})}
        ),
        batch_size=resolved.batch_size,
        grad_accum=resolved.grad_accum,
        gradient_checkpointing=resolved.gradient_checkpointing,
        optim=resolved.optim,
    )


def with_train(config: RunConfig, **values: object) -> RunConfig:
    """Give the configuration with other training settings."""
    return config.model_copy(update={"train": config.train.model_copy(update=values)})


def smaller_forms(
    config: RunConfig, device: DeviceInfo
) -> tuple[tuple[tuple[Mode, str], ...], tuple[str, ...]]:
    """List leaner modes with their price, and leaner optimizers, that may be had here."""
    lora: tuple[Mode, str] = ("lora", "an adapter learns instead of all weights")
    if is_shared_out(config.train):
        # neither 4-bit weights nor 8-bit states can be spread over processes
        return (lora,), ()
    eight_bit = ("adamw_8bit", "paged_adamw_8bit") if device.kind == "cuda" else ()
    return (lora, ("qlora", "the base model in 4 bits")), eight_bit


def candidates(
    config: RunConfig, device: DeviceInfo, now: Need, longest: int
) -> Iterator[tuple[str, str | int | bool, str, RunConfig]]:
    """Yield setting, value, price and configuration of every change worth a thought."""
    resolved = now.resolved
    modes, optimizers = smaller_forms(config, device)
    if not resolved.gradient_checkpointing:
        changed = with_train(config, gradient_checkpointing=True)
        yield "train.gradient_checkpointing", True, "a step takes about a third longer", changed
    if resolved.batch_size > 1:
        pieces = resolved.batch_size * resolved.grad_accum
        changed = with_train(config, batch_size=1, grad_accum=pieces)
        yield "train.batch_size", 1, "as many examples a step, one after the other", changed
    for mode, price in modes:
        if mode != resolved.mode and (resolved.mode, mode) != ("qlora", "lora"):
            tuning = config.tuning.model_copy(update={"mode": mode})
            yield "tuning.mode", mode, price, config.model_copy(update={"tuning": tuning})
    if resolved.unpacked:
        tuning = config.tuning.model_copy(update={"unpack_4bit": False})
        changed = config.model_copy(update={"tuning": tuning})
        yield "tuning.unpack_4bit", False, "4-bit weights are unpacked in every step", changed
    for optim in optimizers:
        changed = with_train(config, optim=optim)
        yield "train.optim", optim, "optimizer state in 8 bits", changed
    if longest // 2 >= SHORTEST:
        model = config.model.model_copy(update={"max_seq_len": longest // 2})
        changed = config.model_copy(update={"model": model})
        yield "model.max_seq_len", longest // 2, "longer examples are cut", changed
    lora = config.tuning.lora
    if resolved.mode != "full" and lora.r > 1:
        narrow = lora.model_copy(update={"r": lora.r // 2})
        tuning = config.tuning.model_copy(update={"lora": narrow})
        changed = config.model_copy(update={"tuning": tuning})
        yield "tuning.lora.r", lora.r // 2, "a narrower adapter", changed
