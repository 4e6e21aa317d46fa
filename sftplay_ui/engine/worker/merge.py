"""The merge job: one model folder that any program loads, made of a base model and an adapter.

The folder is written under another name, loaded again and compared with base and adapter, and only
then renamed into place. The arithmetic is left to `fold`, the comparison to `parity`.
"""

import gc
import json
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.checkpoints import sync
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import (
    AdapterError,
    ConfigError,
    DeviceMemoryError,
    DiskFullError,
)
from sftplay_ui.engine.events import (
    Event,
    PhaseProgressed,
    PhaseStarted,
    RunFinished,
    RunStopped,
    Warned,
)
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.worker.merging.fold import (
    FilePlan,
    LowRank,
    fold_file,
    plan_files,
    read_low_ranks,
    write_index,
)
from sftplay_ui.engine.worker.merging.merged_folder import write_extras
from sftplay_ui.engine.worker.merging.parity import (
    Parity,
    choose_questions,
    compare,
    hear_merged,
    hear_pair,
)
from sftplay_ui.engine.worker.phases import StopRequested, leave_if_asked
from sftplay_ui.engine.worker.scoring.sides import Pair, Sides, find_pair
from sftplay_ui.engine.workspace import Workspace

# what lies beside the weights: tokenizer, configuration, card
EXTRA_BYTES = 50_000_000
# a weight, what is added to it, and their sum in fp32 at the same time
FP32_COPIES = 3
# the proof holds one 16-bit model and its activations
PROOF_SHARE = 1.3


@dataclass(frozen=True)
class MergePlan:
    """All that a merge will read and write, decided before it begins."""

    pair: Pair
    source: Path
    low_ranks: Mapping[str, LowRank]
    files: list[FilePlan]
    dtype: str
    out: Path

    @property
    def byte_count(self) -> int:
        return sum(file.byte_count for file in self.files)

    @property
    def staged(self) -> Path:
        return self.out.with_name(f".staging-{self.out.name}")


def merge(config: RunConfig, run_dir: Path) -> Iterator[Event]:
    """Fold, prove, rename; leave `metrics.json` in the run's folder."""
    started = time.monotonic()
    try:
        pair = yield from find_pair(config.merge.adapter, config, run_dir)
        plan = make_plan(pair, config, run_dir)
        check_space(plan)
        try:
            yield from write_model(plan, run_dir)
            parity = yield from prove(plan, run_dir)
            plan.staged.rename(plan.out)
        finally:
            shutil.rmtree(plan.staged, ignore_errors=True)
    except StopRequested:
        yield RunStopped(step=0)
        return
    write_metrics(plan, parity, run_dir)
    yield RunFinished(step=0, adapter=str(plan.out), seconds=time.monotonic() - started)


def make_plan(pair: Pair, config: RunConfig, run_dir: Path) -> MergePlan:
    """Decide what goes where. Raises where there is no adapter or the folder is taken."""
    if pair.adapter is None:
        raise AdapterError(
            "The base model alone has nothing to merge.", "Name a run or an adapter folder."
        )
    if pair.template.is_encoded:
        raise AdapterError(
            f"{pair.name} is a whole encoder-decoder model already: there is nothing to merge.",
            f"Use its folder as it is: {pair.adapter.path}.",
        )
    workspace = Run(run_dir).workspace
    out = workspace.resolve(config.merge.out) if config.merge.out else run_dir / "model"
    if out.exists():
        raise ConfigError(
            f"merge.out: {out} exists already, and nothing is overwritten.",
            "Name a folder that does not exist yet.",
        )
    whole = pair.adapter.mode == "full"
    source = pair.adapter.path if whole else pair.base.path
    low_ranks = {} if whole else read_low_ranks(pair.adapter.path)
    files = plan_files(source, low_ranks, config.merge.dtype)
    return MergePlan(pair, source, low_ranks, files, config.merge.dtype, out)


def check_space(plan: MergePlan) -> None:
    """Raise DiskFullError or DeviceMemoryError before anything is written."""
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    needed, free = plan.byte_count + EXTRA_BYTES, shutil.disk_usage(plan.out.parent).free
    if needed > free:
        raise DiskFullError(
            f"The merged model needs {needed / 1e9:.2f} GB, and {plan.out.parent} has "
            f"{free / 1e9:.2f} GB free.",
            "Free some space, or name another folder as merge.out.",
        )
    largest = max(tensor.byte_count for file in plan.files for tensor in file.tensors)
    needed, free = 2 * largest * FP32_COPIES, psutil.virtual_memory().available
    if needed > free:
        raise DeviceMemoryError(
            f"The largest layer needs {needed / 1e9:.2f} GB of memory to be merged, and "
            f"{free / 1e9:.2f} GB are free.",
            "Close other programs, then merge again.",
        )


def write_model(plan: MergePlan, run_dir: Path) -> Iterator[Event]:
    """Write the whole folder under its staged name."""
    shutil.rmtree(plan.staged, ignore_errors=True)
    plan.staged.mkdir()
    yield PhaseStarted(phase="merge", total=plan.byte_count)
    done = 0
    for file in plan.files:
        for byte_count in fold_file(file, plan.low_ranks, plan.staged, plan.dtype):
            leave_if_asked(run_dir)
            done += byte_count
            yield PhaseProgressed(done=done)
    write_index(plan.files, plan.staged)
    write_extras(plan.pair, plan.source, plan.staged, plan.dtype)
    for path in plan.staged.iterdir():
        sync(path)


def prove(plan: MergePlan, run_dir: Path) -> Generator[Event, None, Parity | None]:
    """Compare what was written with base and adapter; said aloud where there is no room to."""
    free = psutil.virtual_memory().available
    if PROOF_SHARE * plan.byte_count > free:
        yield Warned(
            code="no_proof",
            what=f"The merged model was not compared: that needs "
            f"{PROOF_SHARE * plan.byte_count / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free.",
        )
        return None
    yield PhaseStarted(phase="evaluate", total=2)
    sides = sides_for(plan)
    questions = choose_questions(plan.pair, Workspace.of_run(run_dir))
    leave_if_asked(run_dir)
    ours = hear_pair(sides, questions)
    # one model at a time: the two together may not fit
    sides.loaded.clear()
    gc.collect()
    yield PhaseProgressed(done=1)
    leave_if_asked(run_dir)
    theirs = hear_merged(plan.staged, sides, questions, ours)
    yield PhaseProgressed(done=2)
    parity = compare(ours, theirs, str(sides.precision.value))
    if not parity.same_tokens:
        yield Warned(
            code="not_the_same",
            what=f"Rounding to {plan.dtype} changed {parity.different} of {parity.tokens} tokens; "
            f"the adapter preferred its own by {parity.largest_margin:.2f} at most.",
        )
    return parity


def sides_for(plan: MergePlan) -> Sides:
    """Load both models in the merged type, or in fp32 where the device computes in another."""
    sides = Sides(plan.pair)
    if sides.precision.value == plan.dtype:
        return sides
    return Sides(plan.pair, Choice("precision", "fp32", "holds bf16 and fp16 alike"))


def write_metrics(plan: MergePlan, parity: Parity | None, run_dir: Path) -> None:
    """Write what `merge --json` answers."""
    record = {
        "out": str(plan.out),
        "bytes": sum(path.stat().st_size for path in plan.out.iterdir()),
        "dtype": plan.dtype,
        "adapter": plan.pair.name,
        "base_model": plan.pair.base.name,
        "parity": asdict(parity) if parity else None,
        "reload": parity is not None,
    }
    replace_text(run_dir / "metrics.json", json.dumps(record, indent=2) + "\n")
