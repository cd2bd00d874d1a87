"""Shared by variants with data-driven starts: converts batches for the model, and raises a clear error without any.

It knows batches and models, and no variant.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_playground.errors import ConfigError
from lora_playground.variants.base import Context

if TYPE_CHECKING:
    import torch


def need_batches(name: str, context: Context) -> Sequence[dict[str, torch.Tensor]]:
    """The context's batches; raises ConfigError if there are none. `name`: the variant's, for the message."""
    if not context.batches:
        raise ConfigError("variant.name", name, "it starts from training batches, and none were given")
    return context.batches


def model_inputs(batch: dict[str, torch.Tensor], model: Any, labels: bool) -> dict[str, torch.Tensor]:
    """The tensors of a batch that the model's forward takes, on its device; `labels` from the tokens if absent."""
    root = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = set(inspect.signature(root.forward).parameters)
    device = next(root.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items() if key in taken and key != "labels"}
    if labels:
        given = batch.get("labels")
        inputs["labels"] = (inputs["input_ids"] if given is None else given).to(device)
    return inputs
