"""Which runs a sweep has: every combination of ranks, variants, learning rates and seeds on one config."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.variants import get_variant

MAX_RUNS = 32
"""The largest number of runs in a sweep."""
MAX_TITLE_LENGTH = 80


@dataclass(frozen=True)
class Point:
    """One run of a grid: its config, and its values of the swept options. `rank` is None for a variant without a rank,
    `learning_rate` None for the variant's default."""

    config: RunConfig
    variant: str
    rank: int | None
    learning_rate: float | None
    seed: int


@dataclass(frozen=True)
class Grid:
    """The values of each swept option. For an empty one, the base config's value holds.

    A variant other than the base config's takes its own defaults for all options that are not swept.
    """

    ranks: tuple[int, ...] = ()
    variants: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    def points(self, base: RunConfig) -> list[Point]:
        """The runs without duplicates, all runs of the first seed before those of the next.

        Raises:
            ConfigError: the base config is federated, there are more than `MAX_RUNS`, or a value is not allowed.
        """
        if base.federated is not None:
            raise ConfigError("sweep", "federated", "a sweep is made of runs at one place; leave the parties out")
        found: dict[str, Point] = {}
        for seed in _once(self.seeds) or [base.training.seed]:
            for rate in _once(self.learning_rates) or [base.training.learning_rate]:
                for name in _once(self.variants) or [base.variant.name]:
                    ranks: list[int | None] = list(_once(self.ranks)) if has_rank(name) else []
                    for rank in ranks or [None]:
                        point = self._point(base, name, rank, rate, seed)
                        found.setdefault(point.config.model_dump_json(), point)
        if len(found) > MAX_RUNS:
            raise ConfigError("sweep", f"{len(found)} runs", f"a sweep has at most {MAX_RUNS}; sweep fewer values")
        return list(found.values())

    def _point(self, base: RunConfig, name: str, rank: int | None, rate: float | None, seed: int) -> Point:
        data = base.model_dump(mode="json", exclude_unset=True)
        data["training"] = data.get("training", {}) | {"learning_rate": rate, "seed": seed}
        options: dict[str, Any] = data.get("variant", {}) if name == base.variant.name else {}
        data["variant"] = options | {"name": get_variant(name).name} | ({"rank": rank} if rank is not None else {})
        config = RunConfig.parse(data | {"title": ""})
        shown = getattr(config.variant, "rank", None)
        return Point(config.model_copy(update={"title": self._title(base, config)}), name, shown, rate, seed)

    def _title(self, base: RunConfig, config: RunConfig) -> str:
        """The run's title: the base config's title or dataset, then the values in which the sweep's runs differ."""
        rank = getattr(config.variant, "rank", None)
        parts = [base.title or base.data.dataset, config.variant.name + (f" r{rank}" if rank else "")]
        if len(_once(self.learning_rates)) > 1:
            parts.append(f"rate {config.training.learning_rate:g}")
        if len(_once(self.seeds)) > 1:
            parts.append(f"seed {config.training.seed}")
        left = MAX_TITLE_LENGTH - sum(len(part) + 3 for part in parts[1:])
        return " · ".join([parts[0][:left], *parts[1:]])

    def label(self, base: RunConfig) -> str:
        """The sweep's name, such as 'facts: 4 ranks × 3 seeds'."""
        axes = ((self.ranks, "rank"), (self.variants, "variant"), (self.learning_rates, "rate"), (self.seeds, "seed"))
        said = [f"{len(_once(values))} {name}s" for values, name in axes if len(_once(values)) > 1]
        name = base.title or base.data.dataset
        return f"{name[:50]}: {' × '.join(said) or 'one run'}"


def has_rank(name: str) -> bool:
    """Whether a variant has a rank. Raises ConfigError for an unknown variant."""
    return "rank" in get_variant(name).config.model_fields


def _once(values: Iterable[Any]) -> list[Any]:
    """The values in their order, without duplicates."""
    return list(dict.fromkeys(values))
