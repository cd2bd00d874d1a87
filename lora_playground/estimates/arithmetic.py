"""The arithmetic of a training step: the base model's, and what each adapted module adds according to its variant.

It needs no torch, and reads only file headers of a model.
"""

from __future__ import annotations

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.estimates.parameters import modules_of, trained
from lora_playground.models.catalogue import sizes_of
from lora_playground.variants import get_variant

LEARNED = 0.5
"""Assumed share of tokens that are learned, for which alone the LM head is computed."""


def step_flops(config: RunConfig) -> float | None:
    """Floating-point operations of an optimiser step, forward and backward, without attention's products of tokens with
    tokens, which depend on the examples' lengths. None if the model's sizes are neither on this disk nor in the
    catalogue, or the options do not fit the model."""
    try:
        shape, modules = sizes_of(config.model.source), modules_of(config.model.source)
        if shape is None or modules is None:
            return None
        _, adapted = trained(config, modules)
    except PlaygroundError:
        return None
    variant, tokens = get_variant(config.variant.name), config.training.batch_tokens
    weights = sum(m * n for m, n in adapted.values())
    others = max(0, modules.total - shape.embeddings - weights)
    head = LEARNED * shape.vocabulary * shape.hidden
    done = 4.0 * tokens * (others + head)
    micro = tokens / config.training.accumulation
    for name, size in adapted.items():
        done += config.training.accumulation * variant.flops(name, size, config.variant, max(1, round(micro)))
    again = 2.0 * tokens * (others + weights) if config.training.gradient_checkpointing else 0.0
    return done + again
