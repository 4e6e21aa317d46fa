"""How much a worker's threads lose when other programs want the cores too.

`python benchmarks/busy_machine.py [BUSY]`: matrix products a second on all cores, with threads that
spin while they wait (the default of OpenMP) and with threads that sleep (what workers do), on a
quiet machine and beside BUSY other busy processes (default: twice the cores).
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from sftplay_ui.engine.launching import WAIT_WITHOUT_SPINNING

MEASURE = """
import time
import torch
x, w = torch.randn(400, 576, dtype=torch.bfloat16), torch.randn(576, 1536, dtype=torch.bfloat16)
end, count = time.monotonic() + 5, 0
while time.monotonic() < end:
    torch.relu(x @ w)
    count += 1
print(count / 5)
"""
ROUNDS = 3


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep some processes busy for as long as the block lasts."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def products_per_second(settings: dict[str, str]) -> float:
    """Measure one process with its OpenMP settings."""
    command = [sys.executable, "-c", MEASURE]
    output = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    return float(output.stdout)


def main() -> None:
    """Print both ways of waiting, in turn, on a quiet and on a busy machine."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2 * (os.cpu_count() or 1)
    for others in (0, count):
        with busy(others):
            rounds = [
                (products_per_second({}), products_per_second(WAIT_WITHOUT_SPINNING))
                for _ in range(ROUNDS)
            ]
        spinning, sleeping = (median(values) for values in zip(*rounds, strict=True))
        print(f"{others} other busy processes: spinning {spinning:.0f}, sleeping {sleeping:.0f}")


if __name__ == "__main__":
    main()
