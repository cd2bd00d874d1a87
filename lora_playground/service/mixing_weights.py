"""Checks the runs and weights of a mixture that a program gives."""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError
from lora_playground.service.values import listed


def weighed(runs: Any, weights: Any) -> tuple[list[str], list[float]]:
    """(run ids, one weight for each; all 1 if `weights` is None). Raises ConfigError if the lists do not fit together,
    or one holds something else."""
    names = listed("runs", runs, str)
    shares = [float(share) for share in listed("weights", weights, int, float)] or [1.0] * len(names)
    if len(shares) != len(names):
        raise ConfigError("weights", weights, "give one for each run")
    return names, shares
