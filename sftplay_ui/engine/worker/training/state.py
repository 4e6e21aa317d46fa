"""What a run must remember to go on exactly: weights, optimizer, random numbers, counters."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sftplay_ui.engine.errors import NotFiniteError, ResumeError
from sftplay_ui.engine.worker.model.load import stored_name
from sftplay_ui.engine.worker.training.learner import Stepper, Update, rng_state, set_rng_state
from sftplay_ui.engine.worker.training.sharding import (
    gathered,
    gathered_state,
    own_part,
    own_state,
)
from sftplay_ui.engine.worker.training.spikes import WINDOW

STATE_FILE, OPTIMIZER_FILE, RNG_FILE = "state.json", "optimizer.pt", "rng.pt"
# peft's names, so that a checkpoint can be opened as the adapter or model it holds
ADAPTER_WEIGHTS, MODEL_WEIGHTS = "adapter_model.safetensors", "model.safetensors"


@dataclass
class Progress:
    """How far a run is; `evaluated` is the last step that was evaluated, -1 before any."""

    step: int = 0
    evaluated: int = -1
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    batch_size: int = 0
    lanes: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    eval_loss_before: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    settings: dict[str, str | int | float] = field(default_factory=dict)

    def count(self, update: Update) -> None:
        """Count a step that was taken."""
        self.step += 1
        self.loss = update.loss
        self.recent = [*self.recent, update.loss][-WINDOW:]
        self.tokens += update.tokens
        self.seconds += update.seconds

    def rate(self, metrics: Mapping[str, float], metric: str, *, lowest: bool = True) -> None:
        """Take in an evaluation of the present step; the lowest (or highest) `metric` is best."""
        self.evaluated = self.step
        if metric not in metrics:
            return
        self.eval_loss = metrics.get("eval_loss")
        if self.step == 0:
            self.eval_loss_before = self.eval_loss
        value, best = metrics[metric], self.best_metric
        gain = best is None or (value < best if lowest else value > best)
        if math.isfinite(value) and gain:
            self.best_metric, self.best_step = value, self.step
            self.evaluations_without_gain = 0
        else:
            self.evaluations_without_gain += 1


@dataclass(frozen=True)
class Whole:
    """What all processes have only together: weights that learn, moments, and random numbers."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, object]
    draws: Sequence[Mapping[str, object]]

    @classmethod
    def of(cls, stepper: Stepper) -> "Whole":
        """Gather it for the first process; all of them must ask."""
        keep = stepper.accelerator.is_main_process
        return cls(
            gathered(learned_weights(stepper.prepared.model), keep=keep),
            gathered_state(stepper.optimizer.state_dict(), keep=keep),
            gather_object([rng_state()]),
        )


def write_state(folder: Path, stepper: Stepper, progress: Progress, *, whole: Whole) -> None:
    """Write everything a resume needs into a (staged) folder."""
    write_weights(folder, stepper.prepared.model, whole.weights)
    torch.save(whole.optimizer, folder / OPTIMIZER_FILE)
    scaler = stepper.accelerator.scaler
    rng = {"processes": whole.draws, "scaler": scaler.state_dict() if scaler else {}}
    torch.save(rng, folder / RNG_FILE)
    (folder / STATE_FILE).write_text(json.dumps(asdict(progress)), encoding="utf-8")


def read_state(folder: Path, stepper: Stepper) -> Progress:
    """Load what `write_state` wrote into the model, the optimizer and the random numbers.

    Raises ResumeError where the weights are not those of this model.
    """
    read_weights(folder, stepper.prepared.model)
    device = stepper.accelerator.device
    # torch knows no cpu:0, the device of one of several processes
    device = "cpu" if device.type == "cpu" or stepper.spread else device
    optimizer = torch.load(folder / OPTIMIZER_FILE, weights_only=True, map_location=device)
    in_order = [w for group in stepper.optimizer.param_groups for w in group["params"]]
    stepper.optimizer.load_state_dict(own_state(optimizer, in_order))
    rng = torch.load(folder / RNG_FILE, weights_only=True, map_location="cpu")
    if stepper.accelerator.scaler and rng["scaler"]:
        stepper.accelerator.scaler.load_state_dict(rng["scaler"])
    # one process wrote its own alone before several could
    draws = rng.get("processes", [rng])
    set_rng_state(draws[stepper.accelerator.process_index % len(draws)])
    return Progress(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights that learn, under the names peft and transformers store them by.

    Of spread ones each process has its part.
    """
    return {
        stored_name(name): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def learned_bytes(model: nn.Module) -> int:
    """Sum the bytes of the weights that learn."""
    return sum(w.numel() * w.element_size() for w in learned_weights(model).values())


def write_weights(folder: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write a model's learned weights, with what is needed to open them.

    Raises NotFiniteError rather than write NaN and infinity.
    """
    broken = next((name for name, w in weights.items() if not torch.isfinite(w).all()), None)
    if broken is not None:
        raise NotFiniteError(
            f"The weights {broken} are no longer numbers, so they are not saved.",
            "Resume from the last checkpoint with a lower train.learning_rate.",
        )
    name = ADAPTER_WEIGHTS if isinstance(model, PeftModel) else MODEL_WEIGHTS
    stored = {key: weight.cpu().contiguous() for key, weight in weights.items()}
    save_file(stored, folder / name, metadata={"format": "pt"})
    if isinstance(model, PeftModel):
        model.peft_config["default"].save_pretrained(str(folder))
    else:
        model.config.save_pretrained(folder)


def read_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights that learn; raise ResumeError unless all are there in their shapes."""
    path = folder / (ADAPTER_WEIGHTS if isinstance(model, PeftModel) else MODEL_WEIGHTS)
    weights = learned_weights(model)
    with safe_open(path, framework="pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    check_shapes(path, weights, stored)
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(own_part(stored[key], weight))


def check_shapes(path: Path, weights: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Raise ResumeError unless the stored weights are those of the model, name by name."""
    for key in sorted({*weights, *stored}):
        here = tuple(weights[key].shape) if key in weights else None
        there = tuple(stored[key].shape) if key in stored else None
        if here != there:
            raise ResumeError(
                f"{path}: {key} has the shape {there}, and the model wants {here}.",
                "Start a new run; this checkpoint belongs to another model.",
            )
