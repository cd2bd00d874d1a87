"""Intruder dimensions of W + ΔW made weaker or stronger. Plain NumPy; it knows no run and no file.

What is scaled are singular values of W + ΔW, not of ΔW: with W + ΔW = Σ σⱼuⱼvⱼᵀ, and those j among the largest k whose
uⱼ resembles no left singular vector of W (2410.21228), W_λ = W + ΔW + (λ − 1)·Σ σⱼuⱼvⱼᵀ. λ = 1 changes nothing, λ = 0
takes those directions out of W + ΔW altogether, with what W itself has along them. PEFT's `reduce_intruder_dimension`
does the same, and then cuts the result to the adapter's rank, which is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.alignment import left_basis
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError


@dataclass(frozen=True)
class Dial:
    """The intruders of one module, ready to be scaled by any λ.

    Attributes:
        update: ΔW, unscaled. U: (m, c) the intruders' left vectors. rest: (c, n) σⱼvⱼᵀ of each.
        cosines: (c,) of each with the vector of W that is most similar to it.
    """

    update: Update
    U: np.ndarray
    rest: np.ndarray
    cosines: np.ndarray

    def at(self, factor: float) -> Update:
        """ΔW with its intruders times λ; the same Update object if λ is 1 or there are no intruders."""
        if factor == 1 or not self.U.shape[1]:
            return self.update
        B, A = (factor - 1.0) * self.U, self.rest
        if self.update.B is None or self.update.A is None:
            return Update(self.update.name, dense=(self.update.matrix() + B @ A).astype(np.float32))
        sides = np.concatenate([self.update.B, B], 1), np.concatenate([self.update.A, A], 0)
        return Update(self.update.name, *(side.astype(np.float32) for side in sides))


def dial(update: Update, W: np.ndarray, k: int = 10, epsilon: float = 0.5) -> Dial:
    """Finds the intruders of a module.

    Args:
        update: of W's shape (m, n). W: pristine.
        k: how many leading directions of W + ΔW are examined. epsilon: one with a cosine below it is an intruder. The
            defaults are those of the authors' code.
    """
    if update.shape != W.shape:
        raise AdapterError(f"{update.name}: the update is {update.shape}, the base's weight {tuple(W.shape)}.")
    W = np.asarray(W, dtype=np.float64)
    merged = W + update.matrix()
    leading = left_basis(merged)[0][:, :k]
    cosines = np.abs(left_basis(W)[0].T @ leading).max(axis=0)
    U = leading[:, cosines < epsilon]
    return Dial(update, U, U.T @ merged, cosines[cosines < epsilon])  # uᵀ(W + ΔW) = σvᵀ


def scaled_intruders(dials: Sequence[Dial], others: Sequence[Update], factor: float) -> list[Update]:
    """All updates of a run with the intruders of these modules times λ; `others` are unchanged."""
    return [one.at(factor) for one in dials] + list(others)
