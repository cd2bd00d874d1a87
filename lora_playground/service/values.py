"""Checks of single values that come from a program, in the words of the schema's own errors."""

from __future__ import annotations

from typing import Any

from lora_playground.errors import ConfigError


def words(name: str, value: Any, most: int) -> str:
    """The text; raises ConfigError where it is none, or too long."""
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise ConfigError(name, value, f"give a text of at most {most:,} characters")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The whole number; raises ConfigError where it is none, or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"give a whole number from {low:,} to {high:,}")
    return value


def number(name: str, value: Any, low: float, high: float) -> float:
    """The number; raises ConfigError where it is none, or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(name, value, f"give a number from {low:,} to {high:,}")
    return float(value)


def listed(name: str, value: Any, *kinds: type) -> list[Any]:
    """The list, [] for None; raises ConfigError where it is none, or holds something else than `kinds`."""
    items = [] if value is None else value
    if not isinstance(items, list) or any(isinstance(one, bool) or not isinstance(one, kinds) for one in items):
        raise ConfigError(name, value, f"give a list of {'texts' if kinds == (str,) else 'numbers'}")
    return items
