"""Three ways to begin: a preset sets the few settings that trade time for quality."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "train.epochs": 1.0,
        "tuning.lora.r": 8,
        "tuning.lora.alpha": 16,
        "train.load_best_model_at_end": False,
        "train.sample_prompts": 1,
    },
    "balanced": {
        "train.epochs": 3.0,
        "tuning.lora.r": 16,
        "tuning.lora.alpha": 32,
        "train.load_best_model_at_end": False,
        "train.sample_prompts": 2,
    },
    "thorough": {
        "train.epochs": 5.0,
        "tuning.lora.r": 32,
        "tuning.lora.alpha": 64,
        "train.load_best_model_at_end": True,
        "train.sample_prompts": 4,
    },
}
