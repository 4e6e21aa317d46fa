"""How a training run begins: fetch, tokenise, load, and say what was decided and why."""

import json
import os
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.backends import RECEIPT, Receipt
from sftplay_ui.engine.checkpoints import file_hash
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.events import ConfigResolved, Event, PhaseStarted, Warned
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.resolve import ModelSize, Resolved, parameter_count, resolve
from sftplay_ui.engine.text.template_check import require_learnable, template_warnings
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import Tokeniser
from sftplay_ui.engine.versions import installed
from sftplay_ui.engine.worker.model.load import prepare
from sftplay_ui.engine.worker.model.placement import usable_device
from sftplay_ui.engine.worker.model.unsloth_model import prepare_with_unsloth
from sftplay_ui.engine.worker.phases import leave_if_asked, leave_if_urged, tell_progress
from sftplay_ui.engine.worker.training.batches import Plan
from sftplay_ui.engine.worker.training.identity import Identity, model_hash
from sftplay_ui.engine.worker.training.lanes import Lanes, settle_lanes
from sftplay_ui.engine.worker.training.learner import Course, Learner, Stepper
from sftplay_ui.engine.worker.training.material import Material, read_material
from sftplay_ui.engine.worker.training.optimizers import make_optimizer
from sftplay_ui.engine.worker.training.probe import settle_batch
from sftplay_ui.engine.worker.training.session import Session
from sftplay_ui.engine.worker.training.sharding import settle_sharding, spread, take_over
from sftplay_ui.engine.worker.training.watch import Watch
from sftplay_ui.engine.workspace import Workspace

BACKEND_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes"),
    *("unsloth", "unsloth_zoo", "trl", "triton"),
)


def open_session(config: RunConfig, run_dir: Path) -> Generator[Event, None, Session]:
    """Fetch, tokenise and load all that a run needs, telling each phase.

    Raises what any of it raises, and StopRequested when the run is asked to stop meanwhile.
    """
    workspace = Workspace.of_run(run_dir)
    model = config.model
    base = yield from tell_progress(
        lambda report: fetch_model(
            model.name, revision=model.revision, workspace=workspace, on_progress=report
        ),
        run_dir,
    )
    named = config.data.template_path
    template = choose_template(
        base.path, workspace.resolve(named) if named else None, workspace.templates
    )
    tokeniser = Tokeniser.load(base.path)
    require_learnable(template)
    if not template.is_encoded:
        for what in template_warnings(template, tokeniser):
            yield Warned(code="template", what=what)
    material = yield from read_material(config, run_dir, template, tokeniser)
    yield PhaseStarted(phase="load")
    watch = Watch.of(material, template, tokeniser, config=config, run_dir=run_dir)
    session = load(config, run_dir, base, material, watch)
    leave_if_asked(run_dir)
    yield from settle_batch(session)
    session.check_space()
    yield from tell_choices(session)
    return session


def load(
    config: RunConfig, run_dir: Path, base: ModelFolder, material: Material, watch: Watch
) -> Session:
    """Decide what is `auto`, load the base model, and make it ready to take steps."""
    config = take_over(config)
    device = usable_device()
    size = ModelSize.of(base.config(), parameter_count(base.path))
    ranks = processes()
    backend = settled_backend(config, run_dir).choice()
    resolved = resolve(config, device, size, material.longest, ranks, backend)
    resolved = settle_sharding(resolved, config.train, ranks)
    accelerator = make_accelerator(resolved, cpu=device.kind == "cpu")
    load_model = prepare_with_unsloth if resolved.backend == "unsloth" else prepare
    # one of several processes is told cpu:0, which is the same
    place = "cpu" if device.kind == "cpu" else str(accelerator.device)
    prepared = load_model(base, config, resolved, device=place, longest=material.longest)
    course = Course(
        material.train,
        Plan.make(material.train.lengths, config.train, resolved.effective_batch),
        batch_size=resolved.batch_size,
        pad_id=watch.tokeniser.pad_id,
        max_grad_norm=config.train.max_grad_norm,
        longest=material.longest if config.train.batch_size == "auto" else 0,
    )
    learner = Learner(
        prepared,
        noise=config.train.neftune_noise_alpha,
        smoothing=config.train.label_smoothing_factor,
    )
    if resolved.spread:
        spread(learner, prepared.base, accelerator.device, ranks)
    resolved = settle_lanes(config.train, resolved, prepared)
    stepper = Stepper(
        learner,
        course,
        accelerator=accelerator,
        optimizer=make_optimizer(prepared.model, resolved, config.train.weight_decay),
        lanes=Lanes(resolved.lanes),
        between=partial(leave_if_urged, run_dir),
    )
    stepper.recomputing = resolved.gradient_checkpointing
    if accelerator.process_index:
        # each process drops out others; the weights were drawn alike
        torch.manual_seed(config.train.seed + accelerator.process_index)
    session = Session(config, run_dir, base, material, resolved, stepper, watch)
    session.identity = identify(session)
    return session


def settled_backend(config: RunConfig, run_dir: Path) -> Receipt:
    """Read which backend this worker was started for; bnb where nobody decided."""
    receipt, asked = Receipt.read(run_dir), config.tuning.backend
    if receipt is not None and receipt.asked == asked:
        return receipt
    return Receipt(asked, "bnb", "as asked" if asked == "bnb" else "it was started without unsloth")


def processes() -> int:
    """Count the processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_accelerator(resolved: Resolved, *, cpu: bool) -> Accelerator:
    """Make the accelerator: autocast only where weights are fp32, loss scaling only for fp16."""
    mixed = resolved.precision if resolved.mode == "full" or resolved.precision == "fp16" else "no"
    return Accelerator(
        cpu=cpu,
        mixed_precision="no" if mixed == "fp32" else mixed,
        # no buffer of a language model changes, and processes may differ by a micro-batch
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def identify(session: Session) -> Identity:
    """Write down what may not change between a stop and a resume."""
    config, base, resolved = session.config, session.base, session.resolved
    lora = config.tuning.lora
    targets = lora.target_modules
    names = targets if isinstance(targets, str) else ", ".join(sorted(targets))
    kinds = [" rsLoRA"] * lora.use_rslora + [" DoRA"] * lora.use_dora
    shape = f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}, {names}{''.join(kinds)}"
    return Identity(
        base_model=model_hash(base.path),
        tokenizer=file_hash(base.tokenizer_path)[:16],
        template=session.watch.template.hash[:16],
        train_data=file_hash(session.material.train_path)[:16],
        seed=config.train.seed,
        mode=resolved.mode,
        backend=resolved.backend,
        precision=resolved.precision,
        lora="" if resolved.mode == "full" else shape,
        optimizer=resolved.optim,
        effective_batch=resolved.effective_batch,
        max_seq_len=config.model.max_seq_len,
        packing=session.stepper.prepared.side_by_side,
        double_quant=resolved.double_quant,
        unpacked=resolved.unpacked,
    )


def tell_choices(session: Session) -> Iterator[Event]:
    """Tell what every `auto` became; a fallback is told aloud and kept in `backend.json`."""
    template = session.watch.template
    chosen = Choice("data.template_path", template.name, template.reason)
    choices = (
        *session.resolved.choices,
        *session.stepper.prepared.choices,
        chosen,
        session.material.tokens,
    )
    receipt = settled_backend(session.config, session.run_dir)
    record = {
        **asdict(receipt),
        "versions": installed(BACKEND_PACKAGES),
        "choices": [asdict(choice) for choice in choices],
    }
    replace_text(session.run_dir / RECEIPT, json.dumps(record, indent=2) + "\n")
    if receipt.used != receipt.asked:
        what = f"{receipt.asked} was asked for, and {receipt.used} is used: {receipt.why}."
        yield Warned(code="backend", what=what)
    yield ConfigResolved(choices=choices)
