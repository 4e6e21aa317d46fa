"""How much memory this process has needed at most, on the device it computes on."""

from pathlib import Path

import psutil
import torch


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
