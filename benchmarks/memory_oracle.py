"""What a training step would allocate, found by taking it with tensors that have no data.

`python -m benchmarks.memory_oracle CONFIG.json --mode qlora --tokens 2048` runs our own model,
loss and adapter code under torch's fake tensors and counts the live storages. The peak grows
linearly with the layers, so two shallow steps tell that of the whole model. It takes seconds and is
exact where the closed form of `sftplay_ui.engine.memory` is instant and approximate;
a test compares them. Kernels' workspaces, the CUDA context and the allocator's slack are not seen.
"""

import argparse
import json
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bitsandbytes
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from sftplay_ui.engine.worker.model import attention
from sftplay_ui.engine.worker.model.load import Prepared
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears
from sftplay_ui.engine.worker.training.batches import MicroBatch
from sftplay_ui.engine.worker.training.learner import Learner

SHALLOW, DEEP = 2, 4
ADAM_8BIT, ADAM = 2.03, 8
LONGEST_WITH_SCORES = attention.LONGEST_WITH_SCORES


@dataclass(frozen=True)
class Case:
    """What to simulate: `rows` examples share `tokens` equally, a share `learned` has a loss.

    `scores`: attention keeps its scores, as it does on a CPU for short rows.
    """

    config: dict[str, Any]
    mode: str
    tokens: int
    rows: int = 1
    learned: float = 1.0
    rank: int = 16
    checkpointing: bool = True
    dtype: str = "bfloat16"
    scores: bool = False


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen = WeakIdKeyDictionary()

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
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.release, size)

    def release(self, size: int) -> None:
        self.live -= size


def simulate(case: Case) -> dict[str, float]:
    """Give the peak of the whole model by phase, from two shallow steps (bytes)."""
    depth = int(case.config["num_hidden_layers"])
    shallow, deep = take_step(case, layers=SHALLOW), take_step(case, layers=DEEP)
    more = (depth - SHALLOW) / (DEEP - SHALLOW)
    found = {phase: size + more * (deep[phase] - size) for phase, size in shallow.items()}
    found["peak"] = max(found["loss"], found["backward"])
    return found


def take_step(case: Case, *, layers: int) -> dict[str, float]:
    """Run one forward and backward pass of a model cut to so many layers; peaks in bytes."""
    # without scores every row goes through the fused kernel, as on CUDA
    attention.LONGEST_WITH_SCORES = LONGEST_WITH_SCORES if case.scores else 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        counter = LiveBytes()
        with counter:
            prepared = build(case, layers)
            weights = [p for p in prepared.model.parameters() if p.requires_grad]
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            learner = Learner(prepared)
            batch = make_batch(case)
            resident = counter.live
            counter.peak = counter.live
            # as accelerate does it: weights that learn stay in fp32
            mixed = case.mode == "full" and case.dtype != "float32"
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = learner(batch)
            found = {"resident": resident, "loss": counter.peak}
            counter.peak = counter.live
            loss.backward()
            found["backward"] = counter.peak
    state = sum(w.numel() for w in weights) * (ADAM_8BIT if case.mode == "qlora" else ADAM)
    return {phase: size + state for phase, size in found.items()}


def build(case: Case, layers: int) -> Prepared:
    """Make the model the way `worker.model.prepare` does, without weights to load."""
    values = {k: v for k, v in case.config.items() if k not in ("model_type", "layer_types")}
    values["num_hidden_layers"] = layers
    config = transformers.AutoConfig.for_model(case.config["model_type"], **values)
    dtype = torch.float32 if case.mode == "full" else getattr(torch, case.dtype)
    base = transformers.AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation="sdpa"
    )
    if case.mode == "qlora":
        quantise(base, dtype)
    model: nn.Module = base
    if case.mode != "full":
        shape = LoraConfig(
            task_type="CAUSAL_LM", r=case.rank, lora_alpha=32, target_modules="all-linear"
        )
        # adapters are made in the type and on the device they stay in; moving fake ones fails
        with patch.object(nn.Module, "to", lambda module, *_args, **_kwargs: module):
            model = get_peft_model(base, shape)
        use_lean_linears(model)
    attention.use_rows(base)
    if case.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    model.train()
    return Prepared(model, base, True, True, ())


def quantise(base: nn.Module, dtype: torch.dtype) -> None:
    """Put 4-bit layers (NF4, one fp32 scale for 64 weights) in the place of the linear layers."""
    head = base.get_output_embeddings()
    for name, layer in list(base.named_modules()):
        if type(layer) is nn.Linear and layer is not head:
            parent, _, last = name.rpartition(".")
            setattr(base.get_submodule(parent), last, packed(layer, dtype))
    base.is_loaded_in_4bit = True


def packed(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """Make bitsandbytes' layer around packed weights that have no data."""
    size = layer.weight.numel()
    weight = nn.Parameter(torch.empty(size // 2, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_type, weight.compress_statistics = "nf4", False
    weight.quant_state = bitsandbytes.functional.QuantState(
        absmax=torch.empty(size // 64),
        shape=layer.weight.shape,
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=dtype,
    )
    # its own constructor makes a tensor subclass, which fake tensors cannot be
    made = bitsandbytes.nn.Linear4bit.__new__(bitsandbytes.nn.Linear4bit)
    nn.Module.__init__(made)
    made.in_features, made.out_features = layer.in_features, layer.out_features
    made.weight, made.bias = weight, layer.bias
    made.compute_dtype, made.compute_type_is_set = dtype, True
    made.support_avx512bf16_for_cpu = False
    return made


def make_batch(case: Case) -> MicroBatch:
    """Lay `rows` examples of `length` tokens side by side, learned from the end backwards."""
    rows, length = case.rows, case.tokens // case.rows
    tokens = rows * length
    keep = max(1, int(tokens * case.learned) - rows)
    return MicroBatch(
        input_ids=torch.zeros(1, tokens, dtype=torch.long),
        position_ids=torch.arange(length).repeat(rows)[None],
        attention_mask=None,
        row_lengths=(length,) * rows,
        keep=torch.zeros(keep, dtype=torch.long),
        target=torch.zeros(keep, dtype=torch.long),
    )


def main() -> None:
    """Print one line of JSON for each case: peaks by phase in bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "config", type=Path, nargs="?", help="config.json; without it, cases on stdin"
    )
    parser.add_argument("--mode", choices=("qlora", "lora", "full"), default="qlora")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--keep-activations", action="store_true", help="recompute nothing")
    args = parser.parse_args()
    if args.config is None:
        cases = [Case(**json.loads(line)) for line in sys.stdin]
    else:
        config = json.loads(args.config.read_text("utf-8"))
        kept = args.keep_activations
        cases = [Case(config, args.mode, args.tokens, checkpointing=not kept)]
    for case in cases:
        print(json.dumps(simulate(case)), flush=True)


if __name__ == "__main__":
    main()
