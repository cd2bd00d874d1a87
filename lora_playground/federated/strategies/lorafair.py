"""LoRA-FAIR: averages factors as FedIT does, then corrects B so that the product is closer to the mean product."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lora_playground.federated.strategies.base import Card, Factors, Server, Strategy


@dataclass(frozen=True)
class LoraFair(Strategy):
    """The correction is the closed-form minimiser of a Frobenius surrogate of the paper's objective."""

    damping: float = 0.01

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        mean = super().aggregate(server, clients, weights)
        factors: Factors = {}
        for module, factor in mean.factors.items():
            A = factor.A
            missing = sum(  # (Ideal/s − B̄Ā)·Āᵀ, term by term: (m, r)
                weights[k] * (mine[module].B - factor.B) @ ((mine[module].A - A) @ A.T) for k, mine in clients.items()
            )
            gram = A @ A.T + self.damping * np.eye(factor.rank)
            factors[module] = factor._replace(B=factor.B + np.linalg.solve(gram, np.asarray(missing).T).T)
        return self.advanced(server, factors, ("B", "A"))


STRATEGY = LoraFair(
    name="lorafair",
    label="LoRA-FAIR",
    why_equal="it averages factors, which need one shape and one scaling",
    card=Card(
        sentence="Averages A and B as FedIT does, then corrects B so that the product comes as near to the mean of the "
        "products as this A allows.",
        equation=r"\Delta B = \Big(\sum_k p_k B_kA_k - \bar B\bar A\Big)\bar A^\top"
        r"(\bar A\bar A^\top + \lambda I)^{-1},\quad B \leftarrow \bar B + \Delta B",
        up="A and B: r(m+n)",
        down="A and B: r(m+n)",
        exact="Nearly: what lies outside the row space of the mean A is lost; never worse than FedIT.",
        paper="Bian et al., LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement, 2024",
        url="https://arxiv.org/abs/2411.14961",
        notes="The paper minimises a cosine discrepancy with λ‖ΔB‖ by gradient steps. Here the discrepancy is the "
        "squared Frobenius norm, whose minimiser has a closed form: a surrogate of this app's own, with the paper's "
        "λ = 0.01.",
    ),
)
