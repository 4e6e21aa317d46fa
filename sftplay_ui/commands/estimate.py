"""The command `estimate`: will a run fit, how long will it take, and what to change."""

from sftplay_ui.commands import Answer, Context
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo, detect_device
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.forecast import Forecast, Work, find_speed, forecast
from sftplay_ui.engine.memory.lengths import TokenLengths, measure_lengths
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.source import model_shape
from sftplay_ui.engine.memory.table import imagined_card
from sftplay_ui.engine.model_store import find_model

GIB = 1 << 30
NOTE = "Simulated from the model's shape; a real card may lie anywhere in the band."


def estimate_run(context: Context) -> Answer:
    """Estimate memory and time of a training run on this machine, or on a card one might have."""
    config = context.config()
    model = config.model
    shape = model_shape(model.name, model.revision, workspace=context.workspace)
    device = imagined_card(context.args.card) if context.args.card else detect_device()
    lengths = known_lengths(config, context)
    found = estimate(config, shape, device, lengths)
    time = None if lengths is None else foresee(config, shape, device, (lengths, found), context)
    value = {
        **found.to_json(),
        "model": model.name,
        "parameters": shape.parameters,
        "seconds_per_epoch": time and round(time.seconds_per_epoch, 1),
        "total_seconds": time and round(time.total_seconds, 1),
        "tokens_per_second": time and round(time.tokens_per_second, 1),
        "time_source": time.source if time else "there are no training examples yet",
    }
    return Answer(value, describe(found, shape, time))


def known_lengths(config: RunConfig, context: Context) -> TokenLengths | None:
    """Measure the examples where both they and the tokenizer are here."""
    model = config.model
    try:
        folder = find_model(model.name, model.revision, workspace=context.workspace)
    except ModelError:  # a folder with config.json alone is enough for the rest
        return None
    return measure_lengths(config, folder, context.workspace) if folder else None


def foresee(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    known: tuple[TokenLengths, Estimate],
    context: Context,
) -> Forecast:
    """Say how long the run takes."""
    lengths, found = known
    resolved = found.need.resolved
    speed = find_speed(config, shape, device, resolved=resolved, workspace=context.workspace)
    work = Work(lengths.examples, lengths.tokens)
    return forecast(config, work=work, speed=speed, effective_batch=resolved.effective_batch)


def describe(found: Estimate, shape: ModelShape, time: Forecast | None) -> str:
    """Put an estimate into a table for a person."""
    lines = [found.sentence, ""]
    lines += [
        f"  {name.replace('_', ' '):<20}{size / GIB:8.2f} GiB"
        for name, size in vars(found.categories).items()
        if size
    ]
    setup = found.need.setup
    lines += [
        f"  {'together':<20}{found.device_bytes / GIB:8.2f} GiB",
        "",
        f"{shape.label()} parameters, {setup.mode}, {found.batch_size} examples "
        f"({found.tokens} tokens) at a time; room for {found.largest_batch} of the longest.",
    ]
    if found.changes:
        lines += ["What saves most:", *(f"  {change}" for change in found.changes)]
    if time is not None:
        lines.append(
            f"One epoch takes about {minutes(time.seconds_per_epoch)}, the run "
            f"{minutes(time.total_seconds)} without evaluations ({time.source})."
        )
    return "\n".join([*lines, NOTE])


def minutes(seconds: float) -> str:
    """Word a duration as coarsely as it is known."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
