"""How fast this machine multiplies matrices: `python -m ...products KIND PRECISION INNER OUTER`.

A forecast rests on it where nothing was trained yet, and benchmarks hold training against it.
Prints one number, FLOP/s.
"""

import sys
import time

import torch

# in short spells, of which some are undisturbed on a machine that others use too
ROWS, REPEATS, SECONDS = 400, 3, 1.5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def product_speed(inner: int, outer: int, *, precision: str, device: str, seconds: float) -> float:
    """Multiply [400, inner] by [inner, outer] for so many seconds; give the best FLOP/s seen."""
    torch.set_float32_matmul_precision("medium")
    x = torch.randn(ROWS, inner, dtype=DTYPES[precision], device=device)
    weight = torch.randn(outer, inner, dtype=DTYPES[precision], device=device)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(REPEATS):
            last = x @ weight.t()
        last[0, 0].item()  # a card has only queued them so far
        spent = time.perf_counter() - began
        best = max(best, REPEATS * 2 * ROWS * inner * outer / spent)
    return best


if __name__ == "__main__":
    kind, wanted, *size = sys.argv[1:]
    print(product_speed(*map(int, size), precision=wanted, device=kind, seconds=SECONDS))
