"""What a run will cost, known without running it: sizes from file headers, speed from earlier runs here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import folder_of, module_shapes, parameter_count, sizes_of, tensor_shapes
from lora_playground.runs import RunStore

RECENT_RUNS = 20
"""How many of the newest runs are looked at for a speed."""

_SHARE = 0.5
"""Of what a large product reaches, training does about so much."""


@dataclass(frozen=True)
class Modules:
    """The linear modules of a base model.

    Attributes:
        linear: (out, in) of each linear module, by name. tensors: shapes of all parameters.
        total: parameters of the whole model. typical: the commonest (out, in).
    """

    linear: dict[str, tuple[int, int]]
    tensors: tuple[tuple[int, ...], ...]
    total: int
    typical: tuple[int, int]


@dataclass(frozen=True)
class Estimate:
    """How fast a base model will train here.

    Attributes:
        tokens_per_second: its speed. peak_memory_bytes: what the process took, 0 where it is not known.
        source: 'run', the newest finished run of this model; 'other run', one of another model, taken to the same
            arithmetic; 'processor', a matrix product timed now.
    """

    tokens_per_second: float
    peak_memory_bytes: int = 0
    source: str = "run"


def modules_of(source: str) -> Modules | None:
    """The modules of a base model, from its files or else from what the catalogue declares; None where neither is
    known. Errors as `catalogue.sizes_of`."""
    folder = folder_of(source)
    if folder is not None:
        return module_list(folder)
    declared = sizes_of(source)
    if declared is None:
        return None
    linear = {name: (out, into) for name, out, into in declared.modules()}
    sizes = list(linear.values())
    typical = max(dict.fromkeys(sizes), key=sizes.count)
    return Modules(linear, ((declared.parameters,),), declared.parameters, typical)


def module_list(folder: Path) -> Modules | None:
    """The modules of the model in `folder`, None where it has none. Raises ModelError."""
    return _modules(folder, _stamp(folder))


@lru_cache(maxsize=16)
def _modules(folder: Path, stamp: float) -> Modules | None:
    linear = {name: (out, into) for name, out, into in module_shapes(folder)}
    if not linear:
        return None
    tensors = tuple(tensor_shapes(folder).values())
    sizes = list(linear.values())
    return Modules(linear, tensors, parameter_count(folder), max(dict.fromkeys(sizes), key=sizes.count))


def _stamp(folder: Path) -> float:
    try:
        return (folder / "config.json").stat().st_mtime
    except OSError:
        return 0.0


def estimate(store: RunStore, source: str, gpu: bool = False) -> Estimate | None:
    """The speed of this base model: as its newest finished run here had it, else reckoned from another model's, else on
    a processor from the time of a matrix product; None where nothing of the kind is known."""
    other: tuple[float, int] | None = None
    for run in store.list()[:RECENT_RUNS]:
        result = run.result()
        try:
            if result and result.get("tokens_per_second"):
                speed, size = float(result["tokens_per_second"]), int(result.get("total_parameters") or 0)
                if run.config().model.source == source:
                    return Estimate(speed, int(result.get("peak_memory_bytes") or 0))
                other = other or ((speed, size) if size else None)
        except (PlaygroundError, TypeError, ValueError):
            continue
    parameters = _parameters(source)
    if not parameters or (other is None and gpu):
        return None
    if other is not None:
        return Estimate(other[0] * other[1] / parameters, source="other run")
    return Estimate(_SHARE * _flops() / (4 * parameters), source="processor")


def beside(store: RunStore, source: str) -> tuple[int, int] | None:
    """The least and the most that recent runs of this base model held beside their tensors, in a process here; None
    where there was none."""
    found = []
    for run in store.list()[:RECENT_RUNS]:
        result = run.result() or {}
        try:
            whole, tensors = int(result.get("peak_memory_bytes") or 0), int(result.get("tensor_memory_bytes") or 0)
            if tensors and whole > tensors and run.config().model.source == source:
                found.append(whole - tensors)
        except (PlaygroundError, TypeError, ValueError):
            continue
    return (min(found), max(found)) if found else None


def _parameters(source: str) -> int:
    try:
        sizes = sizes_of(source)
    except PlaygroundError:
        return 0
    return sizes.parameters if sizes else 0


@lru_cache(maxsize=1)
def _flops() -> float:
    """Multiplications and additions a second of this processor in float32: products that take a few milliseconds."""
    side = 384
    one = np.ones((side, side), np.float32)
    one @ one
    best = min(_seconds(one) for _ in range(15))  # the best: another process may be in the way
    return 2 * side**3 / best


def _seconds(one: np.ndarray) -> float:
    begun = time.perf_counter()
    one @ one
    return max(1e-9, time.perf_counter() - begun)
