"""FLoRA: the clients' factors are stacked and merged into the base, and every round starts with new factors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lora_playground.federated.strategies.base import (
    Card,
    Factors,
    Message,
    Server,
    ideal,
    initial,
    shapes_of,
)
from lora_playground.federated.strategies.flexlora import Truncating


@dataclass(frozen=True)
class FLoRA(Truncating):
    """Exact for any ranks; in return the factors of all clients are sent to every client."""

    def receive(self, held: Factors, message: Message, round_: int, seed: int) -> Factors:
        if round_ == 1:
            return held
        some = next(iter(held.values()))
        return initial(shapes_of(held), some.rank, some.s, seed, round_ - 1)

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        return self.advanced(server, self.fresh(server), (), ideal(clients, weights))

    def idle(self, server: Server) -> Server:
        return replace(server, round=server.round + 1, factors=self.fresh(server))

    def fresh(self, server: Server) -> Factors:
        """New start values for the next round, which every client makes from the shared seed."""
        some = next(iter(server.factors.values()))
        return initial(shapes_of(server.factors), some.rank, some.s, server.seed, server.round + 1)


STRATEGY = FLoRA(
    name="flora",
    label="FLoRA (stacking)",
    exact=True,
    heterogeneous=True,
    changes_base=True,
    card=Card(
        sentence="Stacks all clients' factors, merges the stack into the base weight and starts new factors.",
        equation=r"B=[p_1s_1B_1\,\cdots\,p_Ks_KB_K],\ A=[A_1;\dots;A_K],\quad W \leftarrow W + BA",
        up="A and B: r_k(m+n)",
        down="the stack: (Σr_k)(m+n)",
        exact="Yes: stacked factors multiply out to the weighted sum of the products.",
        paper="Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank "
        "Adaptations, 2024",
        url="https://arxiv.org/abs/2409.05976",
        notes="The weight p_k belongs on one side only; on both it would count squared. New start values come from "
        "the shared seed, so they need not travel.",
    ),
)
