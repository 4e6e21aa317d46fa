"""How much memory a device has, and how much of it was needed: one small interface for all askers.

Only devices with memory of their own have one. On a CPU the RAM is shared with everything else and
giving it back takes its time, so there the estimate decides, and not a trial.
"""

import gc
from pathlib import Path
from typing import Protocol

import psutil
import torch

# how torch words that a CPU's memory is used up; and how CUDA's libraries word it of a card's
WORDS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class DeviceMemory(Protocol):
    """The memory of one device, as this process sees it; all figures in bytes."""

    @property
    def capacity(self) -> int:
        """What this process may use at most, with what it uses already."""

    def start(self) -> None:
        """Give back what is cached, and begin to watch anew."""

    def allocated(self) -> int:
        """Tensors alive at the same time, at most since `start`."""

    def reserved(self) -> int:
        """Taken from the device at most since `start`: tensors, and blocks kept beside them."""


class CudaMemory:
    """A CUDA card's memory; `limit` holds it below what the card really has."""

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        self.device = device
        self.limit = limit

    @property
    def capacity(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        room = free + torch.cuda.memory_reserved(self.device)
        return room if self.limit is None else min(room, self.limit)

    def start(self) -> None:
        free_memory()
        torch.cuda.reset_peak_memory_stats(self.device)

    def allocated(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def reserved(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_reserved(self.device)


def memory_of(device: torch.device) -> DeviceMemory | None:
    """Give the memory of a device that has its own; None for a CPU, and for Apple's shared one."""
    return CudaMemory(device) if device.type == "cuda" else None


def free_memory() -> None:
    """Give cached device memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tells_lack_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error means that memory ran out, on a card or in RAM."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(word in str(error) for word in WORDS)


def peak_bytes(device: torch.device) -> int:
    """Give the most memory allocated so far: on a CUDA device by torch, else the process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # the kernel's high-water mark; getrusage would report that of the parent
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
