"""Scores of any update on the datasets of some runs, with one base in memory. The scoring is `jobs.scoring`'s.

It loads torch: the page asks for it through `lab.process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.update import Update
from lora_playground.config import ModelConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.jobs.scoring import score_update
from lora_playground.runs import Run

if TYPE_CHECKING:
    from lora_playground.models.loading import Base

ROWS = 24
"""Test rows a score is made of, unless told: few, so that many mixtures are scored in little time."""


@dataclass
class Tasks:
    """Asks for scores on one base.

    Attributes:
        home: of datasets and kept answers. model: the base. rows: test rows a dataset.
    """

    home: Path
    model: ModelConfig
    rows: int = ROWS
    _loaded: list[Base] = field(default_factory=list, repr=False)

    @property
    def base(self) -> Base:
        """The base, loaded at the first need."""
        if not self._loaded:
            from lora_playground.models.loading import load_base

            self._loaded.append(load_base(self.model))
        return self._loaded[0]

    def score(self, updates: Sequence[Update], dataset: str, skills: bool = False) -> dict[str, Any]:
        """`value`, `low`, `high` (95%), `base`, `n` of an update on a dataset's test part; with `skills` also
        `forgetting` {base, adapted, drop, low, high, n} where the base is the embedded model.

        An update of nothing is the base's own score.
        """
        embedded = skills and self.model.source == "embedded"
        found = score_update(self.base, list(updates), dataset, self.home, self.rows, None, embedded)
        score, lost = found["score"], found["forgetting"]
        told: dict[str, Any] = {"value": None, "low": None, "high": None, "base": None, "n": 0}
        if score is not None:
            told = {"value": score["adapted"], **{key: score[key] for key in ("low", "high", "base", "n")}}
        if lost is not None:
            told["forgetting"] = {key: lost[key] for key in ("base", "adapted", "drop", "low", "high", "n")}
        return told


def datasets_of(runs: Sequence[Run], home: Path) -> list[str]:
    """The datasets that each run learned and that can be scored, in the order of the runs, '' where there is none."""
    from lora_playground import evaluation
    from lora_playground.errors import PlaygroundError

    names = []
    for run in runs:
        try:
            data = get_dataset(run.config().data.dataset, home)
            names.append(data.card.name if data.test and data.card.metric in evaluation.METRICS else "")
        except PlaygroundError:
            names.append("")
    return names
