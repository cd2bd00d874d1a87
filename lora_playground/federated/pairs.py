"""Sums, norms and truncation of products B·A, computed from the factors.

Plain NumPy in float64. Nothing here forms the (out, in) product, and it knows no strategy, model or file.
"""

from collections.abc import Sequence

import numpy as np

from lora_playground.analysis.low_rank import factor_svd, qr_singular_values

Pair = tuple[np.ndarray, np.ndarray]
"""(B, A) of shapes (m, k) and (k, n), standing for the (m, n) matrix B·A."""


def stack(pairs: Sequence[Pair], weights: Sequence[float] | None = None) -> Pair:
    """Σ_i w_i B_i A_i as one pair of rank Σ k_i: the w_i B_i side by side, the A_i on top of each other.

    Args:
        weights: w_i; None for all 1.
    """
    weights = [1.0] * len(pairs) if weights is None else weights
    left = np.concatenate([w * B.astype(np.float64) for (B, _), w in zip(pairs, weights, strict=True)], axis=1)
    right = np.concatenate([A.astype(np.float64) for _, A in pairs], axis=0)
    return left, right


def norm(pair: Pair) -> float:
    """‖B·A‖_F, accurate even if stacked factors cancel each other."""
    return float(np.linalg.norm(qr_singular_values(*pair)))


def compress(pair: Pair, energy: float = 1.0, tolerance: float = 1e-7) -> Pair:
    """The same product with the fewest columns: B=UΣ, A=Vᵀ.

    Args:
        energy: share of Σσ² to keep; 1 keeps every direction above the tolerance.
        tolerance: directions whose σ is below this share of σ₁ are dropped as rounding noise.

    Returns:
        A pair of rank ≥ 1 (a zero product gives one zero column).
    """
    U, sigma, Vt = factor_svd(*pair)
    keep = int(np.count_nonzero(sigma > tolerance * sigma[0])) if sigma.size and sigma[0] > 0 else 0
    if energy < 1.0 and keep:
        kept = np.cumsum(sigma**2)
        keep = min(keep, int(np.searchsorted(kept, energy * kept[-1])) + 1)
    keep = max(keep, 1)
    return U[:, :keep] * sigma[:keep], Vt[:keep]


def is_wide(pair: Pair) -> bool:
    """Whether B (m, k) and A (k, n) have k > min(m, n)."""
    (m, k), n = pair[0].shape, pair[1].shape[1]
    return bool(k > min(m, n))


def bounded(pair: Pair) -> Pair:
    """The same product with k ≤ min(m, n)."""
    return compress(pair, tolerance=0.0) if is_wide(pair) else pair
