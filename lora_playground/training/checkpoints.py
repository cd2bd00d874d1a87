"""Writes and reads checkpoints: trained parameters, optimiser, random number generators, position. A checkpoint is
complete or absent.

It is written as `step-N.tmp`, synced and renamed. `state.json` lists the sizes of the other files, so that a damaged
checkpoint is noticed and the one before it is used. It knows no model and no loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lora_playground.config import TrainingConfig
from lora_playground.data.encoding import Example
from lora_playground.errors import TrainingError
from lora_playground.runs.files import sync

KEPT = 2
_NAME = re.compile(r"step-(\d+)")
_PLAIN = ("step", "steps", "tokens", "signature", "validation_start", "seconds", "plateau")
"""Fields of `State` that are written as JSON."""


@dataclass
class State:
    """What a resumed run needs.

    Attributes:
        step: optimiser steps done; steps: planned; tokens: trained on.
        signature: digest of what must be equal for the checkpoint to fit (seed, data, shapes, names).
        parameters: trained parameters by name; optimiser: its state_dict; generators: torch's, by device.
        variant: tensors other than the trained parameters that the variant changes (`Variant.training_state`).
        plateau: the fields of `schedule.Plateau`.
        validation_start: the validation loss before the first step. seconds: of training, earlier attempts included.
    """

    step: int
    steps: int
    tokens: int
    signature: str
    parameters: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    generators: dict[str, torch.Tensor]
    variant: dict[str, torch.Tensor] = field(default_factory=dict)
    validation_start: float | None = None
    seconds: float = 0.0
    plateau: Sequence[Any] = ()


def save(folder: Path, state: State) -> Path:
    """Writes `folder/step-N/` and removes all but the newest KEPT checkpoints.

    Returns:
        The folder of the new checkpoint.

    Raises:
        TrainingError: it cannot be written, for instance because the disk is full.
    """
    target = folder / f"step-{state.step}"
    staging = folder / f"step-{state.step}.tmp"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for part in ("parameters", "variant"):
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in getattr(state, part).items()}
            save_file(tensors, str(staging / f"{part}.safetensors"))
        torch.save(state.optimiser, staging / "optimiser.pt")
        torch.save(state.generators, staging / "generators.pt")
        sizes = {path.name: path.stat().st_size for path in staging.iterdir()}
        about = {name: getattr(state, name) for name in _PLAIN} | {"sizes": sizes}
        (staging / "state.json").write_text(json.dumps(about), encoding="utf-8")
        for path in staging.iterdir():
            sync(path)
        sync(staging)
        if target.exists():
            shutil.rmtree(target)
        os.replace(staging, target)
        sync(folder)
        for step in _steps(folder)[KEPT:]:
            shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
    except (OSError, RuntimeError) as error:
        # safetensors and torch wrap a full disk in exceptions of their own.
        shutil.rmtree(staging, ignore_errors=True)
        raise TrainingError(
            f"The checkpoint of step {state.step} cannot be written ({str(error).splitlines()[0][:160]}); the one "
            "before it is kept. Free some space on the disk and resume."
        ) from error
    return target


def load_newest(folder: Path, signature: str) -> State | None:
    """The newest complete checkpoint with this signature, or None. Half-written checkpoints are removed.

    Args:
        folder: holds the checkpoints, one folder each. signature: from `signature_of`.
    """
    if not folder.is_dir():
        return None
    for leftover in folder.glob("step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in _steps(folder):
        state = _load(folder / f"step-{step}", signature)
        if state is not None:
            return state
    return None


def signature_of(training: TrainingConfig, trained: dict[str, torch.nn.Parameter], examples: list[Example]) -> str:
    """A digest of what must be equal for a checkpoint to be continued: seed, batch, trained parameters, data."""
    digest = hashlib.sha256(repr((training.seed, training.batch_tokens, training.accumulation)).encode())
    digest.update(repr([(name, tuple(p.shape)) for name, p in trained.items()]).encode())
    for example in examples:
        digest.update(example.ids.tobytes())
    return digest.hexdigest()


def generators() -> dict[str, torch.Tensor]:
    """The states of torch's random number generators, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, torch.Tensor]) -> None:
    """Sets torch's random number generators to the states that `generators` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _load(folder: Path, signature: str) -> State | None:
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if about["signature"] != signature:
            return None
        if any((folder / name).stat().st_size != size for name, size in about["sizes"].items()):
            return None
        return State(
            **{name: about[name] for name in _PLAIN if name in about},
            parameters=load_file(str(folder / "parameters.safetensors")),
            variant=load_file(str(folder / "variant.safetensors")) if "variant.safetensors" in about["sizes"] else {},
            optimiser=torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True),
            generators=torch.load(folder / "generators.pt", map_location="cpu", weights_only=True),
        )
    except Exception:  # whatever is wrong with it, the checkpoint before it is used
        return None


def _steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, newest first."""
    found = [int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return sorted(found, reverse=True)
