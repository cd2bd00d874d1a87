"""GPT-2's linear layer, Conv1D, stores its weight as (in, out); everything else here reads weights as (out, in)."""

from typing import Any

import torch


def is_conv1d(module: torch.nn.Module) -> bool:
    """Whether a module is a Conv1D. Its shape does not tell: a square weight may be either."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def oriented(module: torch.nn.Module, tensor: Any = None) -> torch.Tensor:
    """A view as (out, in) of a module's weight, or of a tensor that lies as the weight does, such as its gradient."""
    given: torch.Tensor = module.weight if tensor is None else tensor  # type: ignore[assignment]
    return given.T if is_conv1d(module) else given
