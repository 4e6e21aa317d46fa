"""A stand-in worker: a real process in a real run folder, which tells a story without training
anything.

`python -m tests.stand_in FOLDER --steps 40 --pause 0.05` writes what a training worker writes:
its record, its events, its log; it heeds the stop file. `make_run` prepares the folder, `start`
runs it as a worker is run.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml, make_config
from sftplay_ui.engine.events import (
    CheckpointSaved,
    ConfigResolved,
    EvaluationLogged,
    Event,
    EventWriter,
    PhaseProgressed,
    PhaseStarted,
    RunFinished,
    RunStarted,
    RunStopped,
    SampleGenerated,
    StepLogged,
    Warned,
)
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace

PROJECT = Path(__file__).parents[1]
QUESTION = "Which planet is closest to the sun?"


def make_run(workspace: Workspace, name: str, job: str = "train") -> Run:
    """Lay out the folder of a run that has not begun."""
    run = Run(workspace.outputs / name)
    run.folder.mkdir(parents=True)
    config: RunConfig = make_config({"job": job, "run_name": name})
    (run.folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    return run


def start(run: Run, *options: str) -> "subprocess.Popen[bytes]":
    """Start the stand-in and return once its record is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stand_in", str(run.folder), *options], cwd=PROJECT
    )
    while process.poll() is None and not run.is_alive():
        time.sleep(0.01)
    return process


def finish(run: Run, *options: str) -> Run:
    """Let the stand-in tell its whole story at once."""
    start(run, "--pause", "0", *options).wait(timeout=60)
    return run


def loss_at(step: int) -> float:
    """Give a loss that falls like a real one, with a ripple."""
    return 0.6 + 2.6 * math.exp(-step / 60) + 0.15 * math.sin(step * 1.7)


def sample(step: int, text: str) -> SampleGenerated:
    return SampleGenerated(
        step=step,
        source="tuned" if step else "base",
        prompt=QUESTION,
        reference="Mercury is the closest planet to the sun.",
        text=text,
    )


def logged(step: int, steps: int) -> StepLogged:
    return StepLogged(
        step=step,
        total_steps=steps,
        epoch=3 * step / steps,
        loss=math.nan if step == 13 else loss_at(step),
        learning_rate=2e-4 * (1 - step / steps),
        grad_norm=1.2 + 0.4 * math.cos(step / 3),
        tokens=640,
        learned_tokens=210,
        tokens_per_second=410 + 25 * math.sin(step / 5),
        peak_bytes=1_400_000_000,
    )


def opening() -> Iterator[Event]:
    """Tell what comes before the first step."""
    yield PhaseStarted(phase="load")
    yield ConfigResolved(
        choices=(
            Choice("train.learning_rate", 2e-4, "lora on a model below 1 B parameters"),
            Choice("train.bf16", False, "the CPU has no bf16 instructions"),
        )
    )
    yield Warned(code="backend", what="bitsandbytes has no 4-bit kernels here: lora is used.")
    yield PhaseStarted(phase="tokenise", total=4)
    yield PhaseProgressed(done=4)
    yield sample(0, "The planet closest to the sun is a planet. The planet closest")
    yield PhaseStarted(phase="train")


def story(folder: Path, steps: int, pause: float, save_every: int) -> Iterator[Event]:
    """Tell of a whole training run; the stop file ends it at the next step."""
    yield from opening()
    for step in range(1, steps + 1):
        time.sleep(pause)
        yield logged(step, steps)
        if step % 10 == 0:
            yield EvaluationLogged(step=step, metrics={"eval_loss": loss_at(step) + 0.1})
            yield sample(step, f"Mercury is the closest planet to the sun (step {step}).")
        stopped = (folder / "stop").exists()
        if step % save_every == 0 or stopped:
            yield save(folder, step)
        if stopped:
            yield RunStopped(step=step)
            return
    yield RunFinished(step=steps, adapter="adapters/stand-in", seconds=steps * pause + 1)


def save(folder: Path, step: int) -> CheckpointSaved:
    """Leave a folder that counts as a complete checkpoint."""
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "manifest.json").write_text("{}", encoding="utf-8")
    return CheckpointSaved(step=step, path=str(checkpoint), bytes=9_000_000)


def main() -> None:
    """Be the worker of a run folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--save-every", type=int, default=20)
    given = parser.parse_args()
    writer = EventWriter(given.folder / "events.jsonl")
    writer.write(RunStarted(job="train", versions={"python": "3"}, device="CPU, 2 cores"))
    ProcessRecord.of(os.getpid()).write(given.folder / "worker.json")
    with (given.folder / "worker.log").open("a", encoding="utf-8") as log:
        for event in story(given.folder, given.steps, given.pause, given.save_every):
            writer.write(event)
            log.write(f"{type(event).__name__}\n")
            log.flush()
    writer.close()


if __name__ == "__main__":
    main()
