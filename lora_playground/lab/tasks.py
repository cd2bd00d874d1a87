"""Scores any updates on datasets, with one base model in memory. `jobs.scoring` does the scoring. Loads torch: the web
process asks for it through `lab.process`."""

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
"""Default number of test rows for a score: few, so that many mixtures can be scored in short time."""


@dataclass
class Tasks:
    """Scores updates on one base model.

    Attributes:
        home: has people's datasets and stored answers. model: the base. rows: test rows of each dataset to score.
    """

    home: Path
    model: ModelConfig
    rows: int = ROWS
    _loaded: list[Base] = field(default_factory=list, repr=False)

    @property
    def base(self) -> Base:
        """The base model, loaded when first used."""
        if not self._loaded:
            from lora_playground.models.loading import load_base

            self._loaded.append(load_base(self.model))
        return self._loaded[0]

    def score(self, updates: Sequence[Update], dataset: str, skills: bool = False) -> dict[str, Any]:
        """The score of an update on a dataset's test part. No updates give the base's own score.

        Args:
            skills: whether to measure forgetting too, if the base is the embedded model.

        Returns:
            {value, low, high: 95% interval, base: the base's score, n: rows}, all from 0 to 1 and None if there is no
            score; with forgetting also `forgetting`: {base, adapted, drop, low, high: 95% interval of the drop, n}.
        """
        embedded = skills and self.model.embedded
        found = score_update(self.base, list(updates), dataset, self.home, self.rows, None, embedded)
        score, lost = found["score"], found["forgetting"]
        values: dict[str, Any] = {"value": None, "low": None, "high": None, "base": None, "n": 0}
        if score is not None:
            values = {"value": score["adapted"], **{key: score[key] for key in ("low", "high", "base", "n")}}
        if lost is not None:
            values["forgetting"] = {key: lost[key] for key in ("base", "adapted", "drop", "low", "high", "n")}
        return values


def datasets_of(runs: Sequence[Run], home: Path) -> list[str]:
    """The dataset of each run, '' if it has no test part or no metric to score it by."""
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
