"""Places on a base what its panes answer with: updates of runs, single directions of these, mixtures of runs.

It knows run folders and panes; nothing of requests or rows. Only one thread may call it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from lora_playground.analysis.directions import alone, random_direction, without
from lora_playground.analysis.merging import Mixture
from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import load_updates
from lora_playground.chat.protocol import Direction, Mixing, Pane
from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.models.batched_lora import RowUpdate
from lora_playground.models.placed_mixture import PlacedMixture
from lora_playground.models.placed_update import PlacedUpdate
from lora_playground.runs import Run, RunStore

ADAPTERS, MIXTURES = 24, 4
"""How many adapters, and how many mixtures, stay in memory."""

T = TypeVar("T")


def run_ids(pane: Pane) -> list[str]:
    """The ids of the runs that a pane answers with; [] for the base."""
    return [one.run for one in pane.mixture.runs] if pane.mixture else [pane.run] if pane.run else []


class Adapters:
    """Updates and mixtures placed on one base.

    Args:
        store: the runs. model: the base. source: of the base; runs must have been trained on it.
    """

    def __init__(self, store: RunStore, model: nn.Module, source: str) -> None:
        self._store, self._model, self._source = store, model, source
        self._updates: OrderedDict[Any, PlacedUpdate] = OrderedDict()
        self._mixtures: OrderedDict[Any, PlacedMixture] = OrderedDict()

    def of(self, pane: Pane) -> RowUpdate | None:
        """The update with which a pane answers; None for the base. Raises ChatError, AdapterError or ModelError."""
        if pane.mixture is not None:
            return RowUpdate(self._mixture(pane.mixture).at([one.weight for one in pane.mixture.runs]), pane.strength)
        if pane.run is None:
            return None
        run = self._run(pane.run)
        if pane.direction is not None:
            return RowUpdate(self._direction(run, pane.direction), pane.strength)
        return RowUpdate(
            self.update(run.id), pane.strength, None if pane.cut is None else Truncation.between(*pane.cut)
        )

    def update(self, id: str) -> PlacedUpdate:
        """A run's whole update."""
        run = self._run(id)
        return _kept(
            self._updates, _key(run), ADAPTERS,
            lambda: PlacedUpdate(self._model, load_updates(run.update_path), f"Run {run.id}"),
        )  # fmt: skip

    def _run(self, id: str) -> Run:
        run = self._store.get(id)
        if not run.update_path.is_file():
            raise ChatError(f"Run {run.id} has nothing to chat with yet; wait until its training has ended.")
        made_for = run.config().model
        if made_for.source != self._source:
            raise ChatError(
                f"Run {run.id} was trained on {made_for.source}, this chat is on {self._source}; "
                "put only runs of one base model side by side."
            )
        return run

    def _direction(self, run: Run, direction: Direction) -> PlacedUpdate:
        change = {"alone": alone, "without": without, "random": random_direction}[direction.keep]
        seed = {"seed": direction.seed} if direction.keep == "random" else {}

        def place() -> PlacedUpdate:
            left = change(self.update(run.id).updates, direction.module, direction.index, **seed)
            return PlacedUpdate(self._model, left, f"Run {run.id}")

        return _kept(self._updates, (*_key(run), direction.model_dump_json()), ADAPTERS, place)

    def _mixture(self, mixing: Mixing) -> PlacedMixture:
        """The placed mixture, which can be used with any weights."""
        recipe, runs = mixing.recipe, [self._run(one.run) for one in mixing.runs]

        def place() -> PlacedMixture:
            adapters = [load_updates(run.update_path) for run in runs]
            return PlacedMixture(self._model, Mixture(adapters, recipe), "The mixture")

        return _kept(self._mixtures, (recipe, *map(_key, runs)), MIXTURES, place)


def base_of(store: RunStore, panes: list[Pane], given: ModelConfig | None) -> ModelConfig:
    """The base of a request: the given one, else the first run's, else the embedded model."""
    first = next((id for pane in panes for id in run_ids(pane)), None)
    return given or (store.get(first).config().model if first else ModelConfig.model_validate({}))


def _key(run: Run) -> tuple[str, int]:
    return run.id, run.update_path.stat().st_mtime_ns


def _kept(cache: OrderedDict[Any, T], key: Any, most: int, make: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
