"""Linear algebra on low-rank factors: stacks, products' singular values and norms from the small core only.

Plain NumPy in float64. No function here forms an (out, in) matrix, and it knows no strategy, model or file.
"""

from collections.abc import Sequence

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
"""(B, A) of shapes (m, k) and (k, n), standing for the (m, n) matrix B·A."""


def stack(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """Σ_i w_i B_i A_i as one pair of rank Σ k_i: B's side by side, A's on top of each other, weights on the B side."""
    left = np.concatenate([w * B.astype(np.float64) for (B, _), w in zip(pairs, weights, strict=True)], axis=1)
    right = np.concatenate([A.astype(np.float64) for _, A in pairs], axis=0)
    return left, right


def difference(one: Pair, other: Pair) -> Pair:
    """B₁A₁ − B₂A₂ as a pair."""
    return stack([one, other], [1.0, -1.0])


def svd(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (m, q), σ (q,) descending, Vᵀ (q, n) of B·A with q = min(k, m, n), by QR of both factors and SVD of the core.

    U and V have orthonormal columns also where B·A has a lower rank than q.
    """
    B, A = (np.asarray(part, dtype=np.float64) for part in pair)
    Q_b, R_b = np.linalg.qr(B)
    Q_a, R_a = np.linalg.qr(A.T)
    U, sigma, Vt = np.linalg.svd(R_b @ R_a.T, full_matrices=False)
    return Q_b @ U, sigma, Vt @ Q_a.T


def singular_values(pair: Pair) -> np.ndarray:
    """Singular values of B·A, descending, min(k, m, n) of them."""
    return np.linalg.svd(_core(pair), compute_uv=False)


def norm(pair: Pair) -> float:
    """‖B·A‖_F from the R factors of B and Aᵀ; keeps full accuracy where stacked factors cancel."""
    return float(np.linalg.norm(_core(pair)))


def _core(pair: Pair) -> np.ndarray:
    """R_b R_aᵀ, which has the singular values of B·A."""
    B, A = (np.asarray(part, dtype=np.float64) for part in pair)
    R_b: np.ndarray = np.linalg.qr(B, mode="r")  # type: ignore[assignment]
    R_a: np.ndarray = np.linalg.qr(A.T, mode="r")  # type: ignore[assignment]
    return R_b @ R_a.T


def compress(pair: Pair, energy: float = 1.0, tolerance: float = 1e-7) -> Pair:
    """The same product with the fewest columns: B=UΣ, A=Vᵀ.

    Args:
        energy: share of Σσ² to keep; 1 keeps every direction above the tolerance.
        tolerance: directions below this share of σ₁ count as rounding noise.

    Returns:
        A pair of rank ≥ 1 (a zero product gives one zero column).
    """
    U, sigma, Vt = svd(pair)
    keep = int(np.count_nonzero(sigma > tolerance * sigma[0])) if sigma.size and sigma[0] > 0 else 0
    if energy < 1.0 and keep:
        kept = np.cumsum(sigma**2)
        keep = min(keep, int(np.searchsorted(kept, energy * kept[-1])) + 1)
    keep = max(keep, 1)
    return U[:, :keep] * sigma[:keep], Vt[:keep]


def sketch_svd(matrix: np.ndarray, rank: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading `rank` singular triples of a dense matrix by a randomised range finder with two power iterations
    (Halko, Martinsson, Tropp 2011): products with thin matrices and the SVD of a small core, no dense SVD."""
    m, n = matrix.shape
    matrix = matrix.astype(np.float64)
    width = min(rank + 8, m, n)
    Q = np.linalg.qr(matrix @ rng.standard_normal((n, width)))[0]
    for _ in range(2):
        Q = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ Q)[0])[0]
    U, sigma, Vt = svd((Q, Q.T @ matrix))
    return U[:, :rank], sigma[:rank], Vt[:rank]
