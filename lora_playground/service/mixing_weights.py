"""Runs with the weights of a mixture, as programs give them."""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError
from lora_playground.service.values import listed


def weighed(runs: Any, weights: Any) -> tuple[list[str], list[float]]:
    """Ids and one weight for each; raises ConfigError where their numbers differ, or one is not of its kind."""
    names = listed("runs", runs, str)
    shares = [float(share) for share in listed("weights", weights, int, float)] or [1.0] * len(names)
    if len(shares) != len(names):
        raise ConfigError("weights", weights, "give one for each run")
    return names, shares
