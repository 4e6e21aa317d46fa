"""Measure training: tokens/s, learned tokens/s, peak memory, and seconds to the first loss.

The reference job: the starter model, 240 questions and answers of the bundled Python sample, at
most 512 tokens, one epoch, effective batch 8, LoRA rank 16 on all linear layers, through a real
worker.
Timings need a quiet machine; `--steps` shortens the job.

    python benchmarks/train_speed.py [--data FILE] [--steps N] [--mode lora] [--precision bf16]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sftplay_ui.engine.config import (  # noqa: E402
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from sftplay_ui.engine.events import Event, RunFailed, StepLogged  # noqa: E402
from sftplay_ui.engine.runs import Run, start_run  # noqa: E402
from sftplay_ui.engine.workspace import Workspace  # noqa: E402

SAMPLE = ROOT / "data" / "samples" / "python_tutor_qa.jsonl"
ROWS = 240


def main() -> int:
    """Run the job and print one JSON object with its figures."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="sft-play-benchmark-") as folder:
        workspace = make_project(Path(folder), options.data)
        began = time.time()
        run = start_run(configure(options), workspace)
        try:
            events = list(run.follow(poll_seconds=0.05))
        finally:
            run.kill()
        if isinstance(events[-1], RunFailed):
            print(events[-1].what, events[-1].fix, sep="\n", file=sys.stderr)
            return 1
        print(json.dumps(figures(run, events, began), indent=1))
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--steps", type=int, default=0, help="0: the whole epoch")
    parser.add_argument("--mode", default="lora", choices=["lora", "qlora", "full"])
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    return parser.parse_args()


def make_project(folder: Path, source: Path) -> Workspace:
    """Lay out a project with the reference job's examples."""
    workspace = Workspace(folder / "project")
    processed = workspace.data / "processed"
    for made in (workspace.outputs, workspace.adapters, processed):
        made.mkdir(parents=True)
    workspace.templates.symlink_to(ROOT / "chat_templates", target_is_directory=True)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()][:ROWS]
    lines = [json.dumps({"user": row["question"], "assistant": row["answer"]}) for row in rows]
    (processed / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return workspace


def configure(options: argparse.Namespace) -> RunConfig:
    bf16 = {"auto": "auto", "bf16": True, "fp32": False}[options.precision]
    return RunConfig(
        run_name="benchmark",
        model=ModelConfig(name="starter", max_seq_len=512),
        tuning=TuningConfig(mode=options.mode),
        train=TrainConfig(
            epochs=1,
            max_steps=options.steps,
            learning_rate=2e-4,
            bf16=bf16,
            eval_strategy="no",
            save_strategy="no",
        ),
        logging=LoggingConfig(backend="none"),
    )


def figures(run: Run, events: list[Event], began: float) -> dict[str, object]:
    """Sum up the steps; `tokens_per_second` counts real tokens, without padding."""
    steps = [event for event in events if isinstance(event, StepLogged)]
    seconds = sum(step.tokens / step.tokens_per_second for step in steps)
    backend = json.loads((run.folder / "backend.json").read_text(encoding="utf-8"))
    return {
        "steps": len(steps),
        "first_losses": [round(step.loss, 4) for step in steps[:3]],
        "tokens_per_second": round(sum(step.tokens for step in steps) / seconds, 1),
        "median_tokens_per_second": round(median(step.tokens_per_second for step in steps), 1),
        "learned_tokens_per_second": round(sum(s.learned_tokens for s in steps) / seconds, 1),
        "peak_gigabytes": round(max(step.peak_bytes for step in steps) / 1e9, 2),
        "seconds_to_first_loss": round(steps[0].time - began, 2),
        "seconds_training": round(seconds, 1),
        "seconds_whole": round(events[-1].time - began, 1),
        "choices": {choice["setting"]: choice["value"] for choice in backend["choices"]},
        "versions": backend["versions"],
    }


if __name__ == "__main__":
    sys.exit(main())
