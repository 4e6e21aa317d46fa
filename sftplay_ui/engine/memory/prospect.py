"""What is ahead of a run before it starts: will it fit, and how long will it take.

The one door for the command line and the window.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sftplay_ui.engine.backends import hoped_for, known_verdict, unsloth_python
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.basis import Question, best_basis
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.forecast import Forecast, Work, find_speed, forecast
from sftplay_ui.engine.memory.lengths import TokenLengths, measure_lengths
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.source import model_config
from sftplay_ui.engine.models.store import find_model
from sftplay_ui.engine.resolve import is_shared_out
from sftplay_ui.engine.workspace import Workspace

RECKONED_AS_BNB = (
    "Reckoned as for bnb: what unsloth's own kernels and its way of recomputing save was not "
    "measured. Counted is that it takes no examples side by side."
)
COUNTED_WHOLE = (
    "All weights are counted, though train.sharding leaves each process only its part of them."
)


@dataclass(frozen=True)
class Prospect:
    """A run's memory and time; `time` is None while there are no examples to count."""

    shape: ModelShape
    memory: Estimate
    time: Forecast | None


def look_ahead(
    config: RunConfig,
    device: DeviceInfo,
    workspace: Workspace,
    *,
    calibrate: bool = False,
    simulated: Literal["never", "strangers", "always"] = "never",
) -> Prospect:
    """Estimate memory and time of a training run on a device, without loading anything.

    With `calibrate`, the device's speed is measured for some seconds where no run has told it;
    `simulated` says for which models a step is simulated, which takes some seconds too.
    Raises ModelError, DataError or TemplateError for what the run would not start with either, and
    ConfigError or BackendError for what the device cannot do.
    """
    config, remark = with_backend(config, device)
    model = config.model
    read = model_config(model.name, model.revision, workspace=workspace)
    lengths = known_lengths(config, workspace)
    question = Question(read, config, device, lengths)
    shape, basis = question.shape, best_basis(question, simulated=simulated)
    if is_shared_out(config.train):
        remark = f"{remark} {COUNTED_WHOLE}".strip()
    if remark and basis.kind != "measured":
        basis = replace(basis, words=f"{basis.words} {remark}")
    memory = estimate(config, shape, device, lengths, basis)
    if lengths is None:
        return Prospect(shape, memory, None)
    resolved = memory.need.resolved
    speed = find_speed(
        config, shape, device, resolved=resolved, workspace=workspace, calibrate=calibrate
    )
    work = Work(lengths.examples, lengths.tokens)
    time = forecast(config, work=work, speed=speed, effective_batch=resolved.effective_batch)
    return Prospect(shape, memory, time)


def with_backend(config: RunConfig, device: DeviceInfo) -> tuple[RunConfig, str]:
    """Give the settings with the backend a run would get here, and what that means for figures."""
    if hoped_for(config).value != "unsloth":
        return config, ""
    verdict = known_verdict(unsloth_python(), device)
    if verdict is None or verdict.usable:
        return config, RECKONED_AS_BNB
    tuning = config.tuning.model_copy(update={"backend": "bnb"})
    why = f"These are the figures of bnb, which would train instead: {verdict.reason}."
    return config.model_copy(update={"tuning": tuning}), why


def known_lengths(config: RunConfig, workspace: Workspace) -> TokenLengths | None:
    """Measure the examples where both they and the tokenizer are here."""
    model = config.model
    try:
        folder = find_model(model.name, model.revision, workspace=workspace)
    except ModelError:  # a folder with config.json alone is enough for the rest
        return None
    return measure_lengths(config, folder, workspace) if folder else None
