"""The registry of strategies: every module in this folder that defines `STRATEGY` is one, found by listing it."""

import importlib
import pkgutil

from lora_playground.errors import ConfigError
from lora_playground.federated.strategies.base import Strategy


def _discover() -> dict[str, Strategy]:
    found: dict[str, Strategy] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        strategy = getattr(importlib.import_module(f"{__name__}.{module.name}"), "STRATEGY", None)
        if strategy is not None:
            found[strategy.name] = strategy
    return found


STRATEGIES: dict[str, Strategy] = _discover()


def get_strategy(name: str) -> Strategy:
    """The strategy of that name; raises ConfigError naming the ones there are."""
    try:
        return STRATEGIES[name]
    except KeyError:
        raise ConfigError("federated.strategy", name, f"choose one of {', '.join(STRATEGIES)}") from None
