"""What this machine can train on, and who is using it; asked without torch.

A device is held by an operating-system lock for a worker's whole life, so the kernel frees it when
the worker dies. The locks lie in the person's cache folder: two copies of the app see each other.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    """One device: `id` is what torch calls it, memory in bytes, `bf16` whether it is fast there.

    `cores` counts the threads a CPU's worker takes for what it computes.
    `number` is the driver's own for an NVIDIA card, the same in every process, `uuid` its name for
    good; `id` counts only the cards that this process may see.
    """

    id: str
    kind: Literal["cpu", "cuda", "mps"]
    name: str
    total_bytes: int
    free_bytes: int
    bf16: bool
    reason: str
    number: int = -1
    uuid: str = ""
    cores: int = 1

    @property
    def lock_name(self) -> str:
        """Name the device the same way in every process, whichever cards that may see."""
        return self.id if self.number < 0 else f"{self.kind}:{self.number}"


def detect_device() -> DeviceInfo:
    """Choose the best device: an NVIDIA card the driver answers for, Apple's GPU, else the CPU."""
    return nvidia_device() or apple_device() or cpu_device()


def nvidia_device() -> DeviceInfo | None:
    """Choose the card with the most free memory, of those that no run holds if there are any."""
    return max(
        nvidia_cards(),
        key=lambda card: (DeviceLock(card.lock_name).holder() is None, card.free_bytes),
        default=None,
    )


def nvidia_cards() -> list[DeviceInfo]:
    """Ask the driver for the cards, in torch's order; never opens a CUDA context."""
    try:
        import pynvml  # not there on macOS

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return []
    except pynvml.NVMLError:
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
    uuids = [as_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    cards = [
        nvidia_card(pynvml, number, place, uuids[number])
        for place, number in enumerate(visible_cards(len(handles), uuids))
    ]
    pynvml.nvmlShutdown()
    return cards


def as_text(name: str | bytes) -> str:
    """Read a name; older versions of the driver's library give bytes."""
    return name if isinstance(name, str) else name.decode()


def visible_cards(count: int, uuids: Sequence[str] = ()) -> list[int]:
    """List the numbers of the cards torch will see, in its order: CUDA_VISIBLE_DEVICES hides some.

    As CUDA does, the list ends at the first entry that names no card; a name may be a number or the
    beginning of a UUID. Names of other kinds are left to CUDA, and all cards count.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return list(range(count))
    numbers = []
    for entry in (each.strip() for each in wanted.split(",")):
        named = [n for n, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(named) == 1:
            numbers += named
        elif entry and entry[0].isalpha():
            return list(range(count))
        elif entry.isdecimal() and int(entry) < count:
            numbers.append(int(entry))
        else:
            break
    return numbers


def nvidia_card(  # type: ignore[no-untyped-def]
    pynvml, number: int, place: int, uuid: str
) -> DeviceInfo:
    """Describe one NVIDIA card by the driver's number; `place` is the number torch gives it."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return DeviceInfo(
        id=f"cuda:{place}",
        kind="cuda",
        name=as_text(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        bf16=major >= 8,  # Ampere
        reason=f"compute capability {major}.{minor}",
        number=number,
        uuid=uuid,
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
        cores=worker_threads(cores),
    )


def worker_threads(cores: int) -> int:
    """Count the threads torch takes for one operation: as many as cores, unless it is told."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if told.isdecimal():
        return max(1, int(told))
    # a container, or taskset, may leave it fewer than there are
    with suppress(AttributeError):  # not on macOS or Windows
        return max(1, min(cores, len(os.sched_getaffinity(0))))
    return cores


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


def devices_of(device: DeviceInfo, processes: int) -> list[DeviceInfo]:
    """List what a run takes: the device, or a card for each of the processes that learn."""
    several = device.kind == "cuda" and processes > 1
    return (nvidia_cards()[:processes] if several else []) or [device]


@contextmanager
def held(device: DeviceInfo, run: Path, processes: int = 1) -> Iterator[None]:
    """Hold a device for a run, and let this process see no other card; torch comes after this.

    Without that, a library that asks for "the GPU" would get the first card, whoever uses it. Where
    several processes learn together, all their cards are held and stay seen. Raises DeviceBusyError
    where another run holds one of them.
    """
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with ExitStack() as stack:
        for each in devices_of(device, processes):
            lock = DeviceLock(each.lock_name)
            lock.acquire(run)
            stack.callback(lock.release)
        if device.uuid and processes == 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid
        try:
            yield
        finally:
            # what this process starts afterwards may choose anew
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
            elif device.uuid:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
