"""The registry of strategies: every module in this folder that defines `STRATEGY` is one, found by listing it."""

import importlib
import pkgutil
from dataclasses import replace
from typing import Any

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


def get_strategy(name: str, **settings: float) -> Strategy:
    """The strategy of that name. Raises ConfigError, which lists the names, if there is none.

    Args:
        settings: options of strategies, such as `energy` and `damping`; those that this one does not have are ignored.
    """
    if name not in STRATEGIES:
        raise ConfigError("federated.strategy", name, f"choose one of {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[name]
    own: dict[str, Any] = {key: value for key, value in settings.items() if hasattr(strategy, key)}
    return replace(strategy, **own)
