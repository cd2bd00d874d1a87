"""One round of federated training: draw the clients, send, collect, aggregate, report.

Plain NumPy. How messages are carried and how the global model is evaluated are functions that the simulation and the
Flower app pass in; this module knows neither of them, no torch and no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_playground.analysis.low_rank import qr_singular_values
from lora_playground.errors import TrainingError
from lora_playground.federated.aggregation import Outcome, Party, aggregate, round_spectra
from lora_playground.federated.pairs import Pair
from lora_playground.federated.strategies.base import Factors, Message, Server, Strategy, size

Emit = Callable[[dict[str, Any]], None]
SHOWN_MODULES = 6


@dataclass
class State:
    """The state of a federated run after a round, from which it can be continued.

    Attributes:
        since: {client: the round whose result it last received} (0: the start values; -1: nothing yet).
        up, down: bytes sent to and by the server so far. step, tokens: of all clients together.
        history: `round` events without spectra.
        last: factors of the clients in the last round in which any sent a message; last_round: that round.
    """

    server: Server
    since: dict[str, int]
    up: int = 0
    down: int = 0
    step: int = 0
    tokens: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Factors] = field(default_factory=dict)
    last_round: int = 0


@dataclass(frozen=True)
class Order:
    """The server's message to a client at the beginning of a round.

    Attributes:
        message: the arrays. since: the round whose result the client must have already.
    """

    client: str
    round: int
    message: Message
    since: int


@dataclass(frozen=True)
class Reply:
    """A client's answer.

    Attributes:
        message: its upload; None if it failed, for the reason `problem`.
        loss: mean over its last steps. steps, tokens: of its training.
        restarted: whether it has lost what it had received, so that it needs everything again.
    """

    client: str
    message: Message | None
    loss: float = float("nan")
    steps: int = 0
    tokens: int = 0
    problem: str = ""
    restarted: bool = False


Exchange = Callable[[Iterator[Order]], Iterable[Reply]]
"""Function that carries orders to clients and returns their replies. If it raises, the round ends and changes
nothing."""


def first_state(
    strategy: Strategy,
    who: Mapping[str, Party],
    shapes: Mapping[str, tuple[int, int]],
    gradients: Callable[[str], Mapping[str, np.ndarray]],
    seed: int,
) -> State:
    """The state before round 1.

    Args:
        shapes: {module: (out, in)}. gradients: function that returns ∇W on a few of a client's examples, for strategies
            that start from it.

    Raises:
        TrainingError: no client has an example. ConfigError: the strategy cannot take these ranks or scalings.
    """
    active = next((name for name, party in who.items() if party.examples > 0), None)
    if active is None:
        raise TrainingError("No client has a single training row after the split; use more rows or fewer clients.")
    strategy.check([party.rank for party in who.values()], [party.s for party in who.values()])
    top = max(who.values(), key=lambda party: party.rank)
    start = gradients(active) if strategy.needs_gradient else None
    server = strategy.start(shapes, top.rank, top.s, seed, start)
    return State(server, dict.fromkeys(who, strategy.first))


def play_round(
    strategy: Strategy,
    who: Mapping[str, Party],
    state: State,
    drop_out: float,
    exchange: Exchange,
    judge: Callable[[Server], Mapping[str, float | None]],
    emit: Emit,
) -> None:
    """Plays one round and changes `state`. Emits a `round` event, and before it a `message` for each client left out.

    Args:
        drop_out: probability that a client is left out of this round.
        exchange: carries the messages. judge: returns loss and score of a global model.
    """
    began = time.monotonic()
    before = state.server
    round_ = before.round + 1
    present = draw_present(who, drop_out, before.seed, round_)
    sent = [0]

    def orders() -> Iterator[Order]:
        for name in present:
            message = strategy.download(before, who[name].rank, who[name].s, state.since[name])
            sent[0] += size(message)
            yield Order(name, round_, message, state.since[name])

    replies = {reply.client: reply for reply in exchange(orders())}
    delivered = {name: reply.message for name, reply in replies.items() if reply.message is not None}
    asked: dict[str, Message | None] = dict.fromkeys(name for name, party in who.items() if party.examples > 0)
    outcome = aggregate(strategy, before, asked | delivered, who)
    for name, reply in replies.items():
        if reply.problem:
            outcome.left_out[name] = reply.problem
        if reply.restarted:
            state.since[name] = strategy.first
        elif name in delivered:
            state.since[name] = round_ - 1
    up = sum(size(message) for message in delivered.values())
    state.server = outcome.server
    state.up, state.down = state.up + up, state.down + sent[0]
    state.step += sum(reply.steps for reply in replies.values())
    state.tokens += sum(reply.tokens for reply in replies.values())
    if outcome.clients:
        state.last, state.last_round = outcome.clients, round_
    event = describe_round(outcome, before) | {
        "step": state.step,
        "client_loss": {name: round(reply.loss, 4) for name, reply in replies.items() if np.isfinite(reply.loss)},
        "bytes": {"up": up, "down": sent[0], "up_total": state.up, "down_total": state.down},
        **judge(outcome.server),
        "seconds": round(time.monotonic() - began, 3),
    }
    for sentence in round_messages(outcome, round_):
        emit({"type": "message", "level": "warning", "text": sentence})
    emit(event)
    state.history.append({key: value for key, value in event.items() if key != "spectra"})
    fold(strategy, state)


def fold(strategy: Strategy, state: State) -> None:
    """Adds up base changes that no client needs separately, into one of rank ≤ min(m, n), so that memory stays bounded.

    A client gets each base change since its last round separately, and a new client their sum. A client that has missed
    changes of together more rank than a full matrix is treated as a new one.
    """
    for name, since in state.since.items():
        if since > strategy.first and state.server.missed(since):
            state.since[name] = strategy.first
    held = [since for since in state.since.values() if since > strategy.first]
    state.server = state.server.folded(min([*held, state.last_round - 1]))


def draw_present(who: Mapping[str, Party], drop_out: float, seed: int, round_: int) -> list[str]:
    """The clients with data that take part in a round. The draw depends only on seed and round."""
    draws = np.random.default_rng([seed, 7, round_]).random(len(who))
    return [name for (name, party), draw in zip(who.items(), draws) if party.examples > 0 and draw >= drop_out]


def local_seed(seed: int, round_: int, client: int) -> int:
    """The seed of a client's training in a round, on whatever machine it trains."""
    return int(np.random.default_rng([seed, 11, round_, client]).integers(2**31 - 1))


def describe_round(outcome: Outcome, before: Server) -> dict[str, Any]:
    """The fields of a `round` event about the aggregate: error, weights, ranks, spectra."""
    modules = list(outcome.server.factors)
    stride = max(1, -(-len(modules) // SHOWN_MODULES))
    rank = {
        "global": _rank({m: outcome.server.update(m) for m in modules}),
        "ideal": _rank(outcome.ideal),
        "clients": {name: _rank({m: f.pair for m, f in factors.items()}) for name, factors in outcome.clients.items()},
    }
    return {
        "type": "round",
        "round": outcome.server.round,
        "error": None if outcome.error is None else float(f"{outcome.error:.4g}"),
        "weights": {name: round(p, 4) for name, p in outcome.weights.items()},
        "left_out": outcome.left_out,
        "rank": rank,
        "spectra": round_spectra(outcome, before, modules[::stride]),
    }


def round_messages(outcome: Outcome, round_: int) -> list[str]:
    """Sentences for the person about clients that were left out."""
    if not outcome.left_out:
        return []
    if not outcome.weights:
        return [f"Round {round_}: no client delivered, so the global update stays as it was; the run goes on."]
    return [f"Round {round_}: {name} was left out: it {why}." for name, why in outcome.left_out.items()]


def _rank(pairs: Mapping[str, Pair]) -> float:
    """Mean numerical rank over modules (directions above 1e-5 of the largest)."""
    counts = []
    for pair in pairs.values():
        sigma = qr_singular_values(*pair)
        counts.append(int(np.count_nonzero(sigma > 1e-5 * sigma[0])) if sigma.size and sigma[0] > 0 else 0)
    return round(float(np.mean(counts)), 2) if counts else 0.0
