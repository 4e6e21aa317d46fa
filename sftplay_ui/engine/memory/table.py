"""The README's table of what an 8 GB card has room for, written by the estimator.

`python -m sftplay_ui.engine.memory.table` prints it.
"""

import sys
from dataclasses import replace
from typing import Any

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.need import CUDA_CONTEXT, GIB, SLACK
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.terms import STOCK, peak

CARD_GB = 8
LENGTHS = (512, 1024, 2048, 4096)
WORDS = {"fits": "", "tight": " (tight)", "no": " (no)"}


def qwen(width: tuple[int, int], layers: int, heads: int) -> dict[str, Any]:
    """Write what matters of a Qwen2.5 config.json; `width` is residual and feed-forward."""
    return {
        "model_type": "qwen2",
        "hidden_size": width[0],
        "intermediate_size": width[1],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }


MODELS = {
    "Qwen2.5-3B": qwen((2048, 11008), 36, 16),
    "Qwen2.5-1.5B": qwen((1536, 8960), 28, 12),
    "Qwen2.5-0.5B": qwen((896, 4864), 24, 14),
}


def imagined_card(gigabytes: float) -> DeviceInfo:
    """Imagine an NVIDIA card of so many gigabytes with nothing on it, a recent one with bf16."""
    size = int(gigabytes * GIB)
    name = f"an NVIDIA card with {gigabytes:g} GB"
    return DeviceInfo("cuda:0", "cuda", name, size, size, True, "as a recent card has it")


def table() -> str:
    """Write the table in Markdown: need in GiB, the most examples at once, and what stock needs."""
    lines = [
        "| QLoRA, r 16, one example at a time | "
        + " | ".join(f"{length} tokens" for length in LENGTHS)
        + " |",
        "|---|" + "---|" * len(LENGTHS),
    ]
    for name, config in MODELS.items():
        shape = ModelShape.of(config)
        found = [asked(shape, length) for length in LENGTHS]
        cells = [cell(each) for each in found]
        lines.append(f"| {name}: GiB on the card | " + " | ".join(cells) + " |")
        stock = [f"{stock_bytes(shape, each) / GIB:.1f}" for each in found]
        lines.append(f"| the same in plain transformers + peft | {' | '.join(stock)} |")
    return "\n".join(lines)


def cell(found: Estimate) -> str:
    """Word one estimate."""
    need = f"{found.device_bytes / GIB:.1f}{WORDS[found.verdict]}"
    return f"{need}, up to {found.largest_batch} at once"


def asked(shape: ModelShape, length: int) -> Estimate:
    """Estimate one cell."""
    config = RunConfig.model_validate(
        {
            "model": {"max_seq_len": length},
            "tuning": {"mode": "qlora"},
            "train": {"batch_size": 1, "gradient_checkpointing": True},
        }
    )
    return estimate(config, shape, imagined_card(CARD_GB))


def stock_bytes(shape: ModelShape, ours: Estimate) -> float:
    """Estimate the same step as peft prepares it, with the loss of transformers."""
    setup = replace(ours.need.setup, way=STOCK, loss="all")
    return peak(shape, setup).parts.total * (1 + SLACK) + CUDA_CONTEXT


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
