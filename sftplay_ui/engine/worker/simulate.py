"""What a training step allocates, by taking it with tensors that have no data.

`python -m sftplay_ui.engine.worker.simulate` reads cases as lines of JSON and prints what each
needs, by category. Our own model, adapter and loss code runs under torch's fake tensors, made from
config.json alone, while the storages that are alive are counted. The peak grows linearly with the
layers, so two shallow models tell that of the whole one. Kernels' workspaces, CUDA's context and
the allocator's slack are not seen. Asking and remembering are left to `memory.simulation`.
"""

import json
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.simulation import Case, Simulated
from sftplay_ui.engine.memory.terms import (
    CHUNK,
    PAGED,
    SCALE_BYTES,
    SCALE_BYTES_TWICE,
    Parts,
    Phase,
)
from sftplay_ui.engine.worker.model import attention, losses
from sftplay_ui.engine.worker.model.dataless import build, model_config
from sftplay_ui.engine.worker.model.load import Prepared
from sftplay_ui.engine.worker.model.precision import DTYPES
from sftplay_ui.engine.worker.training.batches import MicroBatch
from sftplay_ui.engine.worker.training.learner import Learner

SHALLOW = 2
# Kinds of attention layers that have the same weights and keep the same.
ALIKE = {"full_attention", "sliding_attention", "chunked_attention"}
# bitsandbytes' optimizer: smaller weights keep fp32 states, a scale stands for so many numbers, and
# paged states of larger weights lie outside of the card's memory (bitsandbytes/optim/optimizer.py).
LEAST_IN_8_BIT, STATE_BLOCK, LEAST_PAGED = 4096, 256, 100_000
PHASES: tuple[Phase, ...] = ("loss", "backward", "embedding gradient", "optimizer step")


@dataclass(frozen=True)
class Step:
    """One step of a model cut to some layers: bytes that stay, and each phase's peak.

    `peaks` holds, for each phase, what was alive at its worst moment and how much of it were scores
    of the vocabulary or gradients as large.
    """

    stays: Parts
    peaks: dict[Phase, tuple[float, float]]


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that are alive, and the most there were in each phase."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.live = self.logits = 0
        self.phase: Phase | None = None
        self.peaks: dict[Phase, tuple[float, float]] = {}
        self.seen = WeakIdKeyDictionary()

    def begin(self, phase: Phase) -> None:
        self.phase = phase
        self.peaks[phase] = self.live, self.logits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.track, result)
        return result

    def track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        self.seen[storage] = True
        size = storage.nbytes()
        logits = size if self.phase and self.vocabulary in tensor.shape else 0
        self.live += size
        self.logits += logits
        weakref.finalize(storage, self.release, size, logits)
        if self.phase and self.live > self.peaks[self.phase][0]:
            self.peaks[self.phase] = self.live, self.logits

    def release(self, size: int, logits: int) -> None:
        self.live -= size
        self.logits -= logits


def simulate(case: Case) -> Simulated:
    """Say what the whole model's step needs at its worst moment, from two shallow ones.

    Raises ModelError for a model that cannot be built from its config.json alone.
    """
    depth, (shallow, deep) = depths(case)
    low = take_step(case, layers=shallow)
    if shallow == depth:
        return worst_moment(low, (depth,))
    high = take_step(case, layers=deep)
    more = (depth - shallow) / (deep - shallow)

    def grown(small: float, large: float) -> float:
        return small + more * (large - small)

    pairs = zip(vars(low.stays).items(), vars(high.stays).values(), strict=True)
    whole = Step(
        Parts(**{name: grown(small, large) for (name, small), large in pairs}),
        {
            phase: (grown(all_of_it, high.peaks[phase][0]), grown(logits, high.peaks[phase][1]))
            for phase, (all_of_it, logits) in low.peaks.items()
        },
    )
    return worst_moment(whole, (shallow, deep))


def worst_moment(step: Step, layers: tuple[int, ...]) -> Simulated:
    """Name the phase that needs most, and divide what it needs."""
    phase = max(step.peaks, key=lambda phase: step.peaks[phase][0])
    most, logits = step.peaks[phase]
    activations = most - step.stays.total - logits
    parts = replace(step.stays, activations=activations, logits=logits)
    return Simulated(phase, parts, layers)


def depths(case: Case) -> tuple[int, tuple[int, int]]:
    """Give the model's layers, and the two numbers of layers to try.

    Layers that come in a pattern are cut at its ends, behind those that come once at the beginning.
    """
    config = model_config(case)
    depth, period = config.num_hidden_layers, 1
    kinds = getattr(config, "layer_types", None) or []
    if set(kinds) - ALIKE:
        period = next(n for n in range(1, depth + 1) if kinds[n:] == kinds[: depth - n])
    first = getattr(config, "first_k_dense_replace", 0) or 0
    shallow = first + max(SHALLOW, period)
    deep = shallow + max(SHALLOW, period)
    return depth, (shallow, deep) if deep < depth else (depth, depth)


def take_step(case: Case, *, layers: int) -> Step:
    """Take a step of a model cut to so many layers, as the training loop does."""
    shape = ModelShape.of(case.config)
    with as_on(case.device), FakeTensorMode(allow_non_fake_inputs=True):
        counter = LiveBytes(shape.vocabulary)
        with counter:
            prepared = build(case, layers, plain_head=shape.plain_head)
            model_bytes = counter.live
            weights = [p for p in prepared.model.parameters() if p.requires_grad]
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            gradients = counter.live - model_bytes
            optimizer, states = make_states(weights, case.optim)
            of_optimizer = counter.live - model_bytes - gradients
            stays = divide(prepared, model_bytes, double_quant=case.double_quant)
            # what a second quantisation of the scales would save
            spared = model_bytes - stays.total
            run_phases(case, prepared, counter, optimizer)
            del states
    return Step(
        replace(stays, gradients=gradients, optimizer=of_optimizer),
        {phase: (most - spared, logits) for phase, (most, logits) in counter.peaks.items()},
    )


def run_phases(
    case: Case,
    prepared: Prepared,
    counter: LiveBytes,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Run forward pass, loss, backward pass and optimizer step, each a phase of the counter."""
    learner, batch = Learner(prepared), make_batch(case, side_by_side=prepared.side_by_side)
    if case.mode == "full":

        def embedded(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            output.register_hook(lambda _gradient: counter.begin("embedding gradient"))

        prepared.base.get_input_embeddings().register_forward_hook(embedded)
    counter.begin("loss")
    # as accelerate does it: weights that learn stay in fp32, and fp16 needs it always
    mixed = case.precision == "fp16" or (case.mode == "full" and case.precision != "fp32")
    with torch.autocast("cpu", DTYPES[case.precision], enabled=mixed):
        loss = learner(batch)
    counter.begin("backward")
    loss.backward()
    counter.begin("optimizer step")
    weights = [p for p in prepared.model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    if optimizer is not None:
        optimizer.step()


@contextmanager
def as_on(device: str) -> Iterator[None]:
    """Compute as on a device: a card keeps no scores of attention, and takes a whole chunk.

    Masks are remembered by the process, and those of a model without data are of no use to another.
    """
    rows, chunk = attention.LONGEST_WITH_SCORES, losses.CACHED
    if device != "cpu":
        rows, chunk = 0, CHUNK
    attention.causal_mask.cache_clear()
    try:
        with (
            patch.object(attention, "LONGEST_WITH_SCORES", rows),
            patch.object(losses, "CACHED", chunk),
        ):
            yield
    finally:
        attention.causal_mask.cache_clear()


def make_states(
    weights: list[nn.Parameter], optim: str
) -> tuple[torch.optim.Optimizer | None, list[Tensor]]:
    """Make the optimizer's states, as they are from the second step on.

    Those of bitsandbytes are only laid out: its step works in them and makes nothing beside.
    """
    if optim == "adamw":
        optimizer = torch.optim.AdamW(weights, fused=True)
        optimizer.step()
        return optimizer, []
    states = []
    for size in [weight.numel() for weight in weights]:
        if optim == PAGED and size >= LEAST_PAGED:
            continue
        if size < LEAST_IN_8_BIT:
            states += [torch.empty(size), torch.empty(size)]
        else:
            states += [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
            states += [torch.empty(-(-size // STATE_BLOCK)) for _ in range(2)]
    return None, states


def divide(prepared: Prepared, model_bytes: int, *, double_quant: bool) -> Parts:
    """Divide the model's bytes; scales that are quantised again are reckoned, not simulated."""
    base, full = prepared.base, prepared.model is prepared.base
    tables = {base.get_input_embeddings().weight, base.get_output_embeddings().weight}
    states = [p.quant_state for p in base.parameters() if hasattr(p, "quant_state")]
    scales = float(sum(state.absmax.nbytes + state.code.nbytes for state in states))
    adapter = 0 if full else sum(p.nbytes for p in base.parameters() if p.requires_grad)
    embedding = sum(table.nbytes for table in tables)
    weights = model_bytes - embedding - adapter - scales
    if double_quant:
        scales *= SCALE_BYTES_TWICE / SCALE_BYTES
    return Parts(weights, scales, embedding, adapter)


def make_batch(case: Case, *, side_by_side: bool) -> MicroBatch:
    """Lay the examples side by side, or one under the other where the model needs that."""
    lengths = case.lengths if side_by_side else (max(case.lengths),) * len(case.lengths)
    keep = max(1, min(case.learned, sum(case.lengths)) - len(lengths))
    positions = [torch.arange(length) for length in lengths]
    ids = torch.cat(positions)[None] if side_by_side else torch.stack(positions)
    return MicroBatch(
        input_ids=torch.zeros_like(ids),
        position_ids=ids,
        attention_mask=None,
        row_lengths=lengths,
        keep=torch.zeros(keep, dtype=torch.long),
        target=torch.zeros(keep, dtype=torch.long),
    )


def main() -> int:
    """Answer each case with a line of JSON; what cannot be simulated is one line on stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            out.write(json.dumps(asdict(simulate(Case.of(json.loads(line))))) + "\n")
            out.flush()
    except ModelError as error:
        sys.stderr.write(f"{error.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
