"""Checks single values that a program gives; errors are worded like those of the schema."""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError


def words(name: str, value: Any, most: int) -> str:
    """Checks a text of at most `most` characters. Raises ConfigError."""
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise ConfigError(name, value, f"give a text of at most {most:,} characters")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Checks a whole number from `low` to `high`. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"give a whole number from {low:,} to {high:,}")
    return value


def number(name: str, value: Any, low: float, high: float) -> float:
    """Checks a number from `low` to `high`. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(name, value, f"give a number from {low:,} to {high:,}")
    return float(value)


def listed(name: str, value: Any, *kinds: type) -> list[Any]:
    """Checks a list whose items have one of the types `kinds`; [] for None. Raises ConfigError."""
    items = [] if value is None else value
    if not isinstance(items, list) or any(isinstance(one, bool) or not isinstance(one, kinds) for one in items):
        raise ConfigError(name, value, f"give a list of {'texts' if kinds == (str,) else 'numbers'}")
    return items


def weighed(runs: Any, weights: Any) -> tuple[list[str], list[float]]:
    """(run ids, one weight for each; all 1 if `weights` is None). Raises ConfigError if the lists do not fit together,
    or one holds something else."""
    names = listed("runs", runs, str)
    shares = [float(share) for share in listed("weights", weights, int, float)] or [1.0] * len(names)
    if len(shares) != len(names):
        raise ConfigError("weights", weights, "give one for each run")
    return names, shares
