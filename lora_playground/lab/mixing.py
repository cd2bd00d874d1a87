"""Mixtures of the adapters of several runs: checks them, makes them, saves them as runs. It scores nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_playground.analysis.interference import inner
from lora_playground.analysis.merging import METHODS, MOST, Mixture, Recipe
from lora_playground.analysis.update import Update, load_updates
from lora_playground.config import ModelConfig
from lora_playground.errors import ConfigError, RunError
from lora_playground.exchange.importing import derive
from lora_playground.runs import Run, RunStore

LEAST = 2


@dataclass(frozen=True)
class Mixed:
    """A mixture of runs.

    Attributes:
        runs: all on the same base model. weights: one for each run, from −2 to 2. recipe: the merging method.
    """

    runs: list[Run]
    weights: list[float]
    recipe: Recipe

    @property
    def model(self) -> ModelConfig:
        """The base model of all runs."""
        return self.runs[0].config().model

    def adapters(self) -> list[list[Update]]:
        """The updates of every run."""
        return [load_updates(run.update_path) for run in self.runs]

    def about(self) -> dict[str, Any]:
        """The mixture as data for JSON: {runs: [{run, label, weight}], method, and the method's options}."""
        parts = [{"run": run.id, "label": run.label, "weight": w} for run, w in zip(self.runs, self.weights)]
        used = {name: asdict(self.recipe)[name] for name in METHODS[self.recipe.method].options}
        return {"runs": parts, "method": self.recipe.method, **used}


def mixed(store: RunStore, ids: Sequence[str], weights: Sequence[float], recipe: Recipe) -> Mixed:
    """Checks a mixture of runs.

    Raises:
        ConfigError: fewer than two or too many runs, one twice, or a weight outside −2 to 2.
        RunError: a run does not exist or has no update, or the runs have different base models.
    """
    if not LEAST <= len(ids) <= MOST or len(set(ids)) < len(ids):
        raise ConfigError("runs", ", ".join(ids), f"name {LEAST} to {MOST} different runs")
    for weight in weights:
        if not -2.0 <= weight <= 2.0:
            raise ConfigError("weight", weight, "give a number from -2 to 2")
    runs = [store.get(id) for id in ids]
    for run in runs:
        run.require_update()
    sources = {run.config().model.source for run in runs}
    if len(sources) > 1:
        raise RunError(f"These runs belong to {' and '.join(sorted(sources))}; mix runs of one base model.")
    return Mixed(runs, [float(weight) for weight in weights], recipe)


def norm(updates: Sequence[Update]) -> float:
    """The Frobenius norm of all modules' updates together."""
    return sum(inner(update, update) for update in updates) ** 0.5


def numbers(chosen: Mixed, made: Sequence[Update], adapters: Sequence[Sequence[Update]]) -> dict[str, Any]:
    """Key figures of a mixture.

    Args:
        made: its updates. adapters: the updates of each of its runs.

    Returns:
        `chosen.about()` with `modules`: their number; `rank`: the largest of its modules, None if all are dense;
        `norm`: its Frobenius norm; `norms`: those of its runs.
    """
    ranks = [update.B.shape[1] for update in made if update.B is not None]
    return {
        **chosen.about(),
        "modules": len(made),
        "rank": max(ranks, default=None),
        "norm": norm(made),
        "norms": [norm(updates) for updates in adapters],
    }


def save(store: RunStore, chosen: Mixed, title: str = "") -> Run:
    """Saves a mixture as a run. Its adapter is a plain LoRA, which PEFT can load."""
    made = Mixture(chosen.adapters(), chosen.recipe).updates(chosen.weights)
    # The numbers of steps are left out, to keep the name short.
    labels = [re.sub(r" · \d+ steps?\b", "", run.label) for run in chosen.runs]
    names = " + ".join(f"{w:g}·{label}" for label, w in zip(labels, chosen.weights))
    title = title or f"{METHODS[chosen.recipe.method].label}: {names}"
    return derive(store, chosen.runs[0], made, title, {"mixture": chosen.about()})
