"""RoLoRA: clients train B in odd rounds and A in even rounds, so that averaging is exact in each."""

from dataclasses import dataclass

from lora_playground.federated.strategies.base import Card, Strategy


@dataclass(frozen=True)
class RoLoRA(Strategy):
    """B is trained first: while B = 0 the gradient of A is zero."""

    def trained(self, round_: int) -> tuple[str, ...]:
        return ("B",) if round_ % 2 else ("A",)


STRATEGY = RoLoRA(
    name="rolora",
    label="RoLoRA",
    exact=True,
    why_equal="in each round all clients share the frozen factor",
    card=Card(
        sentence="Trains and averages B in odd rounds and A in even rounds, the other factor frozen.",
        equation=r"t\ \text{odd}: \bar B = \sum_k p_k B_k,\ A\ \text{kept};\quad "
        r"t\ \text{even}: \bar A = \sum_k p_k A_k,\ B\ \text{kept}",
        up="B or A: rm or rn",
        down="B or A: rm or rn",
        exact="Yes: in every round one factor is the same for all clients.",
        paper="Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA, 2025",
        url="https://arxiv.org/abs/2502.01755",
        notes="A client that missed a round gets both factors when it comes back.",
    ),
)
