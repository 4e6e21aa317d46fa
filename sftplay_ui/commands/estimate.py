"""The command `estimate`: will a run fit, how long will it take, and what to change."""

from dataclasses import asdict
from typing import Literal

from sftplay_ui.commands import Answer, Context
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.memory.proof import prove
from sftplay_ui.engine.memory.prospect import Prospect, look_ahead
from sftplay_ui.engine.memory.table import CARD_GB, imagined_card

GIB = 1 << 30


def estimate_run(context: Context) -> Answer:
    """Estimate memory and time of a training run on this machine, or on a card one might have."""
    config = context.config()
    if context.args.prove:
        return prove_on_card(config, context)
    device = imagined_card(context.args.card) if context.args.card else detect_device()
    calibrate = context.args.calibrate and not context.args.card
    simulated: Literal["always", "never"] = "always" if context.args.simulate else "never"
    ahead = look_ahead(config, device, context.workspace, calibrate=calibrate, simulated=simulated)
    time = ahead.time
    value = {
        **ahead.memory.to_json(),
        "model": config.model.name,
        "parameters": ahead.shape.parameters,
        "seconds_per_epoch": time and round(time.seconds_per_epoch, 1),
        "total_seconds": time and round(time.total_seconds, 1),
        "tokens_per_second": time and round(time.tokens_per_second, 1),
        "time_source": time.source if time else "there are no training examples yet",
    }
    return Answer(value, describe(ahead))


def prove_on_card(config: RunConfig, context: Context) -> Answer:
    """Measure on the card that is here what the estimate predicts for one of 8 GB (`--card`)."""
    device = detect_device()
    context.reporter.say(f"Measuring on {device.name} ...")
    gigabytes = context.args.card or CARD_GB
    proof, path = prove(config, device, context.workspace, gigabytes=gigabytes)
    text = f"{proof.table()}\n\n{proof.trials}. All figures: {path}"
    return Answer({**asdict(proof), "path": str(path), "table": proof.table()}, text)


def describe(ahead: Prospect) -> str:
    """Put an estimate into a table for a person."""
    found, time = ahead.memory, ahead.time
    lines = [found.sentence, ""]
    lines += [
        f"  {name.replace('_', ' '):<20}{size / GIB:8.2f} GiB"
        for name, size in vars(found.categories).items()
        if size
    ]
    mode = found.need.resolved.mode
    lines += [
        f"  {'together':<20}{found.device_bytes / GIB:8.2f} GiB",
        "",
        f"{ahead.shape.label()} parameters, {mode}, {found.batch_size} at a time "
        f"({found.tokens:,} tokens); room for {found.largest_batch} of the longest.",
    ]
    if found.changes:
        lines += ["What saves most:", *(f"  {change}" for change in found.changes)]
    if time is not None:
        lines.append(
            f"One epoch takes about {minutes(time.seconds_per_epoch)}, the run "
            f"{minutes(time.total_seconds)} without evaluations ({time.source})."
        )
    return "\n".join([*lines, found.basis_words])


def minutes(seconds: float) -> str:
    """Word a duration as coarsely as it is known."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
