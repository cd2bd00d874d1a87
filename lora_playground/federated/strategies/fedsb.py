"""Fed-SB: A and B are frozen and shared, a small r×r core R between them is trained, sent and averaged."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.low_rank import sketched_svd
from lora_playground.errors import ConfigError
from lora_playground.federated.strategies.base import Card, Factor, Factors, Server, Strategy, generator


@dataclass(frozen=True)
class FedSB(Strategy):
    """ΔW = s·B·R·A; communication does not grow with the layer's size."""

    eta: float = 1e-4

    def start(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        s: float,
        seed: int,
        gradients: Mapping[str, np.ndarray] | None = None,
    ) -> Server:
        """B and A are the leading singular vectors of −η·sign(∇W), R has its singular values. Without a gradient B and
        A are random and orthonormal, and R = 0."""
        factors: Factors = {}
        for module, (m, n) in shapes.items():
            if rank > min(m, n):
                raise ConfigError(
                    "federated.ranks", rank, f"{module} is {m} × {n}, so Fed-SB takes a rank of 1 to {min(m, n)}"
                )
            if gradients is not None:
                G = -self.eta * np.sign(gradients[module])
                B, sigma, A = sketched_svd(G, rank, generator(seed, 0, module))
                R = np.diag(sigma) / s
            else:
                rng = generator(seed, 0, module)
                B = np.linalg.qr(rng.standard_normal((m, rank)))[0]
                A = np.linalg.qr(rng.standard_normal((n, rank)))[0].T
                R = np.zeros((rank, rank))
            factors[module] = Factor(B, A, s, R)
        return Server(0, seed, factors, changed={"B": 0, "A": 0, "R": 0})

    def trained(self, round_: int) -> tuple[str, ...]:
        return ("R",)


STRATEGY = FedSB(
    name="fedsb",
    label="Fed-SB",
    exact=True,
    start_travels=True,
    needs_gradient=True,
    why_equal="all clients share A and B and the shape of the core",
    card=Card(
        sentence="Freezes good A and B, found from one gradient, and trains only an r×r core between them.",
        equation=r"\Delta W = s\,B R A,\quad \bar R = \sum_k p_k R_k",
        up="R: r²",
        down="R: r² (A and B once, before the first round)",
        exact="Yes: the product is linear in R.",
        paper="Singhal et al., Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in "
        "(Private) Federated LoRA Fine-Tuning, 2025",
        url="https://arxiv.org/abs/2502.15436",
        notes="The output changes at step 0, because R starts at the gradient's singular values. The gradient comes "
        "from a few of the first client's examples; its singular vectors from a randomised sketch. The core is small, "
        "so it wants a higher rank than other methods.",
    ),
)
