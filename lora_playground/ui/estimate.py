"""What a run will cost, known without running it: sizes from file headers, speed from earlier runs here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import module_shapes, parameter_count, tensor_shapes
from lora_playground.runs import RunStore

RECENT_RUNS = 20
"""How many of the newest runs are looked at for a speed."""


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
    """Speed (tokens/s) and peak memory (bytes) of the newest finished run with the same base model."""

    tokens_per_second: float
    peak_memory_bytes: int


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


def estimate(store: RunStore, source: str) -> Estimate | None:
    """What the newest finished run of this base model took; None where there is none among the newest runs."""
    for run in store.list()[:RECENT_RUNS]:
        result = run.result()
        try:
            if result and result.get("tokens_per_second") and run.config().model.source == source:
                return Estimate(float(result["tokens_per_second"]), int(result.get("peak_memory_bytes") or 0))
        except (PlaygroundError, TypeError, ValueError):
            continue
    return None
