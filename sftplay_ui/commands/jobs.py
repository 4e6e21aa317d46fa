"""Commands that run a job in a worker: train, eval, merge; and the list of runs."""

import json
import signal
from pathlib import Path
from typing import Any

from sftplay_ui.commands import STOPPED, Answer, Context
from sftplay_ui.console import failure_of
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.errors import RunNotFoundError, SFTPlayError
from sftplay_ui.engine.events import (
    EvaluationLogged,
    Event,
    RateSuggested,
    RunFinished,
    RunStopped,
    StepLogged,
)
from sftplay_ui.engine.extension import extend_run
from sftplay_ui.engine.launching import Cluster, node_commands
from sftplay_ui.engine.run_queue import (
    cancel,
    enqueue,
    move_up,
    start_next,
    start_now,
    starting,
    waiting,
)
from sftplay_ui.engine.runs import (
    Run,
    find_run,
    list_runs,
    make_run,
    resume_run,
)


class JobFailedError(SFTPlayError):
    """A worker's failure, told again with the worker's own code."""

    def __init__(self, code: str, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.code = code


def train(context: Context) -> Answer:
    """Fine-tune, or go on with a run that was stopped or that is to learn longer."""
    args = context.args
    resume, epochs = args.resume, args.extend
    if args.find_lr:
        return find_rate(context.config(), context)
    if epochs is not None:
        run = find_run(resume, context.workspace) if resume else newest_training(context)
        with starting(context.workspace):
            run = extend_run(run, epochs)
        return finish_training(run, context)
    config = context.config([f"train.processes={args.processes}"] if args.processes else [])
    if args.nodes:
        return name_nodes(config, context)
    if args.queue:
        return queue_run(config, context)
    if resume:
        with starting(context.workspace):
            run = resume_run(find_run(resume, context.workspace))
        return finish_training(run, context)
    return train_run(config, context)


def name_nodes(config: RunConfig, context: Context) -> Answer:
    """Prepare a run for several machines; give the command to start on each of them."""
    cluster = Cluster.at(
        context.args.address or "",
        nodes=context.args.nodes,
        processes=config.train.processes,
        kind=detect_device().kind,
    )
    run = make_run(with_job(config, "train"), context.workspace)
    commands = node_commands(run.folder, cluster)
    lines = [f"{place}. machine: {line}" for place, line in enumerate(commands, 1)]
    text = f"{run.name} is prepared. Start it in the project's folder on\n" + "\n".join(lines)
    return Answer({"run": run.name, "commands": commands}, text)


def queue_run(config: RunConfig, context: Context) -> Answer:
    """Put a training in line and leave; it begins at once where nothing is in its way."""
    run = enqueue(with_job(config, "train"), context.workspace)
    line = [each.name for each in waiting(context.workspace)]
    if run.name not in line:
        return Answer({"run": run.name, "place": 0}, f"{run.name} has begun. See: runs")
    place = line.index(run.name) + 1
    text = f"{run.name} waits in line, number {place}. Take it out with: runs --cancel {run.name}"
    return Answer({"run": run.name, "place": place}, text)


def find_rate(config: RunConfig, context: Context) -> Answer:
    """Start a range test and give the learning rate it suggests."""
    run = start_now(with_job(config, "find_lr"), context.workspace)
    events = follow(run, context)
    found = next((e for e in events if isinstance(e, RateSuggested)), None)
    if found is None:
        return Answer({"run": run.name}, f"{run.name} stopped.", STOPPED)
    value = {
        "run": run.name,
        "learning_rate": found.learning_rate,
        "rates": list(found.rates),
        "losses": list(found.losses),
    }
    use = f"Use it with: train --set train.learning_rate={found.learning_rate:g}"
    return Answer(value, f"{found.what}\n{use}")


def newest_training(context: Context) -> Run:
    """Give the training run that began last; RunNotFoundError where there is none."""
    runs = list_runs(context.workspace)
    found = next((run for run in runs if run.job() == "train"), None)
    if found is None:
        raise RunNotFoundError("There is no training run yet.", "Start one first: train.")
    return found


def train_run(config: RunConfig, context: Context) -> Answer:
    """Start a training run and follow it to its end."""
    return finish_training(start_now(with_job(config, "train"), context.workspace), context)


def finish_training(run: Run, context: Context) -> Answer:
    """Follow a training run and sum it up."""
    context.reporter.say(f"run {run.name}")
    events = follow(run, context)
    steps = [e for e in events if isinstance(e, StepLogged)]
    scores = [e.metrics for e in events if isinstance(e, EvaluationLogged)]
    end = events[-1]
    value = {
        "run": run.name,
        "adapter": end.adapter if isinstance(end, RunFinished) else None,
        "steps": steps[-1].step if steps else 0,
        "seconds": round(end.seconds, 2) if isinstance(end, RunFinished) else None,
        "loss": steps[-1].loss if steps else None,
        "eval_loss": scores[-1].get("eval_loss") if scores else None,
    }
    if isinstance(end, RunStopped):
        text = f"{run.name} stopped at step {end.step}. Go on with: train --resume {run.name}"
        return Answer(value, text, STOPPED)
    return Answer(value, f"{run.name}: loss {value['loss']:.4f}, adapter in {value['adapter']}")


def evaluate(context: Context) -> Answer:
    """Score a run before and after tuning, on the same questions."""
    args = context.args
    overrides = [f"evaluate.split={args.split}"] if args.split else []
    overrides += [f"evaluate.limit={args.limit}"] if args.limit is not None else []
    overrides += [f"evaluate.base={str(args.base).lower()}"] if args.base is not None else []
    overrides += [f"evaluate.run={args.run}"] if args.run and args.run != "last" else []
    return evaluate_run(context.config(overrides), context)


def evaluate_run(config: RunConfig, context: Context) -> Answer:
    """Start an evaluation and give its scores."""
    run = start_now(with_job(config, "evaluate"), context.workspace)
    if isinstance(follow(run, context)[-1], RunStopped):
        return Answer({"run": run.name}, f"{run.name} stopped.", STOPPED)
    result = read_metrics(run)
    return Answer(result, describe_scores(result))


def describe_scores(result: dict[str, Any]) -> str:
    """Lay out before and after side by side, with the verdict below."""
    before, after = result.get("before") or {}, result.get("after") or {}
    lines = [f"{'':18}{'before':>10}{'after':>10}"]
    for name in after or before:
        cells = (
            f"{scores[name]:>10.4f}" if name in scores else f"{'':>10}"
            for scores in (before, after)
        )
        lines.append(f"{name:18}{''.join(cells)}")
    return "\n".join([*lines, str(result.get("verdict", ""))])


def merge(context: Context) -> Answer:
    """Fold an adapter into its base model."""
    args = context.args
    overrides = [f"merge.adapter={args.adapters}"] if args.adapters not in (None, "last") else []
    overrides += [f"merge.out={args.out}"] if args.out else []
    overrides += [f"merge.dtype={args.dtype}"] if args.dtype else []
    return merge_run(context.config(overrides), context)


def merge_run(config: RunConfig, context: Context) -> Answer:
    """Start a merge and give where the model is, and the proof that it is the same."""
    run = start_now(with_job(config, "merge"), context.workspace)
    if isinstance(follow(run, context)[-1], RunStopped):
        return Answer({"run": run.name}, f"{run.name} stopped; nothing was left behind.", STOPPED)
    result = read_metrics(run)
    return Answer(
        result,
        f"Merged into {result['out']} ({result['bytes'] / 1e6:.0f} MB); "
        f"{describe_parity(result['parity'])}.",
    )


def describe_parity(parity: dict[str, Any] | None) -> str:
    """Say whether the merged model is the same as base and adapter; None was not compared."""
    if parity is None:
        return "there was too little memory to compare it with base and adapter"
    same = "the same" if parity["same_tokens"] else "not the same"
    return f"it writes {same} tokens as base and adapter"


def list_all(context: Context) -> Answer:
    """List the runs, newest first, and those that wait; `--cancel` and `--up` change the line."""
    if context.args.cancel:
        cancel(context.args.cancel, context.workspace)
    if context.args.up:
        move_up(context.args.up, context.workspace)
    start_next(context.workspace)
    rows = [run.summary() for run in list_runs(context.workspace)]
    value = [
        {
            "run": row.run,
            "job": row.job,
            "state": row.state,
            "step": row.step,
            "total_steps": row.total_steps,
            "loss": row.loss,
        }
        for row in rows
    ]
    line = [run.name for run in waiting(context.workspace)]
    value += [
        {"run": name, "job": "train", "state": "queued", "step": 0, "total_steps": 0, "loss": None}
        for name in line
    ]
    lines = [f"{'run':32}{'job':10}{'state':10}{'step':>12}{'loss':>10}"]
    for row in rows:
        steps = f"{row.step}/{row.total_steps}" if row.total_steps else ""
        loss = f"{row.loss:.4f}" if row.loss is not None else ""
        lines.append(f"{row.run:32}{row.job:10}{row.state:10}{steps:>12}{loss:>10}")
    lines += [
        f"{name:32}{'train':10}{'queued':10}{place:>12}" for place, name in enumerate(line, 1)
    ]
    return Answer(value, "\n".join(lines) if value else "No runs yet.")


def with_job(config: RunConfig, job: str) -> RunConfig:
    """Give the configuration of another job."""
    return RunConfig.model_validate({**config.model_dump(), "job": job})


def follow(run: Run, context: Context) -> list[Event]:
    """Show a run until it ends; Ctrl-C asks it to save and stop, a second one to stop at once.

    Raises JobFailedError with the worker's words when the run failed.
    """

    def ask_to_stop(_number: int, _frame: object) -> None:
        run.request_stop()
        context.reporter.say("Stopping: the work so far is being saved ...")

    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        seen = context.reporter.show(run.follow())
    finally:
        signal.signal(signal.SIGINT, before)
    failure = failure_of(seen)
    if failure is not None:
        raise JobFailedError(failure.code, failure.what, failure.fix)
    return seen


def read_metrics(run: Run) -> dict[str, Any]:
    """Read what a finished job left in `metrics.json`."""
    result: dict[str, Any] = json.loads(Path(run.folder / "metrics.json").read_text("utf-8"))
    return result
