"""What trains in a model and how: parameters, modules, precision. It knows no loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def computing_dtype(model: nn.Module, precision: str) -> torch.dtype:
    """The dtype to compute in: as asked, else that of the frozen weights, which `models.precision` chose."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    kinds = [p.dtype for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    return torch.bfloat16 if torch.bfloat16 in kinds else torch.float32


def foreach(device: torch.device) -> bool:
    """Whether torch can process lists of tensors in one call on this device."""
    return device.type in ("cpu", "cuda")


def count(parameters: Any) -> int:
    """Number of parameters in these tensors; a byte of a 4-bit tensor counts as two."""
    total = 0
    for parameter in parameters:
        packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
        total += parameter.numel() * (2 if packed else 1)
    return total


def trained_modules(model: nn.Module) -> list[list[Any]]:
    """[name, out, in] of the linear modules that get an update."""
    from lora_playground.variants.peft_variant import tuner_layers
    from lora_playground.variants.targets import linear_shapes

    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if inner is not model:
        return [[name, layer.out_features, layer.in_features] for name, layer in tuner_layers(model)]
    trained = {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad}
    return [[name, *shape] for name, shape in linear_shapes(model).items() if name in trained]


@contextmanager
def without_update(model: nn.Module) -> Iterator[None]:
    """Within the block the adapted layers compute what their base layers do; no parameter is changed."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off
