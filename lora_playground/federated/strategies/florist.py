"""FLoRIST: like FLoRA, but the stack is truncated by an SVD to the rank that keeps a given share of its energy."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_playground.federated.pairs import compress
from lora_playground.federated.strategies.base import Card, Factors, Server, ideal
from lora_playground.federated.strategies.flora import FLoRA


@dataclass(frozen=True)
class FLoRIST(FLoRA):
    """The server chooses the rank of what it sends for each module."""

    energy: float = 0.99

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        change = {module: compress(mean, self.energy) for module, mean in ideal(clients, weights).items()}
        return self.advanced(server, self.fresh(server), (), change)


STRATEGY = FLoRIST(
    name="florist",
    label="FLoRIST",
    heterogeneous=True,
    changes_base=True,
    card=Card(
        sentence="Stacks all clients' factors, finds the stack's singular values from its small core and sends only as "
        "many directions as hold the wanted share of energy.",
        equation=r"U\Sigma V^\top = \sum_k p_k s_k B_kA_k,\quad p = \min\Big\{q: \sum_{i\le q}\sigma_i^2 \ge "
        r"\tau\sum_i\sigma_i^2\Big\},\quad W \leftarrow W + U_p\Sigma_pV_p^\top",
        up="A and B: r_k(m+n)",
        down="p directions: p(m+n)",
        exact="Up to the threshold: at most a share 1−τ of the squared norm is lost.",
        paper="Ramesh, Dass, FLoRIST: Singular Value Thresholding for Efficient and Accurate Federated Fine-Tuning of "
        "Large Language Models, 2025",
        url="https://arxiv.org/abs/2506.09199",
        notes="What the server sends is merged into the base and new factors start, as in FLoRA. This is an "
        "interpretation: the abstract does not say how clients go on.",
    ),
)
