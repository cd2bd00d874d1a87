"""HetLoRA: factors of different rank are padded with zeros and averaged by the size of each client's update."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lora_playground.federated.pairs import norm
from lora_playground.federated.strategies.base import Card, Factor, Factors, Server
from lora_playground.federated.strategies.flexlora import Truncating


@dataclass(frozen=True)
class HetLoRA(Truncating):
    """Zero padding and sparsity weights; without the paper's self-pruning."""

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        sizes = {
            name: float(np.sqrt(sum(norm(factor.pair) ** 2 for factor in factors.values())))
            for name, factors in clients.items()
        }
        total = sum(sizes.values())
        shares = {name: sizes[name] / total if total > 0 else weights[name] for name in clients}
        factors: Factors = {}
        for module, known in server.factors.items():
            B, A = np.zeros(known.B.shape), np.zeros(known.A.shape)
            for name, mine in clients.items():
                factor = mine[module]
                B[:, : factor.rank] += shares[name] * (factor.s / known.s) * factor.B
                A[: factor.rank] += shares[name] * factor.A
            factors[module] = Factor(B, A, known.s)
        return self.advanced(server, factors, ("B", "A"))


STRATEGY = HetLoRA(
    name="hetlora",
    label="HetLoRA",
    heterogeneous=True,
    card=Card(
        sentence="Pads smaller factors with zeros, averages A and B with weights by the norm of each client's update, "
        "and cuts the result to each client's rank.",
        equation=r"w_k = \frac{\|B_kA_k\|_F}{\sum_j \|B_jA_j\|_F},\quad \bar B = \sum_k w_k [B_k\ 0],\quad "
        r"\bar A = \sum_k w_k [A_k; 0]",
        up="A and B: r_k(m+n)",
        down="A and B: r_k(m+n)",
        exact="No: A and B are averaged separately, and the weights are not the shares of examples.",
        paper="Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models, 2024",
        url="https://arxiv.org/abs/2401.06432",
        notes="The weight of a client is one number, from its update over all modules. The paper's self-pruning of "
        "ranks during training is not offered.",
    ),
)
