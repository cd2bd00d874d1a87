"""Singular value decompositions of low-rank products and of large dense matrices, without a dense decomposition.

A product B·A (m, n) is never formed. The fast path takes the eigenvalues of both factors' Gram matrices in float64, the
accurate one a QR decomposition of both factors and an SVD of the small core. Plain NumPy; knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lora_playground.errors import AdapterError

# Gram matrices square the singular values, so the error of the fast path is about sqrt(eps)·‖B‖‖A‖ = 1.5e-8·‖B‖‖A‖. Up
# to this ratio ‖B‖‖A‖ / σ₁ that stays below 1e-6·σ₁ with a margin; beyond it (PiSSA's BA − B₀A₀) QR takes over.
_CANCELLATION = 12.0


def factor_singular_values(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Singular values of B·A without forming it, batched.

    Args:
        B: (..., m, r); A: (..., r, n); any float type.

    Returns:
        (..., min(m, r, n)), descending, float64; within 1e-6·σ₁ of a dense fp64 SVD.

    With BᵀB = QΛQᵀ and C = Λ^½·Qᵀ they are the square roots of the eigenvalues of C(AAᵀ)Cᵀ. Where the factors are much
    larger than their product, `qr_singular_values` is used instead.
    """
    B, A = _as_factors(B, A)
    keep = min(B.shape[-2], B.shape[-1], A.shape[-1])
    gram_b = np.swapaxes(B, -1, -2) @ B
    gram_a = A @ np.swapaxes(A, -1, -2)
    eig_b, Q = np.linalg.eigh(gram_b)
    C = np.sqrt(np.clip(eig_b, 0.0, None))[..., :, None] * np.swapaxes(Q, -1, -2)
    core = C @ gram_a @ np.swapaxes(C, -1, -2)
    squares = np.linalg.eigvalsh((core + np.swapaxes(core, -1, -2)) / 2)
    values = np.sqrt(np.clip(squares, 0.0, None))[..., ::-1][..., :keep]
    # ‖B‖ is the root of the largest eigenvalue of BᵀB; the Frobenius norm of AAᵀ bounds ‖A‖² from above.
    norm_a = np.sqrt(np.linalg.norm(gram_a, axis=(-2, -1)))
    product = np.sqrt(np.clip(eig_b[..., -1], 0.0, None)) * norm_a
    doubtful = product > _CANCELLATION * values[..., 0]
    if np.any(doubtful & (product > 0)):
        values = np.array(values)
        for index in np.argwhere(doubtful & (product > 0)):
            where = tuple(index)
            values[where] = qr_singular_values(B[where], A[where])
    return np.ascontiguousarray(values)


def qr_singular_values(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    """As `factor_singular_values`, by QR of both factors and an SVD of the core: slower, accurate to eps·‖B‖‖A‖.

    Args:
        B: (..., m, r); A: (..., r, n).
    """
    B, A = _as_factors(B, A)
    R_b = np.linalg.qr(B, mode="r")
    R_a = np.linalg.qr(np.swapaxes(A, -1, -2), mode="r")
    return np.linalg.svd(R_b @ np.swapaxes(R_a, -1, -2), compute_uv=False)


def factor_svd(B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin SVD of B·A without forming it.

    Args:
        B: (m, r); A: (r, n).

    Returns:
        U (m, k), σ (k,), Vᵀ (k, n) with k = min(m, r, n) and B·A = U·diag(σ)·Vᵀ; float64.
    """
    B, A = _as_factors(B, A)
    Q_b, R_b = np.linalg.qr(B)
    Q_a, R_a = np.linalg.qr(A.T)
    U, values, Vt = np.linalg.svd(R_b @ R_a.T, full_matrices=False)
    return Q_b @ U, values, Vt @ Q_a.T


def _as_factors(B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    B, A = np.asarray(B, dtype=np.float64), np.asarray(A, dtype=np.float64)
    if B.ndim < 2 or A.ndim < 2 or B.shape[-1] != A.shape[-2]:
        raise AdapterError(
            f"factors of shapes {B.shape} and {A.shape} do not fit together; B must be (out, r) and A (r, in)."
        )
    return B, A


def sketched_svd(
    matrix: np.ndarray, rank: int, rng: np.random.Generator, extra: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading `rank` singular triples U (m, k), σ (k,), Vᵀ (k, n) of a dense matrix, by a randomised range
    finder with two power iterations (Halko, Martinsson, Tropp 2011).

    Args:
        matrix: (m, n), float32 or float64; a float32 matrix is never copied whole.
        extra: how many more directions are sketched, for accuracy.
    """
    M = np.asarray(matrix)
    width = min(rank + extra, *M.shape)
    Q = np.linalg.qr(times(M, rng.standard_normal((M.shape[1], width))))[0]
    for _ in range(2):
        Q = np.linalg.qr(times(M.T, Q))[0]
        Q = np.linalg.qr(times(M, Q))[0]
    U, values, Vt = np.linalg.svd(times(M.T, Q).T, full_matrices=False)
    return Q @ U[:, :rank], values[:rank], Vt[:rank]


def times(M: np.ndarray, X: np.ndarray, rows: int = 2048) -> np.ndarray:
    """M·X in float64, converting `rows` rows of M at a time."""
    if M.dtype == np.float64:
        return M @ X
    return np.concatenate([M[i : i + rows].astype(np.float64) @ X for i in range(0, M.shape[0], rows)])


def nonzero(values: np.ndarray) -> int:
    """How many of these singular values, largest first, exceed the rounding error."""
    return int(np.sum(values > 1e-7 * values[0])) if values.size and values[0] > 0 else 0


def cut_to_ranks(matrices: Sequence[np.ndarray], ranks: Sequence[int | None]) -> list[np.ndarray]:
    """The best approximations of small matrices (m, n) by these ranks, float64; for rank None the matrix itself.

    Matrices of one shape and rank are computed together: M·VVᵀ, with V the leading eigenvectors of MᵀM, takes half the
    time of an SVD. Two threads take a half of them each, since NumPy computes eigenvectors on one.
    """
    made, alike = list(matrices), dict[tuple[int, ...], list[int]]()
    for number, (M, rank) in enumerate(zip(matrices, ranks)):
        if rank is not None and rank < min(M.shape):
            alike.setdefault((rank, *M.shape), []).append(number)
    with ThreadPoolExecutor(2) as threads:
        for (rank, *_), numbers in alike.items():
            M = np.stack([np.asarray(matrices[number], dtype=np.float64) for number in numbers])
            halves = threads.map(_cut, np.array_split(M, 2), (rank, rank))
            for number, cut in zip(numbers, np.concatenate(list(halves))):
                made[number] = cut
    return made


def _cut(M: np.ndarray, rank: int) -> np.ndarray:
    """The best approximations by `rank` of matrices (k, m, n)."""
    V = np.linalg.eigh(np.swapaxes(M, 1, 2) @ M)[1][:, :, -rank:]
    return M @ V @ np.swapaxes(V, 1, 2)
