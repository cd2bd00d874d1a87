"""A mixture of adapters on a base model's device: the factors once, and for each choice of weights only small cores.

It knows no run, no rows and no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from lora_playground.analysis.merging import Mixture
from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import Update
from lora_playground.errors import ModelError
from lora_playground.models.deltas import Delta, Factors
from lora_playground.models.placed_update import Placer, check_finite


class PlacedMixture:
    """The factors of all modules on the model's device, in its type.

    Args:
        model: the base model. mixture: the prepared adapters. name: for messages.

    Raises:
        ModelError: a name or a shape does not fit the model, or a number is not finite.
    """

    def __init__(self, model: nn.Module, mixture: Mixture, name: str = "mixture") -> None:
        self.name, self._mixture, self._placer = name, mixture, Placer(model, name)
        self._placed: list[list[tuple[str, Factors]] | None] = []
        modules = self._placer.modules()
        for part in mixture.parts:
            update = Update(part.name, part.B, part.A)
            check_finite(update, name)
            if isinstance(modules.get(part.name), nn.Embedding) or part.name not in modules:
                self._placed.append(None)  # made by `at`, for each choice of weights
                continue
            deltas = self._placer.place(update, modules)
            self._placed.append([(where, delta) for where, delta in deltas if isinstance(delta, Factors)])
        for dense in mixture.plain.values():
            for _, update in dense:
                check_finite(update, name)

    def at(self, weights: Sequence[float]) -> MixtureAt:
        """The mixture with these weights (one per adapter), for use by any row of a batch."""
        deltas: dict[str, list[Delta]] = {}
        left: list[Update] = self._mixture.plain_updates(weights)
        for part, placed, K in zip(self._mixture.parts, self._placed, self._mixture.cores(weights)):
            if placed is None:
                left.append(Update(part.name, part.B @ K, part.A))
                continue
            Kt = self._placer.tensor(K.T)
            for where, delta in placed:
                deltas.setdefault(where, []).append(replace(delta, Kt=Kt))
        for where, more in self._placer.all(left).items():
            deltas.setdefault(where, []).extend(more)
        return MixtureAt(self, tuple(np.asarray(weights, dtype=float)), deltas)


class MixtureAt:
    """A mixture with fixed weights; `RowUpdate` takes it in place of a `PlacedUpdate`.

    Attributes:
        family: the mixture without its weights: a check of the base treats all weights as the same adapter.
    """

    def __init__(self, family: PlacedMixture, weights: tuple[float, ...], deltas: dict[str, list[Delta]]) -> None:
        self.family, self.weights, self._deltas = family, weights, deltas

    def slice(self, truncation: Truncation | None) -> dict[str, list[Delta]]:
        """Its deltas by module name; raises ModelError if a truncation is given."""
        if truncation is not None:
            raise ModelError("A mixture cannot be cut; save it as a run and cut that.")
        return self._deltas
