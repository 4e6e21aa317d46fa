"""What a training run holds while it goes on: how it saves itself, and how it goes on after a stop.

Putting it together is left to `opening`, the steps themselves to `train`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sftplay_ui.engine.adapters import Adapter
from sftplay_ui.engine.checkpoints import (
    list_checkpoints,
    prune,
    save_checkpoint,
    usable_checkpoints,
)
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.events import CheckpointSaved, Event, PhaseStarted, RunResumed, Warned
from sftplay_ui.engine.models.downloads import need_space
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.worker.training.batches import Plan
from sftplay_ui.engine.worker.training.identity import Identity
from sftplay_ui.engine.worker.training.learner import Stepper
from sftplay_ui.engine.worker.training.material import Material
from sftplay_ui.engine.worker.training.state import (
    Progress,
    Whole,
    learned_bytes,
    read_state,
    write_state,
)
from sftplay_ui.engine.worker.training.watch import Watch
from sftplay_ui.engine.workspace import Workspace

SETTINGS_THAT_MAY_CHANGE = (
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "neftune_noise_alpha",
    "label_smoothing_factor",
)
# weights, and two moments of the optimizer for each
STATE_FACTOR = 3
SPACE_RESERVE = 1.2


@dataclass
class Session:
    """One training run in memory; `progress` is all of it that changes besides the model."""

    config: RunConfig
    run_dir: Path
    base: ModelFolder
    material: Material
    resolved: Resolved
    stepper: Stepper
    watch: Watch
    identity: Identity = field(init=False)
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)

    @property
    def plan(self) -> Plan:
        return self.stepper.plan

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    def save(self) -> Iterator[Event]:
        """Save a checkpoint of the last complete step and clear away the ones no longer needed.

        The first of several processes writes, what all of them have together.
        """
        whole = Whole.of(self.stepper)
        if not self.stepper.accelerator.is_main_process:
            return
        yield PhaseStarted(phase="save")
        self.progress.batch_size = self.stepper.batch_size
        self.progress.lanes = self.stepper.lanes.count
        write = partial(write_state, stepper=self.stepper, progress=self.progress, whole=whole)
        saved = save_checkpoint(self.checkpoints, self.progress.step, write)
        prune(self.checkpoints, self.config.train.save_total_limit, self.progress.best_step)
        yield CheckpointSaved(step=saved.step, path=str(saved.path), bytes=saved.bytes())

    def resume(self) -> Iterator[Event]:
        """Go on from the newest whole checkpoint, if any; damaged ones are told and skipped.

        Raises ResumeError where the run is not the one it was, or no checkpoint is whole.
        """
        again = (self.run_dir / "identity.json").exists()
        source = self.source_of_checkpoints()
        found = None
        for checkpoint, damage in usable_checkpoints(source / "checkpoints"):
            if damage is None:
                found = checkpoint
                continue
            what = f"{checkpoint.path.name} is passed over: {damage}."
            yield Warned(code="damaged_checkpoint", what=what)
        if found is None and list_checkpoints(source / "checkpoints"):
            raise ResumeError(
                f"No checkpoint of {source.name} is whole.", "Start a new run with its settings."
            )
        if found is not None:
            self.identity.check(source / "identity.json")
            before = read_state(found.path, self.stepper)
            yield from self.tell_changes(before.settings)
            self.progress = before
            if self.config.train.batch_size == "auto":
                self.stepper.batch_size = before.batch_size
            if self.config.train.lanes == "auto":
                self.stepper.share_cores(before.lanes)
        self.progress.settings = self.settings()
        if self.stepper.accelerator.is_main_process:
            self.identity.write(self.run_dir / "identity.json")
        if again or found is not None:
            yield RunResumed(step=self.progress.step, evaluated=self.progress.evaluated)

    def source_of_checkpoints(self) -> Path:
        """Name the run folder to go on from: this one, or the one `train.resume` names."""
        other = self.config.train.resume
        if other is None or list_checkpoints(self.checkpoints):
            return self.run_dir
        source = self.run_dir.parent / Path(other).name
        if not list_checkpoints(source / "checkpoints"):
            raise ResumeError(
                f"train.resume names {other}, which has no checkpoint.",
                "Name a run that saved one, or leave train.resume empty.",
            )
        return source

    def settings(self) -> dict[str, str | int | float]:
        """List the settings that may change between a stop and a resume, but not unsaid."""
        train = self.config.train
        chosen = {name: getattr(train, name) for name in SETTINGS_THAT_MAY_CHANGE}
        return {**chosen, "learning_rate": self.resolved.learning_rate, "steps": self.plan.steps}

    def tell_changes(self, before: Mapping[str, str | int | float]) -> Iterator[Warned]:
        """Say which settings differ from those of the checkpoint."""
        now = self.settings()
        changes = [
            f"{name} was {before[name]} and is {now[name]}"
            for name in now
            if name in before and before[name] != now[name]
        ]
        if changes:
            yield Warned(code="settings_changed", what=f"Going on with: {'; '.join(changes)}.")

    def check_space(self) -> None:
        """Raise DiskFullError unless the checkpoints to come fit on the disk."""
        each = STATE_FACTOR * learned_bytes(self.stepper.prepared.model)
        needed = int(each * (self.config.train.save_total_limit + 1) * SPACE_RESERVE)
        need_space(self.run_dir, needed, "Saving checkpoints")

    def figures(self) -> dict[str, object]:
        """Sum up the run for `metrics.json` and the adapter's README."""
        progress = self.progress
        return {
            "steps": progress.step,
            "epochs": round(self.plan.epoch(progress.step), 4),
            "examples": len(self.material.train),
            "loss": progress.loss,
            "eval_loss": progress.eval_loss,
            "eval_loss_before": progress.eval_loss_before,
            "best_step": progress.best_step,
            "tokens": progress.tokens,
            "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            "seconds": round(progress.seconds, 3),
        }

    def adapter_facts(self) -> Adapter:
        """Put together what the adapter's folder says of itself."""
        workspace = Workspace.of_run(self.run_dir)
        return Adapter(
            path=workspace.adapters / self.run_dir.name,
            base_model=str(self.base.path) if self.base.source == "folder" else self.base.name,
            revision=self.config.model.revision,
            base_hash=self.identity.base_model,
            run=self.run_dir.name,
            mode=self.resolved.mode,
            template=self.watch.template,
            system=self.material.system,
        )
