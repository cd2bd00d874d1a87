"""Compares an update with the base weight it changes: amplification, alignment, intruders, the edge of noise.

Pure functions on matrices; it knows no run, no file and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import dense_spectrum, update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError


def _fits(update: Update, W: np.ndarray) -> None:
    if update.shape != W.shape:
        raise AdapterError(
            f"{update.name}: the update is {update.shape} but the base's weight is {tuple(W.shape)}; "
            "this adapter belongs to another base model."
        )


# ------------------------------------------------------------------------------------------------- amplification


@dataclass(frozen=True)
class Amplification:
    """The rows of Table 7 of the LoRA paper (2106.09685, section 7.3) for one module.

    Attributes:
        rank: how many leading directions are used.
        update_norm: ‖ΔW‖_F.
        by_update: ‖UᵀWV‖_F with U, V the leading singular vectors of ΔW: how much of W lies where ΔW acts.
        by_base: the same with W's own leading singular vectors, √Σσᵢ²: the upper bound.
        by_random: the same with random directions, mean over draws; about ‖W‖·r/√(mn).
        factor: ‖ΔW‖_F / by_update: how strongly ΔW amplifies directions that W has but does not stress.
        factor_random: ‖ΔW‖_F / by_random, the control.
    """

    rank: int
    update_norm: float

    by_update: float
    by_base: float
    by_random: float
    factor: float
    factor_random: float


def amplification(
    update: Update, W: np.ndarray, rank: int | None = None, draws: int = 8, seed: int = 0
) -> Amplification:
    """Amplification factor of an update with its random control.

    Args:
        update: of W's shape (m, n).
        W: the pristine base weight.
        rank: leading directions used; by default the update's numerical rank, at most 64.
        draws: random subspaces averaged over; seed: of those.
    """
    _fits(update, W)
    W = np.asarray(W, dtype=np.float64)
    U, values, Vt = update_svd(update)
    used = nonzero(values)
    r = min(rank or min(used, 64), used)
    if r == 0:
        raise AdapterError(f"the update of {update.name} is still zero, so it amplifies nothing.")
    rng = np.random.default_rng(seed)
    random = []
    for _ in range(draws):
        P = np.linalg.qr(rng.standard_normal((W.shape[0], r)))[0]
        Q = np.linalg.qr(rng.standard_normal((W.shape[1], r)))[0]
        random.append(float(np.linalg.norm(P.T @ W @ Q)))
    norm = float(np.linalg.norm(values))
    by_update = float(np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T))
    by_random = float(np.mean(random))
    by_base = float(np.linalg.norm(dense_spectrum(W, values=r).values[:r]))
    tiny = np.finfo(np.float64).tiny
    factors = norm / max(by_update, tiny), norm / max(by_random, tiny)
    return Amplification(r, norm, by_update, by_base, by_random, *factors)


# ---------------------------------------------------------------------------------------------------- alignment


def alignment(update: Update, W: np.ndarray, k: int = 16, side: str = "left") -> np.ndarray:
    """|cos| between the leading k singular directions of ΔW (rows) and those of W (columns).

    Args:
        update: of W's shape; side: 'left' or 'right'.

    Returns:
        (≤k, ≤k) in [0, 1]; rows for which ΔW's σ is numerically zero are left out.
    """
    _fits(update, W)
    U, values, Vt = update_svd(update)
    used = nonzero(values)
    W = np.asarray(W, dtype=np.float64)
    own, base = (U, left_basis(W)[0]) if side == "left" else (Vt.T, left_basis(W.T)[0])
    return np.minimum(np.abs(own[:, : min(k, used)].T @ base[:, :k]), 1.0)


def left_basis(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (m, k) of W (m, n) and its singular values (k,), largest first.

    They come from a Gram matrix, several times as fast as an SVD and accurate enough for cosines. If W is nearly rank
    deficient, the SVD is used.
    """
    wide = W.shape[0] <= W.shape[1]
    squares, vectors = np.linalg.eigh(W @ W.T if wide else W.T @ W)
    squares, vectors = squares[::-1], np.ascontiguousarray(vectors[:, ::-1])
    if not squares.size or squares[-1] < 1e-12 * squares[0] or squares[0] <= 0:
        U, values, _ = np.linalg.svd(W, full_matrices=False)
        return U, values
    values = np.sqrt(squares)
    return (vectors if wide else (W @ vectors) / values), values


# ---------------------------------------------------------------------------------------------------- intruders


@dataclass(frozen=True)
class Intruders:
    """Which leading singular vectors of W + ΔW resemble none of W's (2410.21228).

    Attributes:
        cosines: (k,) largest |cos| of each leading vector of W + ΔW with any singular vector of W.
        values: (k,) its singular value in W + ΔW.
        epsilon: below this a vector counts as an intruder.
        floor: mean largest |cos| of a random vector; floor_high: its 99% quantile.
    """

    cosines: np.ndarray
    values: np.ndarray
    epsilon: float
    floor: float
    floor_high: float

    @property
    def count(self) -> int:
        """How many of the leading k vectors are intruders."""
        return int(np.sum(self.cosines < self.epsilon))


def intruders(update: Update, W: np.ndarray, k: int = 10, epsilon: float = 0.5, side: str = "left") -> Intruders:
    """Intruder dimensions of W + ΔW against W.

    Equal singular values of W leave its vectors undetermined within their subspace, which gives false positives; the
    authors' code has the same property.

    Args:
        update: of W's shape; W: pristine.
        k: how many leading vectors are examined. epsilon: threshold. The defaults are those of the authors' code.
        side: which singular vectors, 'left' or 'right'.
    """
    _fits(update, W)
    if not 0.0 <= epsilon <= 1.0:
        raise AdapterError(f"epsilon: {epsilon!r} is not allowed; it is a cosine, between 0 and 1.")
    W = np.asarray(W, dtype=np.float64)
    merged = W + update.matrix()
    if side == "right":
        W, merged = W.T, merged.T
    basis = left_basis(W)[0]
    U1, values = left_basis(merged)
    U1, values = U1[:, : max(1, k)], values[: max(1, k)]
    cosines = np.abs(basis.T @ U1).max(axis=0)
    floor, high = random_floor(basis.shape[0], basis.shape[1])
    return Intruders(np.minimum(cosines, 1.0), values, epsilon, floor, high)


@lru_cache(maxsize=64)
def random_floor(dimension: int, vectors: int) -> tuple[float, float]:
    """Mean and 99% quantile of max|cos| between a random vector and `vectors` orthonormal ones in `dimension`
    dimensions, from 400 samples. By rotational symmetry the orthonormal vectors may be coordinate axes."""
    g = np.random.default_rng(0).standard_normal((400, dimension))
    found = np.abs(g[:, :vectors]).max(axis=1) / np.linalg.norm(g, axis=1)
    return float(found.mean()), float(np.quantile(found, 0.99))


# ---------------------------------------------------------------------------------------------- edge of noise


def noise_band(shape: tuple[int, int], sigma: float) -> tuple[float, float]:
    """The interval of the singular values of pure noise: σ·[|√m−√n|, √m+√n] for an m × n matrix of iid entries with
    standard deviation σ (Marchenko and Pastur 1967).

    A null hypothesis for W or the dense ΔW of full fine-tuning, but not for s·BA, whose rank is r by construction.
    """
    root_m, root_n = np.sqrt(shape[0]), np.sqrt(shape[1])
    return float(sigma * abs(root_m - root_n)), float(sigma * (root_m + root_n))


def noise_level(values: np.ndarray, shape: tuple[int, int]) -> float:
    """Standard deviation of the noise in a matrix's entries, from the median singular value (Gavish & Donoho 2014).

    A few strong directions hardly change the median, but they would change the entries' own standard deviation.

    Args:
        values: (min(m, n),) the whole spectrum.
    """
    short, long = sorted(shape)
    if len(values) != short:
        raise AdapterError(f"a noise level needs the whole spectrum: {short} values, got {len(values)}.")
    return float(np.median(values) / (np.sqrt(long) * np.sqrt(_median_square(short / long))))


@lru_cache(maxsize=64)
def _median_square(beta: float) -> float:
    """Median of the Marchenko–Pastur distribution of ratio β ∈ (0, 1], from its cumulative density."""
    low, high = (1 - np.sqrt(beta)) ** 2, (1 + np.sqrt(beta)) ** 2
    # Substituting x = low + (high−low)·sin²θ takes both square-root edges out of the integrand.
    theta = (np.arange(200_000) + 0.5) / 200_000 * (np.pi / 2)
    x = low + (high - low) * np.sin(theta) ** 2
    density = np.sin(theta) ** 2 * np.cos(theta) ** 2 / x
    total = np.cumsum(density)
    return float(x[np.searchsorted(total, total[-1] / 2)])


def above_noise(values: np.ndarray, shape: tuple[int, int], frobenius: float | None = None) -> tuple[int, float]:
    """(how many directions of a dense update are above the edge of noise, that edge).

    Args:
        values: the whole spectrum, or its largest part.
        frobenius: ‖ΔW‖_F of the whole, needed if only a part of the spectrum is known. The noise is then taken to be
            what remains without the directions above the edge, spread evenly. If all known values are above the edge,
            there may be more.
    """
    if len(values) == min(shape):
        edge = noise_band(shape, noise_level(values, shape))[1]
        return int(np.sum(values > edge)), edge
    if frobenius is None:
        raise AdapterError(f"of {min(shape)} singular values {len(values)} are known; the norm of the whole is needed.")
    squares, count = np.asarray(values, dtype=np.float64) ** 2, 0
    while True:
        rest = max(frobenius**2 - float(squares[:count].sum()), 0.0)
        edge = noise_band(shape, np.sqrt(rest / ((shape[0] - count) * (shape[1] - count))))[1]
        found = max(count, int(np.sum(values > edge)))
        if found == count or found == len(values):
            return found, edge
        count = found
