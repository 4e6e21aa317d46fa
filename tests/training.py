"""Small training jobs for tests: a project with a few examples, and a run in this very process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.config import (
    LoggingConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.events import Event
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import TokenisedExample, Tokeniser, tokenise_many
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

ANSWERS = ("Yes.", "It is so, and it stays so for good.", "No one knows.", "A, b and c.", "Paris")


def examples(count: int) -> list[Example]:
    """Make examples of very different lengths."""
    return [
        Example(
            (
                Message("user", f"What is {n}{' and so on' * (n % 4)}?"),
                Message("assistant", ANSWERS[n % len(ANSWERS)] * (1 + n % 3)),
            )
        )
        for n in range(count)
    ]


def tokenised(model: Path, count: int, max_seq_len: int = 128) -> list[TokenisedExample]:
    """Tokenise examples as a run would."""
    template = choose_template(model, None, PROJECT_ROOT / "chat_templates")
    return tokenise_many(examples(count), template, Tokeniser.load(model), max_seq_len)


def write_examples(workspace: Workspace, train: int = 20, val: int = 4) -> None:
    """Write processed examples into a project."""
    folder = workspace.data / "processed"
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in (("train", examples(train)), ("val", examples(train + val)[train:])):
        lines = "".join(json.dumps(example.to_record()) + "\n" for example in found)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def config_for(
    model: Path,
    *,
    mode: str = "lora",
    lora: dict[str, Any] | None = None,
    tuning: dict[str, Any] | None = None,
    board: Literal["tensorboard", "none"] = "none",
    **train: Any,
) -> RunConfig:
    """Configure a small run in fp32, without samples unless asked for."""
    chosen = {"epochs": 2, "bf16": False, "sample_prompts": 0, "effective_batch": 4, **train}
    return RunConfig(
        model=ModelConfig(name=str(model), max_seq_len=128),
        tuning=TuningConfig(
            mode=mode, lora=LoraConfig(**{"r": 4, "alpha": 8, **(lora or {})}), **(tuning or {})
        ),
        train=TrainConfig(**chosen),
        logging=LoggingConfig(backend=board),
    )


def train_here(
    config: RunConfig, workspace: Workspace, name: str = "run", *, until: Any = None
) -> list[Event]:
    """Train in this process and give the events; `until(event)` may leave files for it to find."""
    import torch
    from accelerate.state import AcceleratorState

    from sftplay_ui.engine.worker.train import train

    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    run_dir = workspace.outputs / name
    run_dir.mkdir(exist_ok=True)
    (run_dir / "stop").unlink(missing_ok=True)
    events = []
    for event in train(config, run_dir):
        events.append(event)
        if until is not None:
            until(event)
    return events


def of_kind(events: Sequence[Event], kind: type[Event]) -> list[Any]:
    """Pick the events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def adapter_bytes(workspace: Workspace, name: str = "run") -> bytes:
    """Read the weights a run left behind."""
    folder = workspace.adapters / name
    (weights,) = folder.glob("*.safetensors")
    return weights.read_bytes()
