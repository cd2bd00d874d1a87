"""FedSVD: clients train B; after every round an SVD on the server replaces the frozen A by the best orthonormal
basis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lora_playground.analysis.low_rank import factor_svd
from lora_playground.errors import ConfigError
from lora_playground.federated.strategies.base import Card, Factors, Server, Strategy


@dataclass(frozen=True)
class FedSVD(Strategy):
    """The refactorisation changes neither the product nor the row space, only the basis."""

    def start(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        s: float,
        seed: int,
        gradients: Mapping[str, np.ndarray] | None = None,
    ) -> Server:
        server = super().start(shapes, rank, s, seed)
        factors: Factors = {}
        for module, factor in server.factors.items():
            if rank > factor.A.shape[1]:
                inputs = factor.A.shape[1]
                raise ConfigError(
                    "federated.ranks", rank, f"{module} has {inputs} inputs, so FedSVD takes 1 to {inputs}"
                )
            factors[module] = factor._replace(A=np.linalg.qr(factor.A.T)[0].T)
        return replace(server, factors=factors)

    def trained(self, round_: int) -> tuple[str, ...]:
        return ("B",)

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        mean = super().aggregate(server, clients, weights)
        factors: Factors = {}
        for module, factor in mean.factors.items():
            U, sigma, Vt = factor_svd(factor.B, factor.A)
            factors[module] = factor._replace(B=_wide(U * sigma, factor.rank), A=_tall(Vt, factor.A))
        return self.advanced(server, factors, ("B", "A"))


def _wide(B: np.ndarray, rank: int) -> np.ndarray:
    return np.pad(B, ((0, 0), (0, rank - B.shape[1])))


def _tall(Vt: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Vᵀ with as many rows as A. If a module has fewer outputs than the rank, the rest of A's row space is added."""
    missing = A.shape[0] - Vt.shape[0]
    if missing <= 0:
        return Vt
    rest = np.linalg.svd(A - (A @ Vt.T) @ Vt, full_matrices=False)[2][:missing]
    return np.concatenate([Vt, rest])


STRATEGY = FedSVD(
    name="fedsvd",
    label="FedSVD",
    exact=True,
    why_equal="all clients share one A and one scaling",
    card=Card(
        sentence="Clients train B with a shared A; after each round the server's SVD makes A an orthonormal basis, "
        "ordered by what has been learned.",
        equation=r"U\Sigma V^\top = \Big(\sum_k p_k B_k\Big)A,\quad B \leftarrow U_r\Sigma_r,\quad "
        r"A \leftarrow V_r^\top",
        up="B: rm",
        down="A and B: r(m+n)",
        exact="Yes: one A for all clients, and the SVD changes the factors but not their product.",
        paper="Lee et al., FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA, 2025",
        url="https://arxiv.org/abs/2505.12805",
        notes="Here A starts orthonormal too. The paper's differential privacy is not offered.",
    ),
)
