"""Recognises linear modules, and gives their weight W as (out, in).

GPT-2's linear layer, Conv1D, stores its weight as (in, out), which the shape alone does not show if it is square. The
rest of this app uses weights and updates only as (out, in), by the functions of this module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is a Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def has_conv1d(model: nn.Module) -> bool:
    """Whether any module of a model is a Conv1D."""
    return any(is_conv1d(module) for module in model.modules())


def is_linear(module: nn.Module) -> bool:
    """Whether a module is an nn.Linear (also one that stores 4 or 8 bit) or a Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear module or of PEFT's wrapper of one; None of any other."""
    if is_conv1d(module):
        return int(module.nf), int(module.weight.shape[0])  # type: ignore[arg-type]
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    return None


def oriented(module: nn.Module, tensor: Any = None) -> torch.Tensor:
    """A view as (out, in) of a module's weight, or of a tensor in the weight's layout, such as its gradient. Applied to
    a tensor (out, in) it gives the weight's layout again."""
    given: torch.Tensor = module.weight if tensor is None else tensor  # type: ignore[assignment]
    return given.T if is_conv1d(module) else given


def is_quantised(weight: Any) -> bool:
    """Whether a weight is stored in 8 or 4 bit by bitsandbytes."""
    return type(weight).__name__ in ("Params4bit", "Int8Params")


def full_weight(module: nn.Module) -> torch.Tensor:
    """W of a linear module as float32 (out, in); 4 and 8 bit weights are dequantised."""
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(module) if is_quantised(module.weight) else module.weight
    return oriented(module, weight.detach().float())
