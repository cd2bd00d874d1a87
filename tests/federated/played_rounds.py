"""Rounds played on random factors, and their results as dense matrices: what tests of strategies measure."""

import numpy as np

from lora_playground.federated.aggregation import Party, aggregate
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.federated.strategies.base import Factor, Factors, Message, Server, Strategy

SHAPES = {"layers.0.q": (24, 32), "layers.0.up": (40, 16)}
EXACT = [name for name, strategy in STRATEGIES.items() if strategy.exact]
MIXED = [name for name, strategy in STRATEGIES.items() if strategy.heterogeneous]
EXAMPLES = [10, 20, 5, 65]


def parties(ranks: list[int], scalings: list[float] | None = None) -> dict[str, Party]:
    scalings = scalings or [2.0] * len(ranks)
    return {f"c{k}": Party(f"c{k}", r, s, EXAMPLES[k]) for k, (r, s) in enumerate(zip(ranks, scalings, strict=True))}


def begin(strategy: Strategy, who: dict[str, Party], seed: int = 3) -> tuple[Server, dict[str, Factors]]:
    top = max(who.values(), key=lambda party: party.rank)
    server = strategy.start(SHAPES, top.rank, top.s, seed)
    held = {name: strategy.local(strategy.start(SHAPES, p.rank, p.s, seed), p.rank, p.s) for name, p in who.items()}
    return server, held


def train(strategy: Strategy, factors: Factors, round_: int, rng: np.random.Generator) -> Factors:
    """Stands for local training: moves what may be trained, as a client would, in float32."""
    return {
        module: factor._replace(
            **{
                part: (getattr(factor, part) + 0.3 * rng.standard_normal(getattr(factor, part).shape)).astype(
                    np.float32
                )
                for part in strategy.trained(round_)
            }
        )
        for module, factor in factors.items()
    }


def play(strategy: Strategy, who: dict[str, Party], rounds: int, identical: bool = False):
    """Rounds of messages as they travel; yields (server before, trained factors, messages, outcome)."""
    server, held = begin(strategy, who)
    rng = np.random.default_rng(11)
    for round_ in range(1, rounds + 1):
        messages: dict[str, Message | None] = {}
        trained: dict[str, Factors] = {}
        stream = int(rng.integers(1 << 30))
        for number, (name, party) in enumerate(who.items()):
            since = -1 if strategy.start_travels and round_ == 1 else max(0, round_ - 2)
            got = strategy.download(server, party.rank, party.s, since)
            held[name] = strategy.receive(held[name], got, round_, server.seed)
            own = np.random.default_rng([stream, 0 if identical else number])
            trained[name] = train(strategy, held[name], round_, own)
            messages[name] = strategy.upload(trained[name], round_)
        outcome = aggregate(strategy, server, messages, who)
        yield server, trained, messages, outcome
        server = outcome.server


def dense(factor: Factor) -> np.ndarray:
    middle = np.eye(factor.rank) if factor.R is None else factor.R.astype(np.float64)
    return factor.s * factor.B.astype(np.float64) @ middle @ factor.A.astype(np.float64)


def dense_ideal(trained: dict[str, Factors], module: str) -> np.ndarray:
    total = sum(EXAMPLES[: len(trained)])
    return sum(n / total * dense(f[module]) for n, f in zip(EXAMPLES, trained.values()))


def dense_merged(server: Server, module: str) -> np.ndarray:
    m, n = SHAPES[module]
    return sum((B @ A for _, change in server.merged for B, A in [change[module]]), np.zeros((m, n)))
