"""A run's update on a base model's device: every ΔW as tensors for the module it acts on, whole or truncated.

W is only read. It knows nothing of batches, rows or tokens.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_playground.analysis.truncation import Decomposition, Truncation
from lora_playground.analysis.update import Update
from lora_playground.errors import ModelError
from lora_playground.models.deltas import Bias, Delta, Dense, Factors, Parameters, Table
from lora_playground.models.linear import is_conv1d, linear_shape

SLICES = 6
"""How many truncations of one update are kept as tensors, including the whole update."""


def unwrapped(model: Any) -> Any:
    """The base model's own object, even if PEFT has wrapped it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by the base model's own names, even if PEFT has wrapped it."""
    return dict(unwrapped(model).named_modules(remove_duplicate=False))


class PlacedUpdate:
    """All updates of one run as tensors on the model's device and in its dtype, for use by any row of a batch.

    Args:
        model: the base model; names of the updates are looked up in it.
        updates: ΔW per module or parameter (`analysis.update.Update`).
        name: for messages.

    Raises:
        ModelError: a name or a shape does not fit the model, or a number is not finite.
    """

    def __init__(self, model: nn.Module, updates: Sequence[Update], name: str = "adapter") -> None:
        self.name = name
        self.placer = Placer(model, name)
        self._decomposition = Decomposition(updates)
        self._lock = threading.Lock()
        self._slices: OrderedDict[Truncation | None, dict[str, list[Delta]]] = OrderedDict()
        for update in self._decomposition.updates:
            check_finite(update, name)
        self.slice(None)

    @property
    def updates(self) -> list[Update]:
        """The whole updates, not truncated."""
        return self._decomposition.updates

    @property
    def family(self) -> object:
        """Identifies the adapter in a check of the base: the object itself."""
        return self

    def slice(self, truncation: Truncation | None) -> dict[str, list[Delta]]:
        """Deltas by module name, of the singular directions of each ΔW that `truncation` keeps; None keeps all.

        A ΔW of which all directions are kept is unchanged, bit for bit. The first call for a truncation may take the
        time of a decomposition. Any thread may call.
        """
        with self._lock:
            if truncation not in self._slices:
                self._slices[truncation] = self._placed(truncation or Truncation())
            self._slices.move_to_end(truncation)
            if len(self._slices) > SLICES:
                self._slices.pop(next(key for key in self._slices if key is not None))
            return self._slices[truncation]

    def _placed(self, truncation: Truncation) -> dict[str, list[Delta]]:
        return self.placer.all(self._decomposition.truncate(truncation))


def check_finite(update: Update, name: str) -> None:
    """Raises ModelError if an update has NaN or Inf."""
    for array in (update.B, update.A, update.dense):
        if array is not None and not np.isfinite(array).all():
            raise ModelError(
                f"{name}: the update of {update.name} holds numbers that are not finite; "
                "it cannot be used. Train again with a lower learning rate."
            )


class Placer:
    """Finds the modules that updates act on, and converts updates to tensors on the model's device in its dtype.

    Args:
        model: the base model; names of the updates are looked up in it.
        name: for messages.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name = name
        self._model = model
        reference = next(p for p in model.parameters() if p.is_floating_point())
        self.device, self.dtype = reference.device, reference.dtype

    def all(self, updates: Iterable[Update]) -> dict[str, list[Delta]]:
        """Deltas by module name; raises ModelError if an update does not fit."""
        placed: dict[str, list[Delta]] = {}
        modules = self.modules()
        for update in updates:
            for module_name, delta in self.place(update, modules):
                deltas = placed.setdefault(module_name, [])
                if deltas and isinstance(delta, Parameters) and isinstance(deltas[-1], Parameters):
                    deltas[-1].changes.update(delta.changes)  # one call of the module for all its parameters
                else:
                    deltas.append(delta)
        return placed

    def modules(self) -> dict[str, nn.Module]:
        """The model's modules by name."""
        return named_modules(self._model)

    def place(self, update: Update, modules: dict[str, nn.Module]) -> Iterator[tuple[str, Delta]]:
        """(module name, delta) of the module that an update acts on, or of all that share the parameter."""
        if update.name in modules:
            module = modules[update.name]
            if linear_shape(module):
                yield update.name, self._linear(update, module, transposed=False)
            elif isinstance(module, nn.Embedding):
                yield update.name, self._table(update, module)
            else:
                raise ModelError(
                    f"{self.name}: {update.name} is a {type(module).__name__}; only linear modules, "
                    "embeddings and single parameters can have an update."
                )
            return
        owner, _, leaf = update.name.rpartition(".")
        parameter: Any = getattr(modules.get(owner), leaf, None)
        if not isinstance(parameter, torch.Tensor):
            raise ModelError(
                f"{self.name}: the base model has no module or parameter '{update.name}'; "
                "this adapter was made for another base model."
            )
        for module_name, module in modules.items():
            if getattr(module, leaf, None) is not parameter:
                continue
            if linear_shape(module) and leaf == "weight":
                yield module_name, self._linear(update, module, transposed=is_conv1d(module))
            elif isinstance(module, nn.Embedding) and leaf == "weight":
                yield module_name, self._table(update, module)
            else:
                if update.shape != tuple(parameter.shape):  # type: ignore[union-attr]
                    raise self._misfit(update, tuple(parameter.shape))  # type: ignore[union-attr]
                vector = self.tensor(update.matrix())
                if linear_shape(module) and leaf == "bias":
                    yield module_name, Bias(vector)
                else:
                    yield module_name, Parameters({leaf: vector})

    def _linear(self, update: Update, module: nn.Module, transposed: bool) -> Delta:
        """`transposed`: the update is in the layout of a Conv1D's parameter, (in, out)."""
        out_in = linear_shape(module)
        assert out_in is not None
        if (update.shape[::-1] if transposed else update.shape) != out_in:
            raise self._misfit(update, out_in)
        if update.B is not None and update.A is not None:
            At, Bt = (update.B, update.A) if transposed else (update.A.T, update.B.T)
            return Factors(self.tensor(At), self.tensor(Bt))
        assert update.dense is not None
        return Dense(self.tensor(update.dense if transposed else update.dense.T))

    def _table(self, update: Update, module: nn.Embedding) -> Delta:
        shape = tuple(module.weight.shape)  # type: ignore[union-attr]
        if update.shape != shape:
            raise self._misfit(update, shape)
        return Table(self.tensor(update.matrix()))

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A copy on the model's device, in its dtype."""
        return torch.tensor(np.ascontiguousarray(array), dtype=self.dtype, device=self.device)

    def _misfit(self, update: Update, shape: tuple[int, ...]) -> ModelError:
        return ModelError(
            f"{self.name}: the update of {update.name} has shape {update.shape}, the base model's is {shape}; "
            "this adapter was made for another base model."
        )
