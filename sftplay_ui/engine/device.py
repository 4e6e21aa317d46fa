"""What this machine can train on, and who is using it; asked without torch.

A device is held by an operating-system lock for a worker's whole life, so the kernel frees it when
the worker dies. The locks lie in the person's cache folder: two copies of the app see each other.
"""

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from sftplay_ui.engine.errors import DeviceBusyError
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.workspace import user_cache


@dataclass(frozen=True)
class DeviceInfo:
    """One device: `id` is what torch calls it, memory in bytes, `bf16` whether it is fast there."""

    id: str
    kind: Literal["cpu", "cuda", "mps"]
    name: str
    total_bytes: int
    free_bytes: int
    bf16: bool
    reason: str


def detect_device() -> DeviceInfo:
    """Choose the best device: an NVIDIA card the driver answers for, Apple's GPU, else the CPU."""
    return nvidia_device() or apple_device() or cpu_device()


def nvidia_device() -> DeviceInfo | None:
    """Ask the driver for the card with the most free memory; never opens a CUDA context."""
    try:
        import pynvml  # not there on macOS

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:
        return None
    numbers = visible_cards(pynvml.nvmlDeviceGetCount())
    cards = [nvidia_card(pynvml, number, place) for place, number in enumerate(numbers)]
    pynvml.nvmlShutdown()
    return max(cards, key=lambda card: card.free_bytes, default=None)


def visible_cards(count: int) -> list[int]:
    """List the numbers of the cards torch will see, in its order: CUDA_VISIBLE_DEVICES hides some.

    As CUDA does, the list ends at the first entry that names no card; names that are no numbers
    (UUIDs) are left to CUDA, and all cards count.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or any(character.isalpha() for character in wanted):
        return list(range(count))
    numbers = []
    for entry in wanted.split(","):
        if not entry.strip().isdecimal() or int(entry) >= count:
            break
        numbers.append(int(entry))
    return numbers


def nvidia_card(pynvml, number: int, place: int) -> DeviceInfo:  # type: ignore[no-untyped-def]
    """Describe one NVIDIA card by the driver's number; `place` is the number torch gives it."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return DeviceInfo(
        id=f"cuda:{place}",
        kind="cuda",
        name=name if isinstance(name, str) else name.decode(),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        bf16=major >= 8,  # Ampere
        reason=f"compute capability {major}.{minor}",
    )


def apple_device() -> DeviceInfo | None:
    """Apple silicon shares its memory between CPU and GPU."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    memory = psutil.virtual_memory()
    return DeviceInfo(
        "mps",
        "mps",
        "Apple GPU",
        memory.total,
        memory.available,
        False,
        "Apple silicon",
    )


def cpu_device() -> DeviceInfo:
    """Describe the processor: memory is RAM, and bf16 counts only with instructions for it."""
    memory = psutil.virtual_memory()
    flags = cpu_flags()
    fast = sorted(flags & {"avx512_bf16", "amx_bf16"})
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return DeviceInfo(
        id="cpu",
        kind="cpu",
        name=f"CPU, {cores} core{'s' * (cores > 1)}",
        total_bytes=memory.total,
        free_bytes=memory.available,
        bf16=bool(fast),
        reason=f"the CPU has {' and '.join(fast)}" if fast else "the CPU has no bf16 instructions",
    )


def cpu_flags() -> frozenset[str]:
    """Read the processor's feature flags; empty where the system does not list them."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


@dataclass(frozen=True)
class Holder:
    """Who holds a device: the run's folder and its process."""

    run: str
    process: ProcessRecord


class DeviceLock:
    """Hold a device for as long as this process lives."""

    def __init__(self, device_id: str) -> None:
        folder = user_cache() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        name = device_id.replace(":", "-")
        self.device_id = device_id
        self.lock = FileLock(folder / f"{name}.lock")
        self.note = folder / f"{name}.json"
        self.held = False

    def acquire(self, run: Path) -> None:
        """Take the device; DeviceBusyError names the run that has it."""
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            holder = self.holder()
            who = Path(holder.run).name if holder else "another program"
            raise DeviceBusyError(
                f"The device {self.device_id} is in use by {who}.",
                "Wait until it is done, or stop it first.",
            ) from None
        self.held = True
        note = {"run": str(run), "process": asdict(ProcessRecord.of(os.getpid()))}
        self.note.write_text(json.dumps(note), encoding="utf-8")

    def release(self) -> None:
        """Give the device back; where another one holds it, its note stays."""
        if self.held:
            self.note.unlink(missing_ok=True)
            self.lock.release()
            self.held = False

    def holder(self) -> Holder | None:
        """Say who holds the device; None when nobody alive does."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            holder = Holder(note["run"], ProcessRecord(**note["process"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return holder if holder.process.is_alive() else None
