"""Checks that a federated run's options fit each other: ranks and clients; variant, base model and strategy.

It knows the schema and the strategies' declarations; neither torch nor models.
"""

from collections.abc import Sequence

from lora_playground.config import FederatedConfig, RunConfig
from lora_playground.errors import ConfigError
from lora_playground.federated.strategies import get_strategy
from lora_playground.federated.strategies.base import Strategy

VARIANTS = ("lora", "rslora", "loraplus")
"""Variants that every strategy can train: the update is s·B·A, B starts at 0, both factors train, W stays as it is."""

_START = (
    "its update is B·A − B₀·A₀ with a start that is not zero, and here every round begins from what the server sends"
)
_CORE = "it has a third factor between B and A; take lora with the strategy fedsb, which trains such a core"
_WHY_NOT = {
    "lorafa": "it trains B alone, by a rule made for a frozen A; take lora with the strategy ffa, which freezes A too",
    "dora": "it also trains a magnitude for every row of W, which is no part of a product B·A",
    "eva": "its start comes from each client's own data, and all clients must begin alike",
    "celora": "it splits W once at its start, and here W changes between rounds",
    "adalora": "it changes its rank while it trains, each client by its own data",
    "gralora": "its update is many small products of blocks, not one product B·A",
    "full": "its update is a dense matrix, and only factors travel",
    **dict.fromkeys(("nlora", "slora", "inttune", "loraxs", "polar"), _CORE),
    **dict.fromkeys(("pissa", "wslice", "olora", "loraga", "corda", "osf", "loftq"), _START),
}
"""{variant: the reason why it cannot be federated}, for those with a special reason."""


def why_not(variant: str) -> str:
    """The reason why a variant cannot be used in a federated run; '' if it can."""
    if variant in VARIANTS:
        return ""
    return _WHY_NOT.get(variant, "its update is not a product of two factors B·A")


def client_ranks(config: RunConfig) -> list[int]:
    """The rank of each client. Raises ConfigError if the list does not fit the number of clients."""
    federated = _section(config)
    if federated.ranks is None:
        return [int(getattr(config.variant, "rank", 8))] * federated.clients
    ranks = list(federated.ranks)
    if len(ranks) == 1:
        ranks = ranks * federated.clients
    if len(ranks) != federated.clients:
        raise ConfigError(
            "federated.ranks", ranks, f"give one rank for all, or exactly {federated.clients}, one for each client"
        )
    if min(ranks) < 1 or max(ranks) > 4096:
        raise ConfigError("federated.ranks", ranks, "each rank must be 1 to 4096")
    return ranks


def strategy_of(config: RunConfig) -> Strategy:
    """The strategy with its options."""
    federated = _section(config)
    return get_strategy(federated.strategy, energy=federated.energy, damping=federated.damping)


def check(config: RunConfig, bits: int | None = None) -> Strategy:
    """Raises ConfigError if strategy, ranks, variant and base do not fit each other; returns the strategy."""
    strategy = strategy_of(config)
    ranks = client_ranks(config)
    strategy.check(ranks)
    if reason := why_not(config.variant.name):
        raise ConfigError("variant.name", config.variant.name, f"{reason}; federated runs take {', '.join(VARIANTS)}")
    if getattr(config.variant, "dropout", 0.0) and strategy.name == "fedsb":
        raise ConfigError("variant.dropout", config.variant.dropout, "Fed-SB trains without dropout; set it to 0")  # type: ignore[attr-defined]
    stored = config.model.bits if bits is None else bits
    if stored < 16 and strategy.changes_base:
        raise ConfigError(
            "model.quantisation",
            config.model.quantisation,
            f"{strategy.label} changes the base weight, which cannot be done to a quantised one; choose 'none', or "
            f"another strategy",
        )
    return strategy


def table(config: RunConfig, strategies: Sequence[str]) -> list[RunConfig]:
    """The config with each of these strategies. Raises ConfigError for the first that cannot be run."""
    if not strategies:
        raise ConfigError("federated.strategy", [], "choose at least one strategy")
    federated = _section(config)
    made = [config.model_copy(update={"federated": federated.model_copy(update={"strategy": n})}) for n in strategies]
    for one in made:
        check(one)
    return made


def _section(config: RunConfig) -> FederatedConfig:
    if config.federated is None:
        raise ConfigError("federated", None, "this run is not a federated one; give it a federated section")
    return config.federated
