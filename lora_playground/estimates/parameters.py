"""The modules of a base model and the number of parameters that a run trains, from file headers or declared sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.models.catalogue import folder_of, module_shapes, parameter_count, sizes_of, tensor_shapes
from lora_playground.variants import get_variant
from lora_playground.variants.targets import select

Shapes = dict[str, tuple[int, int]]
"""(out, in) of linear modules by name."""


@dataclass(frozen=True)
class Modules:
    """The linear modules of a base model.

    Attributes:
        linear: (out, in) of each, by name. tensors: shapes of all parameters; one shape (total,) where only the total
            is known. total: parameters of the whole model.
    """

    linear: Shapes
    tensors: tuple[tuple[int, ...], ...]
    total: int


def modules_of(source: str) -> Modules | None:
    """The modules of a base model, from its files or else from the sizes that the catalogue declares.

    Returns:
        None if neither is known. For errors see `catalogue.sizes_of`.
    """
    folder = folder_of(source)
    if folder is not None:
        return module_list(folder)
    declared = sizes_of(source)
    if declared is None:
        return None
    linear = {name: (out, into) for name, out, into in declared.modules()}
    return Modules(linear, ((declared.parameters,),), declared.parameters)


def module_list(folder: Path) -> Modules | None:
    """The modules of the model in `folder`; None if there is no model. Raises ModelError."""
    about = folder / "config.json"
    return _read(folder, about.stat().st_mtime if about.is_file() else 0.0)


@lru_cache(maxsize=16)
def _read(folder: Path, changed: float) -> Modules | None:
    """`changed` is the time of the folder's config.json, so that the cache does not return an earlier model."""
    linear = {name: (out, into) for name, out, into in module_shapes(folder)}
    return Modules(linear, tuple(tensor_shapes(folder).values()), parameter_count(folder)) if linear else None


def trained(config: RunConfig, modules: Modules) -> tuple[int, Shapes]:
    """(number of trained parameters, adapted modules) of a run. Raises ConfigError if the variant's options do not fit
    the model."""
    variant, options = get_variant(config.variant.name), config.variant
    targets = getattr(options, "target_modules", None)
    if targets is not None:
        adapted = select(modules.linear, targets)
        return variant.count(adapted.values(), options), adapted
    # A variant that cannot be told which modules to adapt trains all parameters, or all but the embeddings.
    whole = modules.tensors if getattr(options, "embeddings", True) else tuple(modules.linear.values())
    return variant.count(whole, options), modules.linear  # type: ignore[arg-type]
