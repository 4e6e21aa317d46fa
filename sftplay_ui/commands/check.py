"""`check`: the whole set-up at a look, or one thing a person has, with a verdict.

The verdicts come from the very code that later does the work; nothing is written.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from sftplay_ui.commands import FAILED, Answer, Context
from sftplay_ui.engine.adapters import check_adapter
from sftplay_ui.engine.backends import beyond_unsloth, unsloth_python, verdict_on
from sftplay_ui.engine.checkpoints import check_checkpoint
from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.config_file import load_config
from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.data.inspection import check_data
from sftplay_ui.engine.data.leaks import find_leaks
from sftplay_ui.engine.data.split import SPLITS
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.errors import DataError, SFTPlayError
from sftplay_ui.engine.models.store import find_model
from sftplay_ui.engine.runs import check_run_name, run_name
from sftplay_ui.engine.text.template_check import check_template_file
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.workspace import Workspace

LITTLE_SPACE_BYTES = 2 * 10**9


def check(context: Context) -> Answer:
    """Check one thing (`--kind`), or everything that a run needs."""
    if context.args.kind is None:
        return check_setup(context)
    if context.args.path is None:
        raise SFTPlayError("There is no PATH to check.", "Name the thing after --kind.")
    result = check_one(context)
    text = "\n".join([result.verdict.replace("_", " "), *result.messages])
    return Answer(result.to_json(), text)


def check_one(context: Context) -> CheckResult:
    """Give the verdict on one data file, configuration, template, name, adapter or model."""
    text, workspace = context.args.path, context.workspace
    checks: dict[str, Callable[[], CheckResult]] = {
        "data": lambda: check_data(workspace.resolve(text), config=context.config()),
        "config": lambda: check_config(workspace.resolve(text), workspace),
        "template": lambda: check_template_file(workspace.resolve(text)),
        "run_name": lambda: check_name(text, workspace),
        "adapter": lambda: check_adapter(workspace.resolve(text)),
        "model": lambda: check_model(text, workspace),
        "checkpoint": lambda: check_checkpoint(workspace.resolve(text)),
    }
    try:
        return checks[context.args.kind]()
    except SFTPlayError as error:
        return CheckResult.rejected(error)


def check_config(path: Path, workspace: Workspace) -> CheckResult:
    """Read a configuration with all its includes, and the name it gives its run."""
    loaded = load_config(path, (), workspace)
    run_name(loaded.config)
    return CheckResult.of(faults=[], warnings=list(loaded.warnings))


def check_name(name: str, workspace: Workspace) -> CheckResult:
    """Tell whether a run may be called so."""
    check_run_name(name)
    taken = (workspace.outputs / name).exists()
    warnings = [f"There is a run called {name}; a new one gets a number behind it."]
    return CheckResult.of(faults=[], warnings=warnings if taken else [])


def check_model(name: str, workspace: Workspace) -> CheckResult:
    """Tell whether a base model is on this machine and whole."""
    found = find_model(name, workspace=workspace)
    warnings = [f"{name} is not on this machine yet; it is fetched when it is needed."]
    return CheckResult.of(faults=[], warnings=[] if found else warnings)


def check_setup(context: Context) -> Answer:
    """Look at all a run needs: machine, disk, configuration, base model, data and template."""
    device = detect_device()
    free = shutil.disk_usage(context.workspace.root).free
    facts = {
        "python": sys.version.split()[0],
        "device": f"{device.name}: {device.free_bytes / 1e9:.1f} of "
        f"{device.total_bytes / 1e9:.1f} GB free, {device.reason}",
        "disk": f"{free / 1e9:.1f} GB free",
    }
    problems = []
    if free < LITTLE_SPACE_BYTES:
        problems.append(f"Only {free / 1e9:.1f} GB of disk space are free. Make room.")
    if not os.access(context.workspace.root, os.W_OK | os.X_OK):
        problems.append(f"Nothing can be written in {context.workspace.root}. Choose --workspace.")
    looks = {
        "configuration": look_at_config,
        "backend": look_at_backend,
        "data": look_at_data,
        "base model": look_at_model,
    }
    for name, look in looks.items():
        try:
            facts[name] = look(context)
        except SFTPlayError as error:
            problems.append(str(error))
            if name == "configuration":
                break  # the rest is found by it, and would only say the same again
    warnings = [] if problems else look_for_leaks(context)
    lines = [f"{name:14}{fact}" for name, fact in facts.items()]
    lines += [f"warning: {text}" for text in warnings]
    lines += [f"problem: {text}" for text in problems] or ["All is ready."]
    value = {
        "ready": not problems,
        "facts": facts,
        "warnings": warnings,
        "problems": problems,
    }
    return Answer(value, "\n".join(lines), FAILED if problems else 0)


def look_at_config(context: Context) -> str:
    """Load the configuration; any problem is raised."""
    run_name(context.config())
    return str(context.args.config or "defaults")


def look_at_backend(context: Context) -> str:
    """Tell which backend a run would get; unsloth is tried where nobody knows yet."""
    config = context.config()
    if config.tuning.backend == "bnb":
        return "bnb"
    obstacle = beyond_unsloth(config)
    if not obstacle:
        verdict = verdict_on(unsloth_python(), detect_device())
        if verdict.usable:
            return verdict.reason
        obstacle = verdict.reason
    return f"bnb instead of unsloth: {obstacle}"


def look_at_data(context: Context) -> str:
    """Count the examples training would read; none yet is no problem."""
    data = context.config().data
    counts = []
    for split in ("train", "val", "test"):
        path = context.workspace.resolve(getattr(data, f"{split}_path"))
        if path.exists():
            counts.append(f"{sum(1 for _ in read_examples(path))} {split}")
    if not counts:
        return "no processed examples yet: run `process`, or use the Data tab"
    if not counts[0].endswith("train"):
        raise DataError("There are no training examples.", "Run `process` first.")
    return ", ".join(counts)


def look_for_leaks(context: Context) -> list[str]:
    """Say where a question of val or test is learned in train, so that its score would be none."""
    data = context.config().data
    paths = {split: context.workspace.resolve(getattr(data, f"{split}_path")) for split in SPLITS}
    return [
        f"{found.title}: {found.count:,}, first at {found.examples[0].place} "
        f"({found.examples[0].text}). Process the raw file again, which keeps them together."
        for found in find_leaks(paths)
    ]


def look_at_model(context: Context) -> str:
    """Find the base model and the template it would be trained with."""
    config = context.config()
    found = find_model(config.model.name, config.model.revision, workspace=context.workspace)
    if found is None:
        return f"{config.model.name}: not here yet, fetched when it is needed"
    path = config.data.template_path
    template = choose_template(
        found.path,
        context.workspace.resolve(path) if path else None,
        context.workspace.templates,
    )
    return f"{config.model.name} in {found.path}; template {template.name} ({template.reason})"
