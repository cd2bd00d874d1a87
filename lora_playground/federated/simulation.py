"""A federated run on one machine: clients take turns, messages are made as if they travelled.

Plain NumPy and bookkeeping: what trains a client and what judges the global model is handed in, so the same loop runs a
language model and a test's linear one. It knows no torch, no files and no queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lora_playground.errors import TrainingError
from lora_playground.federated.aggregation import Outcome, Party, play_round, round_spectra
from lora_playground.federated.core import Pair, singular_values
from lora_playground.federated.strategies.base import Factors, Message, Server, Strategy, size

Emit = Callable[[dict[str, Any]], None]
SHOWN_MODULES = 6


@dataclass(frozen=True)
class Trained:
    """What local training gave: the factors, the mean loss over its last steps, steps and tokens done, and whether it
    was stopped before its end."""

    factors: Factors
    loss: float
    steps: int
    tokens: int = 0
    stopped: bool = False


class Trainer(Protocol):
    """Trains one client at a time on one base, and judges a global model."""

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(out, in) of every adapted module."""
        ...

    def scaling(self, rank: int) -> float:
        """s for that rank."""
        ...

    def gradients(self, client: int) -> dict[str, np.ndarray]:
        """∇W (out, in) of every adapted module on a few of a client's examples."""
        ...

    def train(
        self, client: int, factors: Factors, merged: Mapping[str, Pair], parts: tuple[str, ...], round_: int, emit: Emit
    ) -> Trained:
        """Trains `parts` of these factors on the client's rows, on the base changed by `merged`."""
        ...

    def judge(self, server: Server) -> dict[str, float | None]:
        """`loss` on the validation rows and `score` on some test rows of the global model."""
        ...


@dataclass
class State:
    """Where a federated run stands after a round; enough to go on from there.

    Attributes:
        since: the round whose result each client last got (0: the start; -1: nothing yet).
        last: factors of the clients of the last round in which any delivered, `last_round`.
        up, down: bytes sent so far. step: local steps done by all clients together.
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


def parties(ranks: list[int], examples: list[int], trainer: Trainer) -> dict[str, Party]:
    """The clients as the server knows them, by name."""
    return {
        f"client {k + 1}": Party(f"client {k + 1}", rank, trainer.scaling(rank), count)
        for k, (rank, count) in enumerate(zip(ranks, examples, strict=True))
    }


def begin(strategy: Strategy, who: Mapping[str, Party], trainer: Trainer, seed: int) -> State:
    """The state before round 1. Raises TrainingError where no client has an example, ConfigError for unfit ranks."""
    active = [k for k, party in enumerate(who.values()) if party.examples > 0]
    if not active:
        raise TrainingError("No client has a single training row after the split; use more rows or fewer clients.")
    strategy.check([party.rank for party in who.values()], [party.s for party in who.values()])
    top = max(who.values(), key=lambda party: party.rank)
    gradients = trainer.gradients(active[0]) if strategy.needs_gradient else None
    server = strategy.start(trainer.shapes(), top.rank, top.s, seed, gradients)
    return State(server, dict.fromkeys(who, -1 if strategy.start_travels else 0))


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
    """Plays rounds until there are `rounds`; changes `state` in place. Returns False where it was stopped before.

    A round that is stopped half-way counts for nothing: the state stays that of the last whole round.
    """
    while state.server.round < rounds:
        began = time.monotonic()
        round_ = state.server.round + 1
        present = draw_present(who, drop_out, state.server.seed, round_)
        taken = _train_all(strategy, who, trainer, state, present, round_, emit, should_stop)
        if taken is None:
            return False
        before = state.server
        outcome = play_round(strategy, before, taken.messages, who)
        state.server = outcome.server
        state.up += taken.up
        state.down += taken.down
        state.step += taken.steps
        state.tokens += taken.tokens
        state.since.update(dict.fromkeys(present, round_ - 1))
        if outcome.clients:
            state.last, state.last_round = outcome.clients, round_
        event = describe_round(outcome, before, taken, state) | trainer.judge(outcome.server)
        event["seconds"] = round(time.monotonic() - began, 3)
        for sentence in round_messages(outcome, round_):
            emit({"type": "message", "level": "warning", "text": sentence})
        emit(event)
        state.history.append({key: value for key, value in event.items() if key != "spectra"})
        after_round(state)
    return True


@dataclass
class _Taken:
    """What the clients of one round sent and cost."""

    messages: dict[str, Message | None]
    losses: dict[str, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    steps: int = 0
    tokens: int = 0


def _train_all(
    strategy: Strategy,
    who: Mapping[str, Party],
    trainer: Trainer,
    state: State,
    present: list[str],
    round_: int,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> _Taken | None:
    """Each present client in turn: message down, local training, message up. None where it was stopped."""
    server = state.server
    taken = _Taken(dict.fromkeys(name for name, party in who.items() if party.examples > 0))
    merged = server.merged_total()
    for number, (name, party) in enumerate(who.items()):
        if name not in present:
            continue
        if should_stop():
            return None
        down = strategy.download(server, party.rank, party.s, state.since[name])
        # What the client holds for the parts that are not in the message is what the server knows, by construction.
        start = strategy.receive(strategy.local(server, party.rank, party.s), down, round_, server.seed)
        offset = state.step + taken.steps
        done = trainer.train(
            number, start, merged, strategy.trained(round_), round_, _shifted(emit, offset, name, round_)
        )
        if done.stopped:
            return None
        up = strategy.upload(done.factors, round_)
        taken.messages[name] = up
        if np.isfinite(done.loss):
            taken.losses[name] = round(done.loss, 4)
        taken.up += size(up)
        taken.down += size(down)
        taken.steps += done.steps
        taken.tokens += done.tokens
    return taken


def draw_present(who: Mapping[str, Party], drop_out: float, seed: int, round_: int) -> list[str]:
    """The clients with data that do not drop out of a round; the draw depends on seed and round alone."""
    draws = np.random.default_rng([seed, 7, round_]).random(len(who))
    return [name for (name, party), draw in zip(who.items(), draws) if party.examples > 0 and draw >= drop_out]


def local_seed(seed: int, round_: int, client: int) -> int:
    """The seed of a client's training in a round, the same wherever it trains."""
    return int(np.random.default_rng([seed, 11, round_, client]).integers(2**31 - 1))


def describe_round(outcome: Outcome, before: Server, taken: Any, state: State) -> dict[str, Any]:
    """The `round` event without the judge's part."""
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
        "step": state.step,
        "error": None if outcome.error is None else float(f"{outcome.error:.4g}"),
        "weights": {name: round(p, 4) for name, p in outcome.weights.items()},
        "left_out": outcome.left_out,
        "client_loss": taken.losses,
        "bytes": {"up": taken.up, "down": taken.down, "up_total": state.up, "down_total": state.down},
        "rank": rank,
        "spectra": round_spectra(outcome, before, modules[::stride]),
    }


def round_messages(outcome: Outcome, round_: int) -> list[str]:
    """Sentences for the person about who was missing; empty where nobody was."""
    if not outcome.left_out:
        return []
    if not outcome.weights:
        return [f"Round {round_}: no client delivered, so the global update stays as it was; the run goes on."]
    return [f"Round {round_}: {name} was left out: it {why}." for name, why in outcome.left_out.items()]


def _rank(pairs: Mapping[str, Pair]) -> float:
    """Mean numerical rank over modules (directions above 1e-5 of the largest)."""
    counts = []
    for pair in pairs.values():
        sigma = singular_values(pair)
        counts.append(int(np.count_nonzero(sigma > 1e-5 * sigma[0])) if sigma.size and sigma[0] > 0 else 0)
    return round(float(np.mean(counts)), 2) if counts else 0.0


def _shifted(emit: Emit, offset: int, client: str, round_: int) -> Emit:
    """Passes a client's loss events on, counted over the whole run; its other events concern nobody here."""

    def pass_on(event: dict[str, Any]) -> None:
        if event.get("type") == "loss":
            emit(event | {"steps": [offset + step for step in event["steps"]], "client": client, "round": round_})
        elif event.get("type") == "message":
            emit(event)

    return pass_on
