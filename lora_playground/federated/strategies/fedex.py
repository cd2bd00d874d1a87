"""FedEx-LoRA: averages factors as FedIT does, and adds the difference to the exact mean to the base weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_playground.federated.pairs import Pair, stack
from lora_playground.federated.strategies.base import Card, Factors, Server, Strategy


@dataclass(frozen=True)
class FedEx(Strategy):
    """The residual is sent as factors. Its rank is at most (K−1)r, since the deviations from the mean sum to zero."""

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        mean = super().aggregate(server, clients, weights)
        *names, last = clients
        if not names:
            return mean
        change: dict[str, Pair] = {}
        for module, factor in mean.factors.items():
            # Σ p_k D_k E_k with D_k = B_k − B̄, E_k = A_k − Ā; p_K D_K = −Σ_{k<K} p_k D_k leaves K−1 terms.
            deviations = [
                (clients[k][module].B - factor.B, clients[k][module].A - clients[last][module].A) for k in names
            ]
            change[module] = stack(deviations, [factor.s * weights[k] for k in names])
        return self.advanced(server, mean.factors, ("B", "A"), change)


STRATEGY = FedEx(
    name="fedex",
    label="FedEx-LoRA",
    exact=True,
    why_equal="it averages factors, which need one shape and one scaling",
    changes_base=True,
    card=Card(
        sentence="Averages A and B as FedIT does, and adds what that misses to the frozen base weight.",
        equation=r"\Delta W_{res} = s\Big(\sum_k p_k B_kA_k - \bar B\bar A\Big) = s\sum_k p_k (B_k-\bar B)(A_k-\bar A),"
        r"\quad W \leftarrow W + \Delta W_{res}",
        up="A and B: r(m+n)",
        down="A and B, and the residual: r(m+n) + (K−1)r(m+n)",
        exact="Yes: factors and residual together give the mean of the products.",
        paper="Singhal, Ponkshe, Vepakomma, FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of "
        "Foundation Models, 2024",
        url="https://arxiv.org/abs/2410.09432",
        notes="The residual has W's own layout (out, in); it is sent as factors, never as a full matrix.",
    ),
)
