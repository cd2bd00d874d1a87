"""How similar the updates of several runs are, and a plane in which similar ones lie close. Plain NumPy; knows no run.

Inner products are traces of small products, ⟨B₁A₁, B₂A₂⟩ = tr(A₁ᵀB₁ᵀB₂A₂) = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), so no ΔW that has
factors is ever formed. The mean of the group is subtracted before the plane is chosen (arXiv 2604.08844).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora_playground.analysis.update import Update


def inner_products(runs: Sequence[Sequence[Update]]) -> np.ndarray:
    """(n, n): ⟨ΔW_i, ΔW_j⟩ over all modules; a module that a run does not have counts as zero."""
    gram = np.zeros((len(runs), len(runs)))
    for name in dict.fromkeys(update.name for updates in runs for update in updates):
        found = [(place, update) for place, updates in enumerate(runs) for update in updates if update.name == name]
        factored = [(place, update) for place, update in found if update.factored]
        dense = [(place, update) for place, update in found if not update.factored]
        _add_factored(gram, factored)
        for number, (i, one) in enumerate(dense):
            whole = one.matrix()
            for j, other in dense[number:]:
                if other.shape == one.shape:
                    _add(gram, i, j, float(np.vdot(whole, other.matrix())))
            for j, other in factored:
                if other.shape == one.shape:
                    _add(gram, i, j, float(np.sum((_B(other).T @ whole) * _A(other))))
    return gram


def _add_factored(gram: np.ndarray, found: Sequence[tuple[int, Update]]) -> None:
    """All pairs of one module at once: the sums of the blocks of (BᵀB) ∘ (AAᵀ) of the factors side by side."""
    for shape in dict.fromkeys(update.shape for _, update in found):
        here = [(place, update) for place, update in found if update.shape == shape]
        places = [place for place, _ in here]
        B = np.concatenate([_B(update) for _, update in here], axis=1)
        A = np.concatenate([_A(update) for _, update in here], axis=0)
        starts = np.cumsum([0, *(_A(update).shape[0] for _, update in here[:-1])])
        blocks = np.add.reduceat(np.add.reduceat((B.T @ B) * (A @ A.T), starts, axis=0), starts, axis=1)
        gram[np.ix_(places, places)] += blocks


def cosines(gram: np.ndarray) -> np.ndarray:
    """(n, n) cosines from inner products (n, n); 0 with an update that is zero, 1 on the diagonal."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    size = np.outer(norms, norms)
    found = np.divide(gram, size, out=np.zeros_like(gram), where=size > 0)
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)


def plane(similar: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates in a plane from cosines: the two principal axes of the unit updates, their mean subtracted.

    Args:
        similar: (n, n) cosines.

    Returns:
        (n, 2), in which two runs are at most √(2 − 2 cos) apart; and the share of all squared distances that the plane
        shows, 0 to 1 (1.0 if all are zero).
    """
    n = len(similar)
    centre = np.eye(n) - 1.0 / max(1, n)
    values, vectors = np.linalg.eigh(centre @ similar @ centre)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    kept = np.zeros((n, 2))
    count = min(2, n)
    kept[:, :count] = vectors[:, :count] * np.sqrt(values[:count])
    for axis in range(count):  # the sign is free: the largest entry points up
        if kept[np.argmax(np.abs(kept[:, axis])), axis] < 0:
            kept[:, axis] *= -1
    total = float(values.sum())
    return kept, float(values[:2].sum()) / total if total > 1e-12 else 1.0


def _add(gram: np.ndarray, i: int, j: int, value: float) -> None:
    gram[i, j] += value
    if i != j:
        gram[j, i] += value


def _B(update: Update) -> np.ndarray:
    assert update.B is not None
    return update.B.astype(np.float64)


def _A(update: Update) -> np.ndarray:
    assert update.A is not None
    return update.A.astype(np.float64)
