"""What the numbers are: weights, autocast, and which matrix products the CPU uses for fp32."""

import torch

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.resolve import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# More than two ways of adding up the same fp32 products differ; products in bf16 differ by 4e-3.
HARMLESS = 1e-5
PROBE_SHAPE = (64, 512)


def weight_dtype(mode: str, precision: Precision) -> torch.dtype:
    """Choose the base weights' type: weights that learn are kept in fp32."""
    return torch.float32 if mode == "full" else DTYPES[precision]


def route_fp32_products() -> Choice:
    """Let fp32 products on a CPU go through oneDNN where that is exact, which is faster on AMD.

    `medium` permits rounding to bf16, which CPUs with AMX may really do: the error is measured, and
    the setting is taken back where it does harm.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_SHAPE, generator=generator)
    exact = x.double() @ x.double().t()
    torch.set_float32_matmul_precision("medium")
    error = ((x @ x.t()).double() - exact).norm() / exact.norm()
    setting = "fp32 matrix products"
    if error < HARMLESS:
        return Choice(setting, "oneDNN", f"exact here (relative error {error:.0e})")
    torch.set_float32_matmul_precision("highest")
    return Choice(setting, "default", f"oneDNN would round here (relative error {error:.0e})")
