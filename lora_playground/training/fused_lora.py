"""A faster forward and backward pass for PEFT's plain LoRA layer while a model trains; its results equal PEFT's.

PEFT computes s·B·A·x in five passes over the output and keeps what each pass needs. Here the small products are added
into the large ones in place, and transposed operands are laid out as matrix libraries multiply them fastest. Modules,
parameters and state dicts stay PEFT's. A layer that is anything but plain LoRA keeps PEFT's own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


@contextmanager
def fused_lora(model: nn.Module, enabled: bool = True) -> Iterator[int]:
    """Uses the fast pass inside the block, in every layer that is plain LoRA.

    Args:
        enabled: False leaves all layers as they are.

    Yields:
        The number of layers that use it.
    """
    swapped = [module for module in model.modules() if enabled and _is_plain(module)]
    for module in swapped:
        module.forward = partial(_forward, module, module.forward)
    try:
        yield len(swapped)
    finally:
        for module in swapped:
            del module.forward


def _is_plain(module: nn.Module) -> bool:
    """Whether this is PEFT's LoRA around an ordinary Linear: no DoRA, dropout, bias or hook, one adapter."""
    try:
        from peft.tuners.lora.layer import Linear as LoraLinear
    except ImportError:
        return False
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear or "forward" in vars(module):
        return False
    layer: Any = module
    if len(layer.active_adapters) != 1 or layer.fan_in_fan_out:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in getattr(layer, "lora_variant", {}):
        return False
    parts = [layer.lora_A[name], layer.lora_B[name]]
    plain = all(type(part) is nn.Linear and part.bias is None for part in parts)
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in [layer, layer.base_layer, *parts])
    frozen = not layer.base_layer.weight.requires_grad
    return plain and frozen and not hooked and isinstance(layer.lora_dropout[name], nn.Identity)


def _forward(layer: Any, original: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    name = layer.active_adapters[0]
    weight = layer.base_layer.weight
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if args or kwargs or layer.disable_adapters or layer.merged or weight.dtype != dtype:
        return original(x, *args, **kwargs)
    A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
    with torch.autocast(device, enabled=False):
        return _LoraLinear.apply(x.to(dtype), weight, layer.base_layer.bias, A, B, float(layer.scaling[name]))


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W frozen. x: (..., in), W: (out, in), A: (r, in), B: (out, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W: torch.Tensor,
        bias: torch.Tensor | None,
        A: torch.Tensor,
        B: torch.Tensor,
        s: float,
    ) -> torch.Tensor:
        x2 = x.reshape(-1, x.shape[-1])
        a, b = A.to(x.dtype), B.to(x.dtype)
        y = torch.mm(x2, W.t()) if bias is None else torch.addmm(bias.to(x.dtype), x2, W.t())
        xa = torch.mm(x2, a.t())
        y.addmm_(xa, b.t(), alpha=s)
        ctx.save_for_backward(x2 if ctx.needs_input_grad[3] else None, W, a, b, xa)  # only A's gradient needs x
        ctx.s, ctx.shape, ctx.kinds = s, x.shape, (A.dtype, B.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x2, W, a, b, xa = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        dx = dA = dB = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
            # dy·B with B laid out along its long side: several times faster than the strided product.
            dxa = torch.mm(dy, b.t().contiguous().t()).mul_(ctx.s)
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dy, W).addmm_(dxa, a).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            dA = torch.mm(dxa.t(), x2).to(ctx.kinds[0])
        if ctx.needs_input_grad[4]:
            dB = torch.mm(xa.t(), dy).t().mul(ctx.s).to(ctx.kinds[1])
        return dx, None, None, dA, dB, None
