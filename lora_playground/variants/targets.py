"""Which modules of a model a variant adapts, and the highest rank for them, from names and shapes alone.

It knows no variant. Torch is imported only inside `linear_shapes`, which lists a loaded model's linear modules.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from lora_playground.errors import ConfigError

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, int]]


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """{name: (out, in)} of every linear module of a loaded model that can have an update: all but the output head and
    the modules that read pictures or sounds."""
    from lora_playground.models.catalogue import EXPERTS, NOT_TEXT, is_adaptable
    from lora_playground.models.linear import is_linear, linear_shape

    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    linear = {name: module for name, module in model.named_modules() if module is not head and is_linear(module)}
    experts = any(EXPERTS in name for name, _ in model.named_parameters())
    text = {name: module for name, module in linear.items() if not NOT_TEXT.search(name)}
    found = {name: module for name, module in text.items() if is_adaptable(name, kind, experts)}
    return {name: shape for name, module in found.items() if (shape := linear_shape(module)) is not None}


def select(shapes: Shapes, targets: Literal["all-linear"] | list[str]) -> dict[str, tuple[int, int]]:
    """The modules that `targets` names, by full name or by its last parts as PEFT matches them ('q_proj').

    Raises:
        ConfigError: a name matches nothing; the message lists the names that exist.
    """
    if targets == "all-linear":
        return dict(shapes)
    field = "variant.target_modules"
    known = sorted({name.rsplit(".", 1)[-1] for name in shapes})
    if not targets:
        raise ConfigError(field, targets, f"name at least one module; this model has {', '.join(known)}")
    chosen: dict[str, tuple[int, int]] = {}
    for target in targets:
        found = {name: shape for name, shape in shapes.items() if name == target or name.endswith("." + target)}
        if not target or not found:
            near = difflib.get_close_matches(target, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(field, target, f"this model has {', '.join(known)}{hint}")
        chosen.update(found)
    return {name: shape for name, shape in shapes.items() if name in chosen}


def short_names(selected: Iterable[str], names: Iterable[str]) -> list[str]:
    """A list of names that matches exactly `selected` among the `names` of a model's modules: the last parts of the
    selected names, or their full names if a module that is not selected has one of these last parts."""
    wanted = set(selected)
    lasts = {name.rsplit(".", 1)[-1] for name in wanted}
    if all(name in wanted for name in names if name.rsplit(".", 1)[-1] in lasts):
        return sorted(lasts)
    return sorted(wanted)


def check_rank(rank: int, selected: Shapes, field: str = "variant.rank") -> None:
    """Raises ConfigError if `rank` exceeds min(out, in) of a module: ΔW of that module cannot have such a rank."""
    if not selected:
        return
    name, shape = min(selected.items(), key=lambda item: min(item[1]))
    if rank > min(shape):
        raise ConfigError(
            field,
            rank,
            f"the smallest module, {name.rsplit('.', 1)[-1]}, is {shape[0]} × {shape[1]}, so the rank may be 1 to "
            f"{min(shape)} on this model",
        )
