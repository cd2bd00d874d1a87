"""How the directions of two updates relate: subspace similarity, principal angles, and what chance alone would give.

Works on orthonormal bases and on updates; it knows no run and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

Side = Literal["left", "right"]


def directions(update: Update, side: Side = "right", of: Literal["update", "factor"] = "update") -> np.ndarray:
    """Orthonormal singular directions of an update, strongest first.

    Args:
        update: of shape (m, n).
        side: 'right' (what the update reads, in Rⁿ) or 'left' (what it writes, in Rᵐ).
        of: 'update' takes singular vectors of ΔW = B·A; 'factor' those of A (right) or B (left) alone, as section
            7.2 of the LoRA paper (2106.09685) does. A starts at random, so its order also shows its start.

    Returns:
        (n or m, k), float64; directions whose σ is numerically zero are left out.
    """
    if of == "factor":
        if update.A is None or update.B is None:
            raise AdapterError(f"{update.name} has no factors; compare the directions of the update itself.")
        factor = np.asarray(update.A if side == "right" else update.B.T, dtype=np.float64)
        _, values, Vt = np.linalg.svd(factor, full_matrices=False)
        return Vt[: nonzero(values)].T
    U, values, Vt = update_svd(update)
    return (Vt.T if side == "right" else U)[:, : nonzero(values)]


def similarity(V1: np.ndarray, V2: np.ndarray) -> np.ndarray:
    """φ(i, j) = ‖V₁ᵢᵀV₂ⱼ‖_F² / min(i, j) for all pairs of leading subspaces (2106.09685, section 7.2).

    Args:
        V1: (n, k₁); V2: (n, k₂), orthonormal columns, strongest first.

    Returns:
        (k₁, k₂), entry [i−1, j−1] = φ(i, j) in [0, 1]: 1 where the smaller lies within the larger.
    """
    _same_space(V1, V2)
    squares = (V1.T @ V2) ** 2
    sums = squares.cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(sums.shape) + 1
    return np.clip(sums / np.minimum(i, j), 0.0, 1.0)


def random_similarity(k1: int, k2: int, n: int) -> np.ndarray:
    """(k₁, k₂): φ expected of independent random subspaces of Rⁿ, max(i, j)/n."""
    i, j = np.indices((k1, k2)) + 1
    return np.maximum(i, j) / n


def principal_angles(V1: np.ndarray, V2: np.ndarray) -> np.ndarray:
    """Angles between two subspaces in degrees, smallest first (Björck & Golub 1973).

    Small angles come from sines, large ones from cosines, so both ends are accurate.

    Args:
        V1: (n, k₁); V2: (n, k₂), orthonormal columns.

    Returns:
        (min(k₁, k₂),)
    """
    _same_space(V1, V2)
    if V1.shape[1] < V2.shape[1]:
        V1, V2 = V2, V1
    cosines = np.linalg.svd(V1.T @ V2, compute_uv=False)
    sines = np.linalg.svd(V2 - V1 @ (V1.T @ V2), compute_uv=False)[::-1]
    angles = np.where(cosines**2 < 0.5, np.arccos(np.clip(cosines, 0, 1)), np.arcsin(np.clip(sines, 0, 1)))
    return np.degrees(angles)


def _same_space(V1: np.ndarray, V2: np.ndarray) -> None:
    if V1.ndim != 2 or V2.ndim != 2 or V1.shape[0] != V2.shape[0]:
        raise AdapterError(
            f"directions of shapes {V1.shape} and {V2.shape} live in different spaces; "
            "both adapters must belong to the same base model."
        )


@dataclass(frozen=True)
class Comparison:
    """The comparison of two updates of one module.

    Attributes:
        similarity: φ(i, j), (k₁, k₂).
        chance: φ expected of random subspaces, (k₁, k₂).
        angles: principal angles between the leading min(k₁, k₂) directions of both, degrees.
    """

    similarity: np.ndarray
    chance: np.ndarray
    angles: np.ndarray


def compare(
    first: Update, second: Update, side: Side = "right", of: Literal["update", "factor"] = "update", limit: int = 64
) -> Comparison:
    """Compares two updates of one module by the leading `limit` directions of each.

    Args:
        side, of: as for `directions`.

    Raises:
        AdapterError: shapes differ (another base model), or an update is still zero.
    """
    if first.shape != second.shape:
        raise AdapterError(
            f"{first.name} is {first.shape} in one adapter and {second.shape} in the other; "
            "both must belong to the same base model."
        )
    V1, V2 = (directions(update, side, of)[:, :limit] for update in (first, second))
    if not V1.shape[1] or not V2.shape[1]:
        raise AdapterError(f"an update of {first.name} is still zero, so it has no directions to compare.")
    k = min(V1.shape[1], V2.shape[1])
    chance = random_similarity(V1.shape[1], V2.shape[1], V1.shape[0])
    return Comparison(similarity(V1, V2), np.minimum(chance, 1.0), principal_angles(V1[:, :k], V2[:, :k]))
