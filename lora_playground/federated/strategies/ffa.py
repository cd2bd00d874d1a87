"""FFA-LoRA: all clients share one A that stays frozen, so averaging B is exact."""

from dataclasses import dataclass

from lora_playground.federated.strategies.base import Card, Strategy


@dataclass(frozen=True)
class FFA(Strategy):
    """Clients train B alone."""

    def trained(self, round_: int) -> tuple[str, ...]:
        return ("B",)


STRATEGY = FFA(
    name="ffa",
    label="FFA-LoRA",
    exact=True,
    why_equal="all clients share one frozen A and one scaling",
    card=Card(
        sentence="Freezes one random A that all clients share; only B is trained and sent.",
        equation=r"\bar B = \sum_k p_k B_k,\quad \Delta W = s\,\bar B A_0",
        up="B: rm",
        down="B: rm (A comes from the shared seed)",
        exact="Yes: with one A the mean of products is the product of B's mean with A.",
        paper="Sun, Li, Li, Ding, Improving LoRA in Privacy-preserving Federated Learning, 2024",
        url="https://arxiv.org/abs/2403.12313",
        notes="The update never leaves the row space of the random start of A.",
    ),
)
