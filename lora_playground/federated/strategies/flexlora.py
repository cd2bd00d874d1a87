"""FlexLoRA: the best low-rank approximation of the mean product, truncated to each client's rank. HLoRA does the
same."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.low_rank import factor_svd
from lora_playground.federated.strategies.base import (
    Card,
    Factor,
    Factors,
    Server,
    Strategy,
    ideal,
    initial,
    shapes_of,
)


@dataclass(frozen=True)
class Truncating(Strategy):
    """A strategy that gives each client the first rows and columns of the global factors."""

    def local(self, server: Server, rank: int, s: float) -> Factors:
        """The first `rank` columns of the global B and rows of A, with B rescaled so that s·B·A keeps its size."""
        return {
            module: Factor(factor.B[:, :rank] * (factor.s / s), factor.A[:rank], s)
            for module, factor in server.factors.items()
        }


@dataclass(frozen=True)
class FlexLoRA(Truncating):
    """The SVD is computed from the small core of the stacked factors."""

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        some = next(iter(server.factors.values()))
        spare = initial(shapes_of(server.factors), some.rank, some.s, server.seed, server.round + 1)
        factors: Factors = {}
        for module, mean in ideal(clients, weights).items():
            U, sigma, Vt = factor_svd(*mean)
            keep = min(some.rank, sigma.size)
            B, A = U[:, :keep] * sigma[:keep] / some.s, Vt[:keep]
            if keep < some.rank:  # only clients of low rank took part: the other directions get start values again
                B = np.pad(B, ((0, 0), (0, some.rank - keep)))
                A = np.concatenate([A, spare[module].A[keep:]])
            factors[module] = Factor(B, A, some.s)
        return self.advanced(server, factors, ("B", "A"))


STRATEGY = FlexLoRA(
    name="flexlora",
    label="FlexLoRA / HLoRA",
    heterogeneous=True,
    card=Card(
        sentence="Forms the mean of the clients' products and gives each client its best approximation of that "
        "client's rank.",
        equation=r"U\Sigma V^\top = \sum_k p_k s_k B_k A_k,\quad B^{(k)} = U_{r_k}\Sigma_{r_k}/s_k,\quad "
        r"A^{(k)} = V_{r_k}^\top",
        up="A and B: r_k(m+n)",
        down="A and B: r_k(m+n)",
        exact="The best of rank r: what is lost is the cut tail, Σ of σ² beyond r.",
        paper="Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client "
        "Resources, 2024",
        url="https://arxiv.org/abs/2402.11505",
        notes="HLoRA (arXiv 2503.00813) describes the same step. Σ goes to B, so that A has orthonormal rows; the "
        "papers at hand leave that open. The global model is kept at the greatest client rank.",
    ),
)
