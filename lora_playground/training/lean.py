"""Faster forward passes, equal to the library's, for the time of the training. It knows PEFT's LoRA layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def lean(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Placeholder until measured."""
    yield
