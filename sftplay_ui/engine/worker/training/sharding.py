"""Weights spread over the processes (FSDP): each keeps a part of every weight and of its moments.

A layer's weights come together while it computes, and part again; what no layer owns (embeddings,
head, last norm) comes together for the whole of a pass. All processes must therefore run the same
passes, and gather together: a checkpoint holds whole weights, so any number of processes may go on
from it.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import broadcast
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig, TrainConfig
from sftplay_ui.engine.errors import BackendError
from sftplay_ui.engine.resolve import Resolved

# how `accelerate launch` hands on the distributed_type of its configuration
FSDP_ASKED, DEEPSPEED_ASKED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"


def take_over(config: RunConfig, environment: MutableMapping[str, str] = os.environ) -> RunConfig:
    """Make an accelerate configuration's wish for spread weights one of the run's own settings.

    It is taken out of the environment: else the libraries would load and wrap the model after it in
    ways of their own. Raises BackendError for DeepSpeed.
    """
    if environment.get(DEEPSPEED_ASKED, "").lower() == "true":
        raise BackendError(
            "DeepSpeed is not supported; weights are spread over the processes with FSDP.",
            "Set train.sharding: fsdp, and distributed_type: MULTI_GPU in the accelerate "
            "configuration.",
        )
    if environment.pop(FSDP_ASKED, "").lower() != "true":
        return config
    train = config.train.model_copy(update={"sharding": "fsdp"})
    return config.model_copy(update={"train": train})


def settle_sharding(resolved: Resolved, train: TrainConfig, processes: int) -> Resolved:
    """Add to the decisions whether weights are spread, with the reason, where that is asked for.

    Raises BackendError for what cannot be spread.
    """
    if train.sharding == "no":
        return resolved
    if processes == 1:
        choice = Choice("train.sharding", "no", "a single process has all of the weights")
        return replace(resolved, choices=(*resolved.choices, choice))
    for what, fits, instead in (
        ("a 4-bit model", resolved.mode != "qlora" or resolved.unpacked, "tuning.mode: lora"),
        ("training in fp16", resolved.precision != "fp16", "train.fp16: false"),
        ("unsloth", resolved.backend != "unsloth", "tuning.backend: bnb"),
    ):
        if not fits:
            raise BackendError(
                f"train.sharding is {train.sharding}, but {what} does not go with it.",
                f"Set {instead}, or train.sharding: no.",
            )
    reason = f"as asked: each of {processes} processes keeps a part of every weight"
    choice = Choice("train.sharding", train.sharding, reason)
    return replace(resolved, spread=True, choices=(*resolved.choices, choice))


def spread(learner: nn.Module, base: PreTrainedModel, device: torch.device, processes: int) -> None:
    """Leave a part of each weight to each process, layer by layer; `learner` holds `base`.

    The weights may still lie in RAM: no more than a layer of them is ever whole on the device.
    Whatever uses the weights has to be called through the learner's `forward` or `lend`.
    """
    mesh = init_device_mesh(device.type, (processes,))
    kinds = set(base._no_split_modules or ())
    # the inner ones first, should any lie in each other
    for module in reversed(list(base.modules())):
        if type(module).__name__ in kinds:
            fully_shard(module, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    register_fsdp_forward_method(learner, "lend")


def is_spread(learner: nn.Module) -> bool:
    """Tell whether the weights of a learner are spread."""
    return isinstance(learner, FSDPModule)


def part(learner: nn.Module) -> None:
    """Part the weights that stayed together after passes without gradients."""
    if isinstance(learner, FSDPModule):
        learner.reshard()


@contextmanager
def one_voice(base: PreTrainedModel) -> Iterator[None]:
    """Let all processes see the first one's scores, so that all write the same words.

    Were one to end an answer earlier by a rounding, the others would wait for it for ever.
    """

    def hear(_head: nn.Module, _inputs: object, scores: Tensor) -> Tensor:
        scores = scores.contiguous()
        broadcast(scores, 0)
        return scores

    hook = base.get_output_embeddings().register_forward_hook(hear)
    try:
        yield
    finally:
        hook.remove()


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather spread tensors whole into RAM, one by one; others are given as they are.

    All processes must ask, in the same order; only those that `keep` them get any.
    """
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = whole
    return found


def gathered_state(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Gather an optimizer's `state_dict`, as `gathered` does."""
    moments = {number: gathered(found, keep=keep) for number, found in state["state"].items()}
    return {**state, "state": moments}


def own_part(whole: Tensor, weight: Tensor) -> Tensor:
    """Give this process's part of a whole tensor that is spread as `weight` is, if that is."""
    if not isinstance(weight, DTensor) or whole.shape != weight.shape:
        return whole
    # every process has read the whole: nothing needs to be sent
    whole = whole.to(weight.device)
    return distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None)


def own_state(state: Mapping[str, Any], weights: Sequence[Tensor]) -> dict[str, Any]:
    """Give this process's part of an optimizer's whole `state_dict` for its weights, in order."""
    moments = {
        number: {name: own_part(tensor, weights[number]) for name, tensor in found.items()}
        for number, found in state["state"].items()
    }
    return {**state, "state": moments}
