"""The model with its loss, and one optimizer step: what lies between two lines of the log."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sftplay_ui.engine.errors import DeviceMemoryError, NotFiniteError
from sftplay_ui.engine.events import Event, Warned
from sftplay_ui.engine.text.tokens import TokenisedExample
from sftplay_ui.engine.worker.memory_use import free_memory, tells_lack_of_memory
from sftplay_ui.engine.worker.model.load import Prepared, recompute_activations
from sftplay_ui.engine.worker.model.losses import summed_loss, summed_plain_loss
from sftplay_ui.engine.worker.phases import StopRequested
from sftplay_ui.engine.worker.training.batches import (
    MicroBatch,
    Plan,
    apart,
    learned_count,
    padded,
    side_by_side,
)
from sftplay_ui.engine.worker.training.lanes import Lanes
from sftplay_ui.engine.worker.training.sharding import gathered, is_spread

# fp16 halves its scale when a gradient overflows; more than this in a row is no accident
OVERFLOWS_ALLOWED = 3
Result = TypeVar("Result")


class Learner(nn.Module):
    """A micro-batch in, the summed cross-entropy of its learned tokens out (scalar, fp32).

    While the model learns, its embeddings may be disturbed and its targets smoothed; in evaluation
    mode the loss is that of the bare model.
    """

    def __init__(self, prepared: Prepared, *, noise: float = 0.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = prepared.model
        self.prepared = prepared
        self.noise = noise
        self.smoothing = smoothing

    def forward(self, batch: MicroBatch) -> Tensor:
        """Predict every learned token from those before it, in its own example."""
        base = self.prepared.base
        smoothing = self.smoothing if self.model.training else 0.0
        if batch.decoder_ids is not None:
            logits = encode_and_decode(base, batch, self.seen(batch))
            return summed_plain_loss(logits[batch.keep], batch.target, smoothing=smoothing)
        inputs = {
            **self.seen(batch),
            "position_ids": batch.position_ids,
            "attention_mask": batch.attention_mask,
            "use_cache": False,
        }
        if self.prepared.side_by_side:
            inputs["row_lengths"] = batch.row_lengths
        if not self.prepared.plain_head:
            logits = base(**inputs).logits.flatten(0, 1)
            return summed_plain_loss(logits[batch.keep], batch.target, smoothing=smoothing)
        hidden = base.get_decoder()(**inputs).last_hidden_state.flatten(0, 1)
        head = base.get_output_embeddings().weight
        return summed_loss(hidden[batch.keep], head, batch.target, smoothing=smoothing)

    def lend(self, use: Callable[[nn.Module], Result]) -> Result:
        """Let something else use the model, such as the writing of answers."""
        return use(self.model)

    def seen(self, batch: MicroBatch) -> dict[str, Tensor]:
        """Give what the model reads: the tokens, or their embeddings with noise while it learns."""
        if not (self.noise and self.model.training):
            return {"input_ids": batch.input_ids}
        embeddings = self.prepared.base.get_input_embeddings()(batch.input_ids)
        return {"inputs_embeds": noisy(embeddings, batch.noise_scale(self.noise))}


@dataclass(frozen=True)
class Update:
    """What one optimizer step did; tokens and loss are those of all devices."""

    loss: float
    grad_norm: float
    tokens: int
    learned_tokens: int
    seconds: float


@dataclass(frozen=True)
class Course:
    """What is learned, in which order, and how much of it at a time."""

    examples: Sequence[TokenisedExample]
    plan: Plan
    batch_size: int
    pad_id: int
    max_grad_norm: float
    # where shorter examples are taken more at a time: the longest one's tokens
    longest: int = 0


class Stepper:
    """Takes optimizer steps; knows how large a micro-batch may be by now."""

    def __init__(
        self,
        learner: Learner,
        course: Course,
        *,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        lanes: Lanes | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare model and optimizer; `between` is called after each micro-batch and may raise.

        Weights are spread before, where they are to be: the optimizer has to know their parts.
        """
        self.prepared = learner.prepared
        self.course = course
        self.plan = course.plan
        self.accelerator = accelerator
        # for evaluations, where processes need not keep step with each other unless it is spread
        self.alone = learner
        self.spread = is_spread(learner)
        placed = {"device_placement": False, "evaluation_mode": True} if self.spread else {}
        self.learner = accelerator.prepare_model(learner, **placed)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.weights = [p for p in learner.model.parameters() if p.requires_grad]
        self.batch_size = course.batch_size
        self.lanes = lanes or Lanes()
        self.between = between
        self.recomputing = False
        self.overflows = 0

    def update(self, step: int, rate: float) -> Generator[Event, None, Update]:
        """Learn from a step's examples at a learning rate; memory that runs out is worked around.

        Raises NotFiniteError before anything changed, and DeviceMemoryError when nothing helps.
        """
        rng = rng_state()
        try:
            return (yield from self.try_update(step, rate))
        except (NotFiniteError, StopRequested):
            # the step never happened: neither its gradients nor its random draws stay
            self.optimizer.zero_grad(set_to_none=True)
            set_rng_state(rng)
            raise

    def try_update(self, step: int, rate: float) -> Generator[Event, None, Update]:
        started = time.perf_counter()
        numbers = self.plan.examples(step)
        learned = sum(learned_count(self.course.examples[n]) for n in numbers)
        loss = yield from self.gather_gradients(step, learned)
        norm = self.clipped_norm()
        if math.isfinite(loss) and math.isfinite(norm):
            self.overflows = 0
        elif self.accelerator.scaler is not None and self.overflows < OVERFLOWS_ALLOWED:
            self.overflows += 1
            yield Warned(code="overflow", what=f"Step {step} overflowed in fp16 and is left out.")
        else:
            raise not_finite(step, loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(self.plan.lengths[n] for n in numbers)
        return Update(loss, norm, tokens, learned, time.perf_counter() - started)

    def gather_gradients(self, step: int, learned: int) -> Generator[Event, None, float]:
        """Sum up the gradients of a step; on lack of memory redo it in smaller pieces."""
        while True:
            rng = rng_state()
            out_of_memory = None
            total = None
            try:
                total = self.backward_all(step, learned)
            except RuntimeError as error:
                if not tells_lack_of_memory(error):
                    raise
                out_of_memory = str(error).partition("\n")[0]
            if total is not None:
                self.share_gradients()
                return float(self.accelerator.reduce(total, "sum")) / learned
            # outside of the except block, whose traceback would keep the tensors alive
            self.optimizer.zero_grad(set_to_none=True)
            free_memory()
            set_rng_state(rng)
            yield self.make_room(out_of_memory)

    def backward_all(self, step: int, learned: int) -> Tensor:
        """Run all micro-batches of a step; give this process's part of their summed loss.

        Processes exchange nothing meanwhile, so that one which runs out of memory may begin again;
        unless the weights are spread: then all of them come together for every layer.
        """
        ranks = self.accelerator.num_processes
        if self.at_once > 1:
            return self.backward_in_lanes(self.plan.examples(step), learned)
        total = torch.zeros((), device=self.accelerator.device)
        for batch, counts in self.micro_batches(step):
            with self.accelerator.no_sync(self.learner):
                loss = self.learner(batch.to(self.accelerator.device)) * counts
                # gradients are averaged over the processes, and the mean is over all of them
                self.accelerator.backward(loss * (ranks / learned))
            total += loss.detach()
            self.between()
        return total

    def backward_in_lanes(self, numbers: Sequence[int], learned: int) -> Tensor:
        """Let each lane learn from its hand of a step's examples; give their summed loss."""
        total = torch.zeros(())
        jobs = [
            partial(self.find_gradients, [self.batch(each) for each in self.cut(hand)], learned)
            for hand in self.plan.deal(numbers, self.at_once)
            if hand
        ]
        for loss, gradients in self.lanes.run(jobs):
            total += loss
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = added(weight.grad, gradient)
        return total

    def find_gradients(
        self, batches: Sequence[MicroBatch], learned: int
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Give the summed loss of micro-batches, and the gradients apart from the weights."""
        total = torch.zeros(())
        gradients: list[Tensor | None] = [None] * len(self.weights)
        for batch in batches:
            loss = self.learner(batch)
            found = torch.autograd.grad(loss / learned, self.weights, allow_unused=True)
            gradients = [added(*pair) for pair in zip(gradients, found, strict=True)]
            total += loss.detach()
            self.between()
        return total, gradients

    def losses(self, batches: Sequence[MicroBatch]) -> list[float]:
        """Give the summed loss of each micro-batch, without learning from it."""
        return self.lanes.run([partial(self.loss_alone, batch) for batch in batches])

    @torch.no_grad()
    def loss_alone(self, batch: MicroBatch) -> float:
        return float(self.alone(batch))

    def share_cores(self, lanes: int) -> None:
        """Go on with so many lanes; 0, as runs of before lanes have it, changes nothing."""
        if lanes not in (0, self.lanes.count):
            self.lanes = Lanes(lanes)

    @property
    def at_once(self) -> int:
        """Count the lanes in use; no more than there are examples at a time."""
        return min(self.lanes.count, self.batch_size)

    def cut(self, numbers: Sequence[int]) -> list[list[int]]:
        """Cut examples, the longest first, into what one lane learns at a time."""
        size = self.batch_size // self.at_once
        padded = not self.prepared.side_by_side
        return self.plan.cut(numbers, size, longest=self.course.longest, padded=padded)

    def share_gradients(self) -> None:
        """Average the gradients over the processes, in one exchange; spread ones already are."""
        if self.accelerator.num_processes == 1 or self.spread:
            return
        together = torch.cat([weight.grad.flatten().float() for weight in self.weights])
        together = self.accelerator.reduce(together, "mean")
        start = 0
        for weight in self.weights:
            part = together[start : start + weight.numel()]
            weight.grad.copy_(part.view_as(weight))
            start += weight.numel()

    def micro_batches(self, step: int) -> list[tuple[MicroBatch, int]]:
        """Build this process's micro-batches; where it lacks one it goes along with weight 0."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        numbers = self.plan.examples(step)
        shares = [self.cut(numbers[start::ranks]) for start in range(ranks)]
        # with spread weights all processes take as many passes as the one that has most to do
        needed = max(map(len, shares)) if self.spread else 1
        batches = [(self.batch(each), 1) for each in shares[rank]]
        return batches + [(self.batch(numbers[:1]), 0)] * (needed - len(batches))

    def batch(self, numbers: Sequence[int]) -> MicroBatch:
        """Lay some training examples side by side, or padded where the model needs that."""
        return self.lay([self.course.examples[n] for n in numbers])

    def lay(self, examples: Sequence[TokenisedExample]) -> MicroBatch:
        if self.prepared.base.config.is_encoder_decoder:
            start_id = self.prepared.base.config.decoder_start_token_id
            return apart(examples, self.course.pad_id, start_id)
        if self.prepared.side_by_side:
            return side_by_side(examples)
        return padded(examples, self.course.pad_id)

    def clipped_norm(self) -> float:
        """Clip the gradients (0 is off) and give the norm they had."""
        limit = self.course.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.weights, limit)
        return float(gathered({"norm": norm}, keep=True)["norm"])

    def recompute(self) -> None:
        """Recompute activations from here on: slower, and leaner."""
        self.recomputing = True
        recompute_activations(self.prepared.base)

    def make_room(self, reason: str) -> Warned:
        """Need less memory for the same result; DeviceMemoryError when there is no way left."""
        if self.spread:
            raise DeviceMemoryError(
                f"The device ran out of memory ({reason}); with spread weights no process can redo "
                "a step by itself.",
                "Lower train.batch_size or set train.gradient_checkpointing: true, then resume.",
            )
        if self.batch_size > 1:
            self.batch_size = (self.batch_size + 1) // 2
            self.share_cores(self.at_once)
            how = f"micro-batches of {self.batch_size} from here on, as many examples a step"
        elif not self.recomputing:
            self.recompute()
            how = "activations are recomputed from here on"
        else:
            raise DeviceMemoryError(
                f"The device ran out of memory with one example at a time ({reason}).",
                "Lower model.max_seq_len, use tuning.mode qlora, or choose a smaller model.",
            )
        return Warned(code="out_of_memory", what=f"Memory ran out ({reason}): {how}.")


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Add up two gradients, of which either may be missing; the first is changed."""
    if first is None or second is None:
        return second if first is None else first
    return first.add_(second)


def encode_and_decode(base: nn.Module, batch: MicroBatch, seen: Mapping[str, Tensor]) -> Tensor:
    """Run an encoder on what it may see and a decoder on the answers; all scores, flattened."""
    output = base(
        **seen,
        attention_mask=batch.attention_mask,
        decoder_input_ids=batch.decoder_ids,
        use_cache=False,
    )
    return output.logits.flatten(0, 1)


def noisy(embeddings: Tensor, scale: Tensor) -> Tensor:
    """Add uniform noise from -scale to scale to embeddings [rows, tokens, d] (NEFTune).

    `scale` [rows, tokens, 1] is alpha / sqrt(tokens of the example * d) there (Jain et al. 2023).
    """
    width = embeddings.shape[-1]
    noise = torch.rand_like(embeddings).mul_(2).sub_(1)
    return embeddings + noise * (scale / math.sqrt(width)).to(embeddings.dtype)


def not_finite(step: int, loss: float, norm: float) -> NotFiniteError:
    """Say which number broke; the weights are still those of the step before."""
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
    return NotFiniteError(
        f"At step {step} the {what}; the weights of step {step - 1} are saved.",
        "Lower train.learning_rate, then resume or start again.",
    )


def rng_state() -> dict[str, object]:
    """Take the state of torch's random numbers, on the CPU and on every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, object]) -> None:
    """Put the state of torch's random numbers back."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        # a run may go on with fewer cards
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
