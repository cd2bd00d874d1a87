"""Mixtures of adapters: for every module ΔW(w) = B·K(w)·A, with two factors that do not depend on the weights w and a
small core that alone does, so that another weight costs next to nothing. Plain NumPy; it knows no run and no model.

ΔW (m × n) is formed nowhere, except where an adapter is dense itself. `linear`, `ties`, `dare` and `dare_ties` work on
the entries of the factors, as PEFT's `add_weighted_adapter` does; `core_*` and `knots` on coordinates that the adapters
share.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.low_rank import cut_to_ranks, nonzero
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError, ConfigError

MOST = 4
"""The most adapters that are mixed."""

Core = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Part:
    """One module of a mixture.

    Attributes:
        name: the module's.
        B, A: (m, k_b) and (k_a, n), the same for all weights.
        core: w (T,) → K (k_b, k_a), with ΔW(w) = B·K·A.
        rank: to which K is cut; then B and Aᵀ have orthonormal columns. None if it is not.
    """

    name: str
    B: np.ndarray
    A: np.ndarray
    core: Core
    rank: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How adapters are mixed.

    Attributes:
        method: a name in METHODS.
        density: share of the entries that TIES and DARE keep.
        rank: of the mixture, for `svd`; None takes the largest of the adapters' ranks.
        seed: of DARE's choice.
    """

    method: str = "sum"
    density: float = 0.5
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError("method", self.method, f"choose one of {', '.join(METHODS)}")
        if isinstance(self.density, bool) or not 0.0 < self.density <= 1.0:
            raise ConfigError("density", self.density, "it is a share of the entries, above 0 and up to 1")
        if self.rank is not None and (isinstance(self.rank, bool) or self.rank < 1):
            raise ConfigError("rank", self.rank, "it is a whole number of at least 1")


Factors = list[tuple[int, np.ndarray, np.ndarray]]
"""(index of the adapter, B (m, r), A (r, n)) of those adapters that change a module."""


@dataclass(frozen=True)
class _Module:
    """One module of T adapters, the input of a method."""

    name: str
    factors: Factors
    count: int

    def random(self, seed: int, index: int, side: int) -> np.random.Generator:
        """A generator of its own for every module, adapter and factor, the same in every process."""
        return np.random.default_rng([seed, zlib.crc32(self.name.encode()), index, side])

    def stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """[B₁ … B_T] (m, Σr) and [A₁; …; A_T] (Σr, n)."""
        return np.concatenate([B for _, B, _ in self.factors], 1), np.concatenate([A for _, _, A in self.factors], 0)

    def cores(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """U (m, k), V (n, k'), [Mᵢ]: ΔWᵢ = U·Mᵢ·Vᵀ in the bases of core space (2509.17786, section 4): the left
        singular vectors of the stacked B and the right ones of the stacked A; nothing of any ΔWᵢ is lost."""
        B, A = (np.asarray(factor, dtype=np.float64) for factor in self.stacked())
        U, V = _basis(B), _basis(A.T)
        cores = [(U.T @ B.astype(np.float64)) @ (A.astype(np.float64) @ V) for _, B, A in self.factors]
        return U, V, cores

    def weights(self, w: np.ndarray) -> np.ndarray:
        """The weights of the adapters that change this module."""
        return np.asarray([w[index] for index, _, _ in self.factors], dtype=np.float64)


def _basis(X: np.ndarray) -> np.ndarray:
    """Left singular vectors of X (m, k) that belong to no zero singular value; (m, ≤k)."""
    Q, R = np.linalg.qr(X)
    U, values, _ = np.linalg.svd(R)
    return Q @ U[:, : max(1, nonzero(values))]


# ------------------------------------------------------------------------------------------------- entries


def trimmed(X: np.ndarray, density: float) -> np.ndarray:
    """X with only the largest int(density · size) entries by magnitude (2306.01708, section 3.1); others are 0."""
    keep = int(density * X.size)
    flat = np.zeros(X.size, dtype=X.dtype)
    if keep:
        kept = np.argpartition(np.abs(X), X.size - keep, axis=None)[X.size - keep :]
        flat[kept] = X.reshape(-1)[kept]
    return flat.reshape(X.shape)


def dropped(X: np.ndarray, density: float, random: np.random.Generator) -> np.ndarray:
    """X with each entry kept with probability `density` and divided by it (DARE, 2311.03099)."""
    return np.where(random.random(X.shape) < density, X / density, 0).astype(X.dtype)


def elected(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sets entries whose sign is not the elected one to 0 and divides the others by how many agree (TIES, 2306.01708).

    The elected sign is that of the sum before weights, as in PEFT.
    """
    stacked = np.stack(parts)
    majority = np.where(stacked.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(stacked) == majority
    return list(stacked * agree / np.maximum(agree.sum(axis=0), 1))


# -------------------------------------------------------------------------------------------------- methods


def _sum(module: _Module, recipe: Recipe, divided: bool = False) -> Part:
    B, A = module.stacked()
    ranks = [B.shape[1] for _, B, _ in module.factors]
    share = module.count if divided else 1
    return Part(module.name, B, A, lambda w: np.diag(np.repeat(module.weights(w), ranks)) / share)


def _mean(module: _Module, recipe: Recipe) -> Part:
    return _sum(module, recipe, divided=True)


def _svd(module: _Module, recipe: Recipe) -> Part:
    U, V, cores = module.cores()
    rank = recipe.rank or max(B.shape[1] for _, B, _ in module.factors)
    return Part(module.name, U, V.T, _mixed(module, cores), rank)


def _mixed(module: _Module, cores: Sequence[np.ndarray]) -> Core:
    """w → Σ wᵢMᵢ."""
    stacked = np.stack(cores)
    return lambda w: np.tensordot(module.weights(w), stacked, axes=1)


Change = Callable[[Sequence[np.ndarray], int], list[np.ndarray]]
"""(the same factor of all adapters, 0 for B or 1 for A) → the changed factors."""


def _of_factors(module: _Module, change: Change) -> Part:
    """ΔW = (Σ√|wᵢ|·B̃ᵢ)(Σ±√|wᵢ|·Ãᵢ), with the weights' signs on A as in PEFT; `change` makes the factors B̃ and Ã."""
    ranks = {B.shape[1] for _, B, _ in module.factors}
    if len(ranks) > 1:
        shown = ", ".join(map(str, sorted(ranks)))
        raise AdapterError(
            f"{module.name}: the adapters have ranks {shown}; methods on the entries of the factors need one rank. "
            "Take core_ties, core_dare, knots, svd or sum."
        )
    Bs, As = (change(parts, side) for side, parts in enumerate(zip(*((B, A) for _, B, A in module.factors))))
    rank = ranks.pop()

    def core(w: np.ndarray) -> np.ndarray:
        own = module.weights(w)
        root = np.sqrt(np.abs(own))
        return np.kron(np.outer(root, root * np.where(own < 0, -1, 1)), np.eye(rank))

    return Part(module.name, np.concatenate(Bs, 1), np.concatenate(As, 0), core)


def _linear(module: _Module, recipe: Recipe) -> Part:
    return _of_factors(module, lambda parts, side: list(parts))


def _ties(module: _Module, recipe: Recipe) -> Part:
    return _of_factors(module, lambda parts, side: elected([trimmed(X, recipe.density) for X in parts]))


def _dared(module: _Module, recipe: Recipe, parts: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    indices = [index for index, _, _ in module.factors]
    randoms = [module.random(recipe.seed, index, side) for index in indices]
    return [dropped(X, recipe.density, random) for X, random in zip(parts, randoms)]


def _dare(module: _Module, recipe: Recipe) -> Part:
    return _of_factors(module, lambda parts, side: _dared(module, recipe, parts, side))


def _dare_ties(module: _Module, recipe: Recipe) -> Part:
    return _of_factors(module, lambda parts, side: elected(_dared(module, recipe, parts, side)))


def _core_ties(module: _Module, recipe: Recipe) -> Part:
    U, V, cores = module.cores()
    left = elected([trimmed(core, recipe.density) for core in cores])
    return Part(module.name, U, V.T, _mixed(module, left))


def _core_dare(module: _Module, recipe: Recipe) -> Part:
    U, V, cores = module.cores()
    left = _dared(module, recipe, cores, 2)
    return Part(module.name, U, V.T, _mixed(module, left))


def _knots(module: _Module, recipe: Recipe) -> Part:
    """KnOTS with TIES (2410.19735): [ΔW₁ … ΔW_T] = U·Σ·[V₁ᵀ … V_Tᵀ], TIES on the ΣVᵢᵀ (k, n), ΔW = U·merged.

    With ΔWᵢ = P·Mᵢ·Qᵀ the decomposition is that of the small [M₁ … M_T].
    """
    P, Q, cores = module.cores()
    left, values, right = np.linalg.svd(np.concatenate(cores, 1), full_matrices=False)
    k = max(1, nonzero(values))
    pieces = np.split(values[:k, None] * right[:k], len(cores), axis=1)
    merged = elected([trimmed(piece @ Q.T, recipe.density) for piece in pieces])
    return Part(
        module.name, P @ left[:, :k], np.concatenate(merged, 0), lambda w: np.kron(module.weights(w), np.eye(k))
    )


@dataclass(frozen=True)
class Method:
    """A way to mix.

    Attributes:
        label, sentence: its name and explanation for the user.
        prepare: makes a `Part` of one module.
        options: fields of `Recipe` that it reads.
        dense: whether it accepts adapters with dense updates too.
        peft: PEFT's `combination_type` with the same result, or ''.
    """

    label: str
    sentence: str
    prepare: Callable[[_Module, Recipe], Part]
    options: tuple[str, ...] = ()
    dense: bool = False
    peft: str = ""


METHODS: dict[str, Method] = {
    "sum": Method("Sum", "w₁ΔW₁ + w₂ΔW₂ + …, exactly.", _sum, dense=True, peft="cat"),
    "mean": Method("Mean", "The sum, divided by the number of adapters.", _mean, dense=True),
    "svd": Method("SVD", "The sum, cut to the strongest directions.", _svd, ("rank",), peft="svd"),
    "linear": Method("Linear", "Mixes A with A and B with B, which adds cross terms.", _linear, peft="linear"),
    "ties": Method(
        "TIES on factors", "Keeps the largest entries of A and B, elects a sign for each.", _ties, ("density",),
        peft="ties",
    ),
    "dare": Method(
        "DARE on factors", "Drops entries of A and B by chance, enlarges the rest.", _dare, ("density", "seed"),
        peft="dare_linear",
    ),
    "dare_ties": Method(
        "DARE, then TIES", "Drops entries by chance, then elects signs.", _dare_ties, ("density", "seed"),
        peft="dare_ties",
    ),
    "core_ties": Method(
        "TIES in core space", "TIES where all adapters share their coordinates; any ranks.", _core_ties, ("density",)
    ),
    "core_dare": Method(
        "DARE in core space", "DARE where all adapters share their coordinates; any ranks.", _core_dare,
        ("density", "seed"),
    ),
    "knots": Method(
        "KnOTS", "TIES after one SVD of all updates side by side; any ranks.", _knots, ("density",)
    ),
}  # fmt: skip


# -------------------------------------------------------------------------------------------------- mixtures


class Mixture:
    """Adapters prepared for mixing with any weights.

    Args:
        adapters: the updates of each of up to MOST adapters. A module that an adapter does not change counts as zero.
        recipe: how they are mixed.

    Attributes:
        parts: modules whose updates all have factors.
        plain: {name: [(adapter, update)]} of the rest (dense updates, norms, biases), whose weighted sum is taken.
        count: T, how many adapters there are.

    Raises:
        AdapterError: shapes differ (other base models), or the method does not accept dense updates.
    """

    def __init__(self, adapters: Sequence[Iterable[Update]], recipe: Recipe) -> None:
        self.recipe, self.count = recipe, len(adapters)
        if not 1 <= self.count <= MOST:
            raise AdapterError(f"{self.count} adapters were given; mix from 2 to {MOST}.")
        by_name: dict[str, list[tuple[int, Update]]] = {}
        for index, updates in enumerate(adapters):
            for update in updates:
                by_name.setdefault(update.name, []).append((index, update))
        method = METHODS[recipe.method]
        self.parts: list[Part] = []
        self.plain: dict[str, list[tuple[int, Update]]] = {}
        for name, found in by_name.items():
            if len({update.shape for _, update in found}) > 1:
                shapes = " and ".join(str(update.shape) for _, update in found)
                raise AdapterError(f"{name} has shapes {shapes} in these adapters; mix adapters of one base model.")
            factors = [(index, u.B, u.A) for index, u in found if u.B is not None and u.A is not None]
            if len(factors) == len(found):
                self.parts.append(method.prepare(_Module(name, factors, self.count), recipe))
                continue
            if len(found[0][1].shape) == 2 and not method.dense:
                raise AdapterError(
                    f"{method.label} works on factors, but one adapter changes {name} by a matrix without factors "
                    "(as full fine-tuning does). Take sum or mean, or cut that adapter to a rank first."
                )
            self.plain[name] = found

    def _weights(self, weights: Sequence[float]) -> np.ndarray:
        if len(weights) != self.count or not np.isfinite(weights).all():
            raise ConfigError("weights", list(weights), f"give {self.count} numbers, one for each adapter")
        return np.asarray(weights, dtype=np.float64)

    def cores(self, weights: Sequence[float]) -> list[np.ndarray]:
        """K(w) (k_b, k_a) of every part, in their order."""
        w = self._weights(weights)
        return cut_to_ranks([part.core(w) for part in self.parts], [part.rank for part in self.parts])

    def plain_updates(self, weights: Sequence[float]) -> list[Update]:
        """The updates of `plain`, mixed."""
        w = self._weights(weights) / (self.count if self.recipe.method == "mean" else 1)
        return [
            Update(name, dense=sum(w[index] * update.matrix() for index, update in found).astype(np.float32))
            for name, found in self.plain.items()
        ]

    def updates(self, weights: Sequence[float]) -> list[Update]:
        """The mixture as updates, float32 factors; zero ones are left out."""
        made = []
        for part, K in zip(self.parts, self.cores(weights)):
            rows, columns = np.any(K, axis=1), np.any(K, axis=0)
            if not rows.any():
                continue
            K, B, A = K[np.ix_(rows, columns)], part.B[:, rows], part.A[columns]
            U, values, Vt = np.linalg.svd(K, full_matrices=False)
            rank = max(1, nonzero(values))
            if rank < min(K.shape):  # the mixture has fewer directions than the adapters side by side
                root = np.sqrt(values[:rank])
                B, A = B @ (U[:, :rank] * root), root[:, None] * (Vt[:rank] @ A)
            elif K.shape[0] <= K.shape[1]:
                A = K @ A
            else:
                B = B @ K
            made.append(Update(part.name, B.astype(np.float32), A.astype(np.float32)))
        rest = self.plain_updates(weights)
        return made + [update for update in rest if update.dense is not None and update.dense.any()]


def random_like(updates: Iterable[Update], seed: int = 0) -> list[Update]:
    """A control: for every module random directions with the singular values, and so the norm, of its update.

    Vectors (norms, biases) become random ones of equal norm.
    """
    made = []
    for update in updates:
        random = np.random.default_rng([seed, zlib.crc32(update.name.encode())])
        if len(update.shape) != 2:
            size, vector = float(np.linalg.norm(update.matrix())), random.standard_normal(update.shape)
            made.append(Update(update.name, dense=(vector * size / np.linalg.norm(vector)).astype(np.float32)))
            continue
        _, values, _ = update_svd(update)
        values = values[: max(1, nonzero(values))]
        U, V = (np.linalg.qr(random.standard_normal((size, values.size)))[0] for size in update.shape)
        root = np.sqrt(values)
        made.append(Update(update.name, (U * root).astype(np.float32), (root[:, None] * V.T).astype(np.float32)))
    return made
