"""LoRA Playground: fine-tune with low-rank adaptation, watch the spectrum of what is learned, chat side by side."""

import importlib
from typing import Any

import lora_playground.variants  # noqa: F401  (declares every variant's options, so that RunConfig knows them)

__version__ = "0.1.0"

_FUNCTIONS = ("chat", "estimate", "list_runs", "load_run", "spectra", "train", "upload_dataset")


def __getattr__(name: str) -> Any:
    """Imports the functions of `lora_playground.notebook` at their first use."""
    if name in _FUNCTIONS:
        place = "lora_playground.chat" if name == "chat" else "lora_playground.notebook"
        module = importlib.import_module(place)
        return module if name == "chat" else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
