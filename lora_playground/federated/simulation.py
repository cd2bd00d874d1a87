"""A federated run on one machine: clients train one after the other, with the same messages as over a network.

A `Trainer` trains clients and evaluates the global model, so that the same code runs language models and the linear
models of tests. It knows no torch, no files and no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lora_playground.federated.aggregation import Party
from lora_playground.federated.pairs import Pair
from lora_playground.federated.rounds import Emit, Order, Reply, State, first_state, play_round
from lora_playground.federated.strategies.base import Factors, Server, Strategy


@dataclass(frozen=True)
class Trained:
    """The result of a client's training.

    Attributes:
        loss: mean over its last steps. stopped: whether it was stopped early.
    """

    factors: Factors
    loss: float
    steps: int
    tokens: int = 0
    stopped: bool = False


class Trainer(Protocol):
    """Trains one client at a time on one base, and evaluates global models."""

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(out, in) of every adapted module."""
        ...

    def scaling(self, rank: int) -> float:
        """The scaling s for a rank."""
        ...

    def gradients(self, client: int) -> dict[str, np.ndarray]:
        """∇W (out, in) of every adapted module on a few of a client's examples."""
        ...

    def train(
        self, client: int, factors: Factors, merged: Mapping[str, Pair], parts: tuple[str, ...], round_: int, emit: Emit
    ) -> Trained:
        """Trains `parts` of these factors on a client's rows.

        Args:
            merged: {module: change of the base so far}. parts: of 'B', 'A', 'R'. emit: called with events.
        """
        ...

    def judge(self, server: Server) -> dict[str, float | None]:
        """{'loss': on the validation rows, 'score': on some test rows} of a global model; None if there are no such
        rows."""
        ...


class _Stopped(Exception):
    """The run was stopped during a round."""


def parties(ranks: list[int], examples: list[int], trainer: Trainer) -> dict[str, Party]:
    """{name: client}, from each client's rank and number of examples."""
    return {
        f"client {k + 1}": Party(f"client {k + 1}", rank, trainer.scaling(rank), count)
        for k, (rank, count) in enumerate(zip(ranks, examples, strict=True))
    }


def begin(strategy: Strategy, who: Mapping[str, Party], trainer: Trainer, seed: int) -> State:
    """The state before round 1. For errors see `rounds.first_state`."""
    numbers = {name: number for number, name in enumerate(who)}
    return first_state(strategy, who, trainer.shapes(), lambda name: trainer.gradients(numbers[name]), seed)


def simulate(
    strategy: Strategy,
    who: Mapping[str, Party],
    trainer: Trainer,
    state: State,
    rounds: int,
    drop_out: float,
    emit: Emit,
    should_stop: Callable[[], bool],
    after_round: Callable[[State], None] = lambda state: None,
) -> bool:
    """Plays rounds until `rounds` have been played, changing `state` in place; returns False if it was stopped before.

    A round that is stopped changes nothing: the state stays that of the last whole round.
    """

    def by_turns(orders: Iterator[Order]) -> Iterable[Reply]:
        return _train_by_turns(strategy, who, trainer, state, orders, emit, should_stop)

    while state.server.round < rounds:
        try:
            play_round(strategy, who, state, drop_out, by_turns, trainer.judge, emit)
        except _Stopped:
            return False
        after_round(state)
    return True


def _train_by_turns(
    strategy: Strategy,
    who: Mapping[str, Party],
    trainer: Trainer,
    state: State,
    orders: Iterator[Order],
    emit: Emit,
    should_stop: Callable[[], bool],
) -> Iterator[Reply]:
    """Trains each client in turn. Raises _Stopped if a stop was requested."""
    server = state.server
    merged = server.merged_total()
    numbers = {name: number for number, name in enumerate(who)}
    step = state.step
    for order in orders:
        if should_stop():
            raise _Stopped
        party = who[order.client]
        # Parts that are not in the message are those that the client already has, which the server knows too.
        start = strategy.receive(strategy.local(server, party.rank, party.s), order.message, order.round, server.seed)
        told = _counted(emit, step, order)
        done = trainer.train(numbers[order.client], start, merged, strategy.trained(order.round), order.round, told)
        if done.stopped:
            raise _Stopped
        step += done.steps
        yield Reply(order.client, strategy.upload(done.factors, order.round), done.loss, done.steps, done.tokens)


def _counted(emit: Emit, offset: int, order: Order) -> Emit:
    """Passes on a client's losses, with steps counted over the whole run, and its messages, but no other events."""

    def pass_on(event: dict) -> None:
        if event.get("type") == "loss":
            steps = [offset + step for step in event["steps"]]
            emit(event | {"steps": steps, "client": order.client, "round": order.round})
        elif event.get("type") == "message":
            emit(event)

    return pass_on
