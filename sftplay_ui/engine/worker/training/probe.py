"""How large a micro-batch may be, found out on the device itself before the first step.

The heaviest batch there can be goes through two micro-steps and an optimizer step; then weights,
optimizer and random numbers are put back as they were. Which sizes are tried is left to
`memory.batch_search`. What the trials needed is remembered for the next estimate.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator

from sftplay_ui.engine.checkpoints import list_checkpoints
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.errors import DeviceMemoryError, DiskFullError, ModelError
from sftplay_ui.engine.events import Event, PhaseStarted
from sftplay_ui.engine.memory.batch_search import Found, find_size
from sftplay_ui.engine.memory.measured import Measurement, remember
from sftplay_ui.engine.memory.need import settled_need
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.resolve import Resolved
from sftplay_ui.engine.text.tokens import TokenisedExample
from sftplay_ui.engine.worker.memory_use import (
    DeviceMemory,
    free_memory,
    memory_of,
    tells_lack_of_memory,
)
from sftplay_ui.engine.worker.model.placement import usable_device
from sftplay_ui.engine.worker.training.learner import Stepper, rng_state, set_rng_state
from sftplay_ui.engine.worker.training.session import Session

# the first has no gradients beside it, from the second on there are
MICRO_STEPS = 2


def settle_batch(session: Session) -> Iterator[Event]:
    """Try on the device how much of a step fits at a time, where that is left to the machine.

    A run that goes on keeps what was found when it began. Raises DeviceMemoryError where not even
    one example fits.
    """
    train, stepper, resolved = session.config.train, session.stepper, session.resolved
    memory = memory_of(stepper.accelerator.device)
    left_open = train.batch_size == train.grad_accum == "auto"
    begun = list_checkpoints(session.source_of_checkpoints() / "checkpoints")
    # processes with spread weights cannot try by themselves: there the estimate decides
    if memory is None or begun or not left_open or stepper.spread:
        return
    yield PhaseStarted(phase="probe")
    probe = Probe(stepper, memory, session.material.longest)
    share = resolved.batch_size * resolved.grad_accum
    found = probe.find(share, max(1, resolved.batch_size // 2))
    keep_measured(session, probe)
    if not found.size and train.gradient_checkpointing == "auto" and not stepper.recomputing:
        stepper.recompute()
        probe = Probe(stepper, memory, session.material.longest)
        found = probe.find(share, 1)
        keep_measured(session, probe)
    if not found.size and found.least is None:
        raise DeviceMemoryError(
            f"Not even one example of {probe.longest} tokens fits: {found.describe()}.",
            "Lower model.max_seq_len, use tuning.mode qlora, or choose a smaller model.",
        )
    stepper.batch_size = fewest(stepper.accelerator, max(1, found.size))
    session.resolved = recut(resolved, stepper, share, found.describe())


def keep_measured(session: Session, probe: "Probe") -> None:
    """Remember what the trials needed, on the device and with the settings they were made with."""
    stepper = session.stepper
    if not stepper.accelerator.is_main_process:
        return
    # nothing depends on it: an unusual model or a full disk must not end the run
    with suppress(ModelError, DiskFullError, OSError):
        remember_seen(session, probe)


def remember_seen(session: Session, probe: "Probe") -> None:
    stepper = session.stepper
    resolved = replace(session.resolved, gradient_checkpointing=stepper.recomputing)
    shape, device = ModelShape.of(session.base.config()), usable_device()
    now = settled_need(session.config, shape, device, resolved)
    remember(shape, device, now, tuple(probe.seen))


def recut(resolved: Resolved, stepper: Stepper, share: int, why: str) -> Resolved:
    """Give the decisions with the cut of a step's share that was found by trying."""
    size, recomputing = stepper.batch_size, stepper.recomputing
    found = {"train.batch_size": (size, why), "train.grad_accum": (share // size, "keeps the step")}
    if recomputing != resolved.gradient_checkpointing:
        found["train.gradient_checkpointing"] = (recomputing, why)
    return replace(
        resolved,
        batch_size=size,
        grad_accum=share // size,
        gradient_checkpointing=recomputing,
        choices=tuple(
            Choice(choice.setting, *found.get(choice.setting, (choice.value, choice.reason)))
            for choice in resolved.choices
        ),
    )


def fewest(accelerator: Accelerator, size: int) -> int:
    """Agree on the smallest size that any process found, so that all go by one figure."""
    found = torch.tensor([size], device=accelerator.device)
    return int(accelerator.gather(found).min())


@dataclass(frozen=True)
class Probe:
    """Tries micro-batches of examples of `longest` tokens on a device's memory; `seen` fitted."""

    stepper: Stepper
    memory: DeviceMemory
    longest: int
    seen: list[Measurement] = field(default_factory=list)

    def find(self, share: int, first: int) -> Found:
        """Find the largest micro-batch of a step's `share`; all is left as it was, bit for bit."""
        return find_size(share, first, self.memory.capacity, self.needed)

    def needed(self, size: int) -> int | None:
        """Say how many bytes steps with `size` examples take; None where memory ran out."""
        before = self.remember()
        self.memory.start()
        enough = True
        try:
            self.take_step(size)
        except RuntimeError as error:
            if not tells_lack_of_memory(error):
                raise
            enough = False
        # outside of the except block, whose traceback would keep the tensors alive
        needed = self.memory.reserved() if enough else None
        if needed is not None:
            allocated = self.memory.allocated()
            self.seen.append(Measurement(size * self.longest, self.longest, allocated, needed))
        self.restore(before)
        return needed

    def take_step(self, size: int) -> None:
        """Learn from the heaviest batch, as `Stepper` does, but alone and from random tokens."""
        stepper = self.stepper
        device = stepper.accelerator.device
        batch = stepper.lay([self.heaviest()] * size).to(device)
        for _ in range(MICRO_STEPS):
            loss = stepper.alone(batch)
            stepper.accelerator.backward(loss / (MICRO_STEPS * batch.learned_tokens))
            del loss
            # from its second step on a run has the optimizer's states beside the activations
            stepper.clipped_norm()
            stepper.optimizer.step()

    def heaviest(self) -> TokenisedExample:
        """Make an example of the greatest length, of which every token is learned."""
        vocabulary = self.stepper.prepared.base.get_input_embeddings().num_embeddings
        draw = random.Random(0)
        ids = [draw.randrange(vocabulary) for _ in range(self.longest)]
        return TokenisedExample(ids, b"\1" * self.longest)

    def remember(self) -> dict[str, object]:
        """Copy what a step changes; the copies of the weights lie in RAM."""
        scaler = self.stepper.accelerator.scaler
        return {
            "weights": [weight.detach().cpu().clone() for weight in self.stepper.weights],
            "rng": rng_state(),
            "scaler": scaler.state_dict() if scaler else None,
        }

    def restore(self, before: dict[str, object]) -> None:
        """Put everything back; the optimizer begins anew, since no step has been taken yet."""
        stepper = self.stepper
        stepper.optimizer.zero_grad(set_to_none=True)
        stepper.optimizer.state.clear()
        with torch.no_grad():
            for weight, kept in zip(stepper.weights, before["weights"], strict=True):
                weight.copy_(kept)
        set_rng_state(before["rng"])
        if before["scaler"] is not None:
            stepper.accelerator.scaler.load_state_dict(before["scaler"])
        free_memory()
