"""A LoRA layer as one step of autograd: frozen product and adapter together, nothing kept twice.

y = x W' + s (x A') B' (Hu et al. 2021). peft's own forward computes the same in pieces and keeps
what each piece needs. Layers this does not suit (dropout, DoRA, 4-bit weights) keep peft's forward.
"""

from functools import partial

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class LoraProduct(torch.autograd.Function):
    """The product of a frozen linear layer with its adapter, for inputs [tokens, in]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """x [tokens, in], weight [out, in], down (A) [r, in], up (B) [out, r] -> [tokens, out]."""
        down_, up_ = down.to(x.dtype), up.to(x.dtype)
        y, inner = multiply(x, weight, down_, up_, scale)
        ctx.save_for_backward(x, weight, inner, down_, up_)
        ctx.scale = scale
        ctx.dtype = down.dtype
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inner, down, up = ctx.saved_tensors
        inner_grad = (grad @ up).mul_(ctx.scale)
        down_grad = (inner_grad.t() @ x).to(ctx.dtype)
        up_grad = (grad.t() @ inner).to(ctx.dtype).mul_(ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = grad @ weight
            x_grad.addmm_(inner_grad, down)
        return x_grad, None, down_grad, up_grad, None


def multiply(
    x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Give x W' + s (x A') B' and x A'."""
    inner = x @ down.t()
    y = x @ weight.t()
    y.addmm_(inner, up.t(), alpha=scale)
    return y, inner


def use_lean_linears(model: nn.Module) -> tuple[int, int]:
    """Switch suitable LoRA layers to `LoraProduct`; return how many were switched, of how many."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    suitable = [layer for layer in layers if is_suitable(layer)]
    for layer in suitable:
        layer.forward = partial(lean_forward, layer)
    return len(suitable), len(layers)


def use_stock_linears(model: nn.Module) -> None:
    """Switch all LoRA layers back to peft's own forward."""
    for module in model.modules():
        if "forward" in vars(module):
            del module.forward


def is_suitable(layer: nn.Module) -> bool:
    """Tell whether a layer is plain: one adapter on a frozen linear, no dropout, no variant."""
    if type(layer) is not LoraLinear or list(layer.active_adapters) != list(layer.lora_A):
        return False
    name, *others = layer.active_adapters
    base = layer.base_layer
    return (
        not others
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and type(base) is nn.Linear
        and not any(parameter.requires_grad for parameter in base.parameters())
    )


def lean_forward(layer: LoraLinear, x: Tensor) -> Tensor:
    """Compute a LoRA layer in one step; with the adapter off or merged peft knows better."""
    if layer.disable_adapters or layer.merged or torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x)
    (name,) = layer.active_adapters
    base, scale = layer.base_layer, layer.scaling[name]
    flat = x.reshape(-1, x.shape[-1])
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    if torch.is_grad_enabled():
        y = LoraProduct.apply(flat, base.weight, down, up, scale)
    else:  # a word at a time, a step of autograd would take longer than the products
        y, _ = multiply(flat, base.weight, down.to(x.dtype), up.to(x.dtype), scale)
    y = y if base.bias is None else y + base.bias
    return y.view(*x.shape[:-1], -1)
