"""Whether a base model still fits beside what else the device holds, such as a training run; asked before loading it.

It knows file sizes and free memory, not what holds the rest.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.machine import memory
from lora_playground.models.catalogue import resolve
from lora_playground.models.fused import LARGEST
from lora_playground.models.precision import pick_device, torch_dtype

RESERVE = 400_000_000
"""Bytes beside the weights: keys and values of the conversations, buffers of the arithmetic."""


def need(folder: Path, config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that a base takes in memory: its files' size, adjusted for what it is converted to."""
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if config.quantisation == "none":
        # Files are nearly always in 16 bit; the embedded base's are. A small one is also kept as it is stored
        # (`models.fused`).
        beside = stored if dtype == torch.float32 and stored <= 2 * LARGEST else 0
        return stored * (2 if dtype == torch.float32 else 1) + beside + RESERVE
    return stored * (8 if config.quantisation == "8bit" else 5) // 16 + RESERVE


def check_memory(config: ModelConfig, device: str = "auto") -> None:
    """Raises ChatError where the base that `config` names would not fit now; a base not on this disk may pass."""
    place = resolve(config.source)
    if not isinstance(place, Path) or not os.path.isdir(place):
        return
    target = pick_device(device)
    needed, free = need(place, config, torch_dtype(None, target)), memory.free(target)
    if needed > free:
        where = "GPU" if target.startswith("cuda") else "machine"
        raise ChatError(
            f"{config.source} needs about {needed / 1e9:.1f} GB and the {where} has {free / 1e9:.1f} GB free. "
            "If a training run holds the memory, ask again when it has ended; otherwise choose a smaller base or 4bit."
        )
