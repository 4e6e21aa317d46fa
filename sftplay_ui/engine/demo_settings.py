"""What the first walk through the app does: the bundled trivia, LoRA, 30 questions held back.

The command `demo` and the window's *Try it now* are the same walk; a 135M model gains on every
measure of it within a minute or two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftplay_ui.engine.data.raw_files import DEFAULT_SAMPLE
from sftplay_ui.engine.workspace import PROJECT_ROOT

HELD_BACK = 30
QUESTION = "Who was the 37th President of the United States?"


def demo_settings(sample: Path | None = None) -> Mapping[str, Any]:
    """Give the settings by dotted path; the examples go to a folder of their own."""
    raw = sample or PROJECT_ROOT / "data" / "samples" / DEFAULT_SAMPLE
    return {
        "data.raw_path": str(raw),
        "data.train_path": "data/demo/train.jsonl",
        "data.val_path": "data/demo/val.jsonl",
        "data.test_path": "data/demo/test.jsonl",
        "data.seed": 0,
        "data.split.train": 210.0,
        "data.split.val": 20.0,
        "data.split.test": float(HELD_BACK),
        "tuning.mode": "lora",
        "train.learning_rate": 4e-4,
        "evaluate.limit": HELD_BACK,
    }
