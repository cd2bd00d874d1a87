"""The server's part of a round: read the clients' messages, leave out damaged ones, aggregate, measure the error.

Plain NumPy; it knows the strategies' interface but no single strategy, and neither model nor data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lora_playground.analysis.low_rank import qr_singular_values
from lora_playground.federated.pairs import Pair, norm, stack
from lora_playground.federated.strategies.base import Factors, Message, Server, Strategy, ideal


@dataclass(frozen=True)
class Party:
    """What the server knows of a client: name, rank, scaling s, number of examples."""

    name: str
    rank: int
    s: float
    examples: int


@dataclass(frozen=True)
class Outcome:
    """The result of a round.

    Attributes:
        server: the server after the round.
        weights: p_k of the clients whose messages were used; empty if none was. left_out: {client: reason}.
        error: ‖ΔW_server − ΔW_ideal‖_F / ‖ΔW_ideal‖_F over all modules together; None if no message was used.
        ideal: Σ p_k s_k B_k A_k of this round. clients: the factors in the used messages.
    """

    server: Server
    weights: dict[str, float]
    left_out: dict[str, str]
    error: float | None = None
    ideal: dict[str, Pair] = field(default_factory=dict)
    clients: dict[str, Factors] = field(default_factory=dict)


def aggregate(
    strategy: Strategy, server: Server, messages: Mapping[str, Message | None], parties: Mapping[str, Party]
) -> Outcome:
    """Aggregates one round.

    Args:
        messages: what each client sent; None for a client that dropped out.
        parties: all clients; the weights are the shares of examples among those whose message is sound.
    """
    opened: dict[str, Factors] = {}
    left_out: dict[str, str] = {}
    for name, message in messages.items():
        party = parties[name]
        if message is None:
            left_out[name] = "dropped out of this round"
        elif party.examples <= 0:
            left_out[name] = "has no examples"
        else:
            try:
                opened[name] = strategy.open(server, message, party.rank, party.s)
            except KeyError as missing:
                left_out[name] = f"sent no {missing.args[0]}"
            except ValueError as wrong:
                left_out[name] = str(wrong)
    if not opened:
        return Outcome(strategy.idle(server), {}, left_out)
    total = sum(parties[name].examples for name in opened)
    weights = {name: parties[name].examples / total for name in opened}
    after = strategy.aggregate(server, opened, weights)
    wanted = ideal(opened, weights)
    return Outcome(after, weights, left_out, relative_error(added(server, after), wanted), wanted, opened)


def added(before: Server, after: Server) -> dict[str, Pair]:
    """{module: what a round added to the base that its clients trained on}: the round's changes of the base and the new
    factors, as one pair."""
    known = {round_ for round_, _ in before.merged}
    fresh = replace(after, merged=tuple(change for change in after.merged if change[0] not in known))
    return {module: fresh.update(module) for module in after.factors}


def relative_error(got: Mapping[str, Pair], wanted: Mapping[str, Pair]) -> float:
    """‖got − wanted‖_F/‖wanted‖_F over all modules together; 0 if both are zero."""
    error = np.linalg.norm([norm(stack([got[module], wanted[module]], [1.0, -1.0])) for module in wanted])
    size = np.linalg.norm([norm(pair) for pair in wanted.values()])
    if size > 0:
        return float(error / size)
    return 0.0 if error == 0 else float("inf")


def round_spectra(outcome: Outcome, before: Server, modules: list[str]) -> dict[str, dict[str, object]]:
    """{module: {'global': of the global update, 'ideal': of this round's ideal mean, 'clients': of each client's
    update}}, all singular values."""
    base = before.merged_total()
    shown: dict[str, dict[str, object]] = {}
    for module in modules:

        def sigma(added: Pair, module: str = module) -> list[float]:
            pairs = [base[module], added] if module in base else [added]
            return _digits(qr_singular_values(*stack(pairs)))

        shown[module] = {
            "global": _digits(qr_singular_values(*outcome.server.update(module))),
            "ideal": sigma(outcome.ideal[module]) if outcome.ideal else [],
            "clients": {name: sigma(factors[module].pair) for name, factors in outcome.clients.items()},
        }
    return shown


def _digits(values: np.ndarray, most: int = 64) -> list[float]:
    """At most `most` values with four significant digits, without the zeros at the end of a stacked update."""
    if not values.size or values[0] <= 0:
        return [0.0]
    kept = values[values > 1e-6 * values[0]][:most]
    return [float(f"{value:.4g}") for value in kept]
