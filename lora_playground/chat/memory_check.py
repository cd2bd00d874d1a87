"""Decides how the chat process holds a base model: in which number type, with how many threads, and whether it fits
into memory.

It knows file sizes and free memory, not what uses the rest.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.machine import memory
from lora_playground.machine.device import cores
from lora_playground.models.catalogue import SMALL, folder_of, parameter_count
from lora_playground.models.precision import bounded, pick_device, torch_dtype

RESERVE = 400_000_000
"""Bytes beside the weights: keys and values of the conversations, buffers of the arithmetic."""


def _is_small(config: ModelConfig, device: str) -> bool:
    folder = folder_of(config.source)
    on_processor = pick_device(device) == "cpu"
    return on_processor and config.quantisation == "none" and folder is not None and parameter_count(folder) <= SMALL


def decoding_dtype(config: ModelConfig, device: str = "auto") -> torch.dtype:
    """The number type in which a base answers."""
    return torch.float32 if _is_small(config, device) else torch_dtype(None, pick_device(device))


def decoding_threads(config: ModelConfig, device: str = "auto") -> int:
    """The number of threads of a matrix product when a base answers."""
    return 1 if _is_small(config, device) else bounded(cores())


def need(folder: Path, config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that a base takes in memory. 4 bit counts as 5, because of the scales."""
    bits = {"none": 8 * dtype.itemsize, "8bit": 8, "4bit": 5}[config.quantisation]
    return parameter_count(folder) * bits // 8 + RESERVE


def check_memory(config: ModelConfig, device: str = "auto") -> None:
    """Raises ChatError if the base of `config` does not fit into free memory. A base not on this disk is not
    checked."""
    folder = folder_of(config.source)
    if folder is None:
        return
    target = pick_device(device)
    needed, free = need(folder, config, decoding_dtype(config, device)), memory.free(target)
    if needed > free:
        where = "GPU" if target.startswith("cuda") else "machine"
        raise ChatError(
            f"{config.source} needs about {needed / 1e9:.1f} GB and the {where} has {free / 1e9:.1f} GB free. "
            "If a training run holds the memory, ask again when it has ended; otherwise choose a smaller base or 4bit."
        )
