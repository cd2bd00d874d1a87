"""What is known of a base model without loading it: its modules from file headers, what runs of it held here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import folder_of, module_shapes, parameter_count, sizes_of, tensor_shapes
from lora_playground.runs import RunStore

RECENT_RUNS = 20
"""How many of the newest runs are looked at."""


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
