"""How similar two adapters are, from their updates alone: the cosine of the updates, and the overlap of the directions
that they read and write. Plain NumPy; it knows no run and no data (`models.activations` compares them on data)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.subspaces import directions, random_similarity, similarity
from lora_playground.analysis.update import Update


@dataclass(frozen=True)
class Overlap:
    """The similarity of two adapters, over the modules that both change.

    Attributes:
        cosine: Σ⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖·‖ΔW₂‖), norms over all modules of each; −1 to 1.
        reads, writes: mean over modules of φ = ‖V₁ᵀV₂‖²/min(k₁, k₂) of the right and left singular directions; 0 to 1.
        reads_chance, writes_chance: expectation for random directions.
        modules: how many modules both change.
    """

    cosine: float
    reads: float
    writes: float
    reads_chance: float
    writes_chance: float
    modules: int


def inner(first: Update, second: Update) -> float:
    """⟨ΔW₁, ΔW₂⟩ of one module, from factors by traces of Gram matrices, without forming ΔW."""
    if first.B is not None and first.A is not None and second.B is not None and second.A is not None:
        left = first.B.astype(np.float64).T @ second.B.astype(np.float64)
        return float(np.sum(left * (first.A.astype(np.float64) @ second.A.astype(np.float64).T)))
    return float(np.sum(first.matrix() * second.matrix()))


def cosine(first: Iterable[Update], second: Iterable[Update]) -> float:
    """Cosine of two adapters' updates, each as one long vector; 0 if one of them is zero."""
    mine, theirs = ({update.name: update for update in updates} for updates in (first, second))
    shared = sum(inner(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())
    norms = [sum(inner(update, update) for update in side.values()) for side in (mine, theirs)]
    return float(np.clip(shared / np.sqrt(norms[0] * norms[1]), -1, 1)) if min(norms) > 0 else 0.0


def overlap(first: Iterable[Update], second: Iterable[Update], limit: int = 64) -> Overlap:
    """The cosine of two adapters and the overlap of their directions, the leading `limit` of each module."""
    mine, theirs = ({update.name: update for update in updates} for updates in (first, second))
    found: list[tuple[float, ...]] = []
    for name in sorted(mine.keys() & theirs.keys()):
        if len(mine[name].shape) != 2:
            continue
        row: list[float] = []
        for side in ("right", "left"):
            V1, V2 = (directions(update, side)[:, :limit] for update in (mine[name], theirs[name]))
            if not V1.shape[1] or not V2.shape[1]:
                break
            chance = random_similarity(V1.shape[1], V2.shape[1], V1.shape[0])[-1, -1]
            row += [float(similarity(V1, V2)[-1, -1]), float(min(chance, 1.0))]
        if len(row) == 4:
            found.append(tuple(row))
    means = np.mean(found, axis=0) if found else np.zeros(4)
    reads, reads_chance, writes, writes_chance = (float(value) for value in means)
    return Overlap(cosine(mine.values(), theirs.values()), reads, writes, reads_chance, writes_chance, len(found))
