"""The closed form against steps that were really taken, with tensors that have no data."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.terms import Setup, peak, way_of
from tests.model_configs import ALL

CASES: list[dict[str, Any]] = [
    {"model": "Llama-3.2-1B", "mode": "qlora", "tokens": 2048},
    {"model": "Qwen3-0.6B", "mode": "lora", "tokens": 1024, "checkpointing": False},
    {"model": "SmolLM2-135M", "mode": "full", "tokens": 512},
]
MOST_OVER, MOST_UNDER = 0.10, 0.05


def simulated(cases: list[dict[str, Any]]) -> list[float]:
    """Take the steps in a process of their own, which may hold torch; peaks in bytes."""
    lines = []
    for case in cases:
        values = {**case, "config": ALL[case["model"]]}
        del values["model"]
        lines.append(json.dumps(values))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.memory_oracle"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["peak"] for line in done.stdout.splitlines()]


def estimated(case: dict[str, Any]) -> float:
    """Ask the closed form the same."""
    shape, mode = ModelShape.of(ALL[case["model"]]), case["mode"]
    setup = Setup(
        mode=mode,
        way=way_of(mode, "bf16"),
        loss="chunked",
        adapter=0 if mode == "full" else shape.adapter_weights(16, "all-linear"),
        optim="adamw_8bit" if mode == "qlora" else "adamw",
        checkpointing=case.get("checkpointing", True),
        tokens=case["tokens"],
        learned=case["tokens"],
    )
    return peak(shape, setup).parts.total


@pytest.mark.slow
def test_the_estimate_is_near_the_steps_that_were_taken() -> None:
    errors = [
        estimated(case) / taken - 1 for case, taken in zip(CASES, simulated(CASES), strict=True)
    ]
    assert all(-MOST_UNDER < error < MOST_OVER for error in errors), errors
