"""Measure training: tokens/s, share of the matrix-product peak, peak memory, seconds to first loss.

The reference job: the starter model, 240 questions and answers of the bundled Python sample, at
most 512 tokens, one epoch, effective batch 8, LoRA rank 16 on all linear layers, through a real
worker. With `--trl-python` TRL does the same in that environment, in the same precision and in
each of its ways, run in turn with ours; the best of them is the one to compare with.
Timings need a quiet machine. Where others use it too, processor seconds say more than wall seconds:
both are given, and OMP_NUM_THREADS=1 makes them comparable. `--steps` shortens the job.

    python benchmarks/train_speed.py [--data FILE] [--steps N] [--mode lora] [--precision bf16]
        [--trl-python PYTHON] [--ways grouped packing] [--rounds 3] [--warm]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sftplay_ui.engine.config import (  # noqa: E402
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from sftplay_ui.engine.data.examples import read_examples  # noqa: E402
from sftplay_ui.engine.events import Event, RunFailed, StepLogged  # noqa: E402
from sftplay_ui.engine.memory.shapes import ModelShape  # noqa: E402
from sftplay_ui.engine.memory.source import STARTER_CONFIG  # noqa: E402
from sftplay_ui.engine.models.store import fetch_model  # noqa: E402
from sftplay_ui.engine.runs import Run, start_run  # noqa: E402
from sftplay_ui.engine.text.templates import choose_template  # noqa: E402
from sftplay_ui.engine.text.tokens import Tokeniser, tokenise_stream  # noqa: E402
from sftplay_ui.engine.warm_worker import Standby  # noqa: E402
from sftplay_ui.engine.worker.products import product_speed  # noqa: E402
from sftplay_ui.engine.workspace import Workspace  # noqa: E402

SAMPLE = ROOT / "data" / "samples" / "python_tutor_qa.jsonl"
ROWS = 240
LONGEST = 512
# the two widths of the starter's feed-forward layer
PEAK = (576, 1536)
PEAK_SECONDS = 2.0
# the first warms up
TRL_STEPS = 5
WAYS = ["plain", "grouped", "grouped, chunked loss", "packing", "padding-free"]


def main() -> int:
    """Run the job, and TRL's beside it where that is asked for, and print figures as JSON."""
    options = read_options()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="sft-play-benchmark-") as folder:
        for number in range(options.rounds):
            workspace = make_project(Path(folder) / str(number), options.data)
            peak = measure_peak(options.precision)
            ours = run_ours(options, workspace)
            if ours is None:
                return 1
            done = {"gemm_gigaflops": round(max(peak, measure_peak(options.precision))), **ours}
            rounds.append(done)
            print(json.dumps(done, indent=1), flush=True)
            if options.trl_python:
                done["trl"] = run_theirs(options, workspace)
                print(json.dumps(done["trl"], indent=1), flush=True)
    print(json.dumps(sum_up(rounds), indent=1))
    return 0


def measure_peak(precision: str) -> float:
    """Measure GFLOP/s of products of the model's shape, as many threads as a worker takes."""
    kept = "fp32" if precision == "fp32" else "bf16"
    speed = product_speed(*PEAK, precision=kept, device="cpu", seconds=PEAK_SECONDS)
    return speed / 1e9


def run_ours(options: argparse.Namespace, workspace: Workspace) -> dict[str, object] | None:
    """Train with our worker; None where that failed."""
    standby = Standby()
    if options.warm:
        standby.start()
        assert standby.worker is not None
        standby.worker.ready.wait()
    began = time.time()
    run = start_run(configure(options), workspace, standby)
    spent: list[float] = []
    events: list[Event] = []
    try:
        for event in run.follow(poll_seconds=0.05):
            events.append(event)
            if isinstance(event, StepLogged):
                spent.append(processor_seconds(run))
    finally:
        run.kill()
    if isinstance(events[-1], RunFailed):
        print(events[-1].what, events[-1].fix, sep="\n", file=sys.stderr)
        return None
    return figures(run, events, began, spent)


def processor_seconds(run: Run) -> float:
    """Ask how much processor time a run's worker has used."""
    pid = json.loads((run.folder / "worker.json").read_text(encoding="utf-8"))["pid"]
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def run_theirs(options: argparse.Namespace, workspace: Workspace) -> dict[str, object]:
    """Let TRL learn from the same tokens, in each of its ways; a way that fails says why."""
    folder = fetch_model("starter", workspace=workspace).path
    tokens = workspace.root / "tokens.json"
    tokens.write_text(json.dumps(tokenise_rows(workspace, folder)), encoding="utf-8")
    found: dict[str, object] = {}
    for way in options.ways:
        command = [
            *(str(options.trl_python), str(ROOT / "benchmarks" / "trl_peer.py"), "--way", way),
            *("--tokens", str(tokens), "--model", str(folder), "--mode", options.mode),
            *("--precision", "fp32" if options.precision == "fp32" else "bf16"),
            *("--steps", str(options.steps or TRL_STEPS)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        last = told[-1] if told else "no word"
        found[way] = json.loads(last) if done.returncode == 0 else last
    return found


def tokenise_rows(workspace: Workspace, folder: Path) -> list[dict[str, list[int]]]:
    """Give the tokens our run learns from, with -100 where nothing is learned."""
    template = choose_template(folder, None, workspace.templates)
    stream = tokenise_stream(
        read_examples(workspace.data / "processed" / "train.jsonl"),
        template,
        Tokeniser.load(folder),
        LONGEST,
    )
    return [
        {
            "input_ids": list(example.input_ids),
            "labels": [
                token if learned else -100
                for token, learned in zip(example.input_ids, example.learned, strict=True)
            ],
        }
        for example in stream
    ]


def sum_up(rounds: list[dict[str, Any]]) -> dict[str, object]:
    """Take medians over the rounds, and compare with TRL's best way."""
    found: dict[str, object] = {"rounds": len(rounds)}
    for rate in ("tokens_per_second", "tokens_per_processor_second"):
        ours = median(done[rate] for done in rounds)
        found[rate] = ours
        ways = {
            way: median(done["trl"][way][rate] for done in rounds)
            for way, told in rounds[0].get("trl", {}).items()
            if all(isinstance(done["trl"][way], dict) for done in rounds)
        }
        if ways:
            best = max(ways, key=lambda way: ways[way])
            found[f"trl_{rate}"] = {way: round(value, 1) for way, value in ways.items()}
            found[f"times_trl_{rate}"] = f"{ours / ways[best]:.2f} x ({best})"
    peaks = [done["teraflop"] * 1e3 / done["gemm_gigaflops"] for done in rounds]
    found["share_of_peak"] = median(
        round(least / done["seconds_training"], 3)
        for least, done in zip(peaks, rounds, strict=True)
    )
    found["share_of_peak_by_processor_seconds"] = median(
        round(least / done["processor_seconds"] * torch.get_num_threads(), 3)
        for least, done in zip(peaks, rounds, strict=True)
    )
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--steps", type=int, default=0, help="0: the whole epoch")
    parser.add_argument("--mode", default="lora", choices=["lora", "qlora", "full"])
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--processes", type=int, default=1, help="processor time is the first's")
    parser.add_argument("--lanes", type=int, help="threads with examples of their own")
    parser.add_argument("--warm", action="store_true", help="start as a window does that is open")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trl-python", type=Path, help="Python of an environment with TRL")
    parser.add_argument("--ways", nargs="*", default=WAYS, help="TRL's settings to try")
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
        model=ModelConfig(name="starter", max_seq_len=LONGEST),
        tuning=TuningConfig(mode=options.mode),
        train=TrainConfig(
            epochs=1,
            max_steps=options.steps,
            processes=options.processes,
            lanes=options.lanes or "auto",
            learning_rate=2e-4,
            bf16=bf16,
            eval_strategy="no",
            save_strategy="no",
        ),
        logging=LoggingConfig(backend="none"),
    )


def figures(run: Run, events: list[Event], began: float, spent: list[float]) -> dict[str, object]:
    """Sum up the steps but the first, which warms up; real tokens, without padding."""
    all_steps = [event for event in events if isinstance(event, StepLogged)]
    steps = all_steps[1:]
    tokens, learned = sum(s.tokens for s in steps), sum(s.learned_tokens for s in steps)
    seconds = sum(step.tokens / step.tokens_per_second for step in steps)
    processor = spent[-1] - spent[0]
    backend = json.loads((run.folder / "backend.json").read_text(encoding="utf-8"))
    return {
        "steps": len(all_steps),
        "first_losses": [round(step.loss, 4) for step in all_steps[:3]],
        "tokens_per_second": round(tokens / seconds, 1),
        "learned_tokens_per_second": round(learned / seconds, 1),
        "tokens_per_processor_second": round(tokens / processor, 1),
        "peak_gigabytes": round(max(step.peak_bytes for step in all_steps) / 1e9, 2),
        "seconds_to_first_loss": round(all_steps[0].time - began, 2),
        "seconds_training": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "seconds_whole": round(events[-1].time - began, 1),
        "teraflop": round(arithmetic(run.config(), tokens, learned) / 1e12, 3),
        "choices": {choice["setting"]: choice["value"] for choice in backend["choices"]},
        "versions": backend["versions"],
    }


def arithmetic(config: RunConfig, tokens: int, learned: int) -> float:
    """Count the products a step cannot do without: forward, and back to inputs and weights.

    Frozen weights get no gradient; only learned tokens reach the head; attention is not counted.
    """
    shape = ModelShape.of(STARTER_CONFIG)
    head = shape.vocabulary * shape.hidden
    if config.tuning.mode == "full":
        return 6.0 * (shape.linear_weights * tokens + head * learned)
    adapter = shape.adapter_weights(config.tuning.lora.r, "all-linear")
    return (4.0 * shape.linear_weights + 6.0 * adapter) * tokens + 4.0 * head * learned


if __name__ == "__main__":
    sys.exit(main())
