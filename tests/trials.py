"""One short training of one variant on one small checkpoint, with all that the contract tests need; made once."""

import copy
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import make_checkpoint
from transformers import AutoModelForCausalLM

from lora_playground.analysis.update import Update
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context

KINDS = ("llama", "qwen3", "gpt2", "gemma3")
STEPS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "fourierft": {"frequencies": 40},
    "oft": {"block_size": 8},
    "c3a": {"block_size": 8},
}
_ROOT = Path(tempfile.mkdtemp(prefix="variants-"))


def options(name: str) -> dict[str, Any]:
    """Options that fit modules of 32 columns."""
    fields = VARIANTS[name].config.model_fields
    small = {"rank": 4, "alpha": 6.0} if "alpha" in fields else {"rank": 4} if "rank" in fields else {}
    return {**small, **OPTIONS.get(name, {})}


@functools.cache
def checkpoint(kind: str) -> Path:
    """A random checkpoint whose biases are not zero."""
    folder = make_checkpoint(_ROOT / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


@functools.cache
def _base(kind: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint(kind)).eval()


def base(kind: str) -> Any:
    """A fresh pristine model."""
    return copy.deepcopy(_base(kind))


def tokens(seed: int, rows: int = 2, length: int = 12) -> torch.Tensor:
    """Random token ids (rows, length)."""
    return torch.randint(5, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def batches() -> list[dict[str, torch.Tensor]]:
    """Three batches, for variants whose start is computed from data."""
    found = []
    for seed in range(3):
        ids = tokens(10 + seed, rows=4, length=24)
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    return found


def supports(name: str, kind: str) -> bool:
    """Whether the variant takes this kind of model at 16 bit."""
    variant = VARIANTS[name]
    return 16 in variant.bits and (kind != "gpt2" or getattr(variant, "conv1d", True))


def logits(model: Any) -> torch.Tensor:
    """Evaluation-mode logits of fixed tokens."""
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(input_ids=tokens(1)).logits.float()
    model.train(training)
    return found


def train(variant: Any, model: Any, steps: int = STEPS, rate: float = 2e-2) -> None:
    """A few AdamW steps, calling the variant's hooks as the training loop does."""
    optimiser = torch.optim.AdamW(variant.parameter_groups(model, rate, 0.0))
    model.train()
    for step in range(1, steps + 1):
        ids = tokens(20 + step)
        model(input_ids=ids, labels=ids).loss.backward()
        variant.after_backward(model, step)
        optimiser.step()
        variant.after_step(model, step)
        optimiser.zero_grad()


@dataclass
class Trial:
    """What a trial has made.

    Attributes:
        model: with the variant attached, after training. pristine: the base's state dict.
        at_base, at_start, at_end: logits of fixed tokens, of the base, with the variant attached, and after training.
        trainable: names of the trained parameters. updates: ΔW of each module. folder: with the saved adapter.
    """

    variant: Any
    config: Any
    model: Any
    pristine: dict[str, torch.Tensor]
    at_base: torch.Tensor
    at_start: torch.Tensor
    at_end: torch.Tensor
    trainable: list[str]
    updates: list[Update]
    folder: Path


@functools.cache
def trial(name: str, kind: str) -> Trial:
    """Attaches a variant to a checkpoint, trains and saves it."""
    variant = VARIANTS[name]
    model = base(kind)
    pristine = {key: value.clone() for key, value in model.state_dict().items()}
    at_base = logits(model)
    config = variant.config(**options(name))
    wrapped = variant.attach(model, config, Context(steps=STEPS, seed=0, batches=batches()))
    at_start = logits(wrapped)
    trainable = [key for key, parameter in wrapped.named_parameters() if parameter.requires_grad]
    train(variant, wrapped)
    folder = _ROOT / "adapters" / f"{name}-{kind}"
    variant.save(wrapped, folder)
    return Trial(
        variant,
        config,
        wrapped,
        pristine,
        at_base,
        at_start,
        logits(wrapped),
        trainable,
        variant.updates(wrapped),
        folder,
    )


def apply(model: Any, updates: list[Update]) -> Any:
    """Adds updates to a plain model's own weights, as chat and export do it, by names alone."""
    from transformers.pytorch_utils import Conv1D

    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    with torch.no_grad():
        for update in updates:
            delta = torch.from_numpy(np.ascontiguousarray(update.matrix())).float()
            if update.name in modules:
                module = modules[update.name]
                module.weight += delta.T if isinstance(module, Conv1D) else delta
            else:
                parameters[update.name] += delta
    return model
