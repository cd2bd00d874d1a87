"""Adds updates to a model's own weights, W + ΔW, for merged exports. It knows no files and no runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lora_playground.analysis.update import Update
from lora_playground.errors import RunError
from lora_playground.models.linear import oriented


def merge(model: nn.Module, updates: Iterable[Update]) -> None:
    """Adds every ΔW in place, computed in float64. If an update names a module whose weight another one shares, such as
    a tied embedding or LM head, the module first gets a copy of its own; an update of the parameter changes both.

    Raises:
        RunError: a name or shape does not fit, so the update belongs to another base model.
    """
    modules: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
    parameters: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for update in updates:
            module = modules.get(update.name)
            target = parameters.get(update.name) if module is None else getattr(module, "weight", None)
            weight = target if module is None or target is None else oriented(module)
            if weight is None or tuple(weight.shape) != tuple(update.shape):
                shape = "no such module" if weight is None else tuple(weight.shape)
                raise RunError(
                    f"The update of {update.name} is {tuple(update.shape)}, and the base model has {shape} there: the "
                    "run belongs to another base model."
                )
            if module is not None and _shared(model, target) > 1:
                _untie(model, module)
                weight = oriented(module)
            delta = torch.from_numpy(update.matrix()).to(weight.device)
            weight.copy_((weight.double() + delta).to(weight.dtype))


def _shared(model: nn.Module, parameter: Any) -> int:
    """The number of modules that share this parameter."""
    return sum(getattr(module, "weight", None) is parameter for module in model.modules())


def _untie(model: Any, module: Any) -> None:
    """Gives a module its own copy of its weight, and notes that in the config."""
    module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
