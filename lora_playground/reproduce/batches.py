"""Makes the data file of a standalone script: the examples of a run, and their places in the rows of its batches.

Every example is stored once, and a row is a list of example numbers. So the file stays small however long the run was,
and the script needs no dataset, tokenizer, template or packing. It knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import Example
from lora_playground.data.packing import Stream, digest_of
from lora_playground.data.preparation import prepare
from lora_playground.errors import RunError
from lora_playground.runs import Run

START_EXAMPLES = 32
"""The number of examples, eight a batch, from which a variant with a data-driven start computes it."""


@dataclass(frozen=True)
class Recipe:
    """The facts of a finished run that a script needs, from its events.

    Attributes:
        steps: optimiser steps; accumulation: micro-batches per step.
        rows, length, solo: shape of a micro-batch, and whether every example had a row of its own.
        examples: digest of the encoded examples; peak: the highest learning rate.
        precision: 'float32' or 'bfloat16'; rates: learning rate of every step.
    """

    steps: int
    accumulation: int
    rows: int
    length: int
    solo: bool
    examples: str
    peak: float
    precision: str
    rates: list[float]

    @classmethod
    def of(cls, run: Run) -> Recipe:
        """Reads a run's events; raises RunError if it has not finished, or an event is missing."""
        result = run.result()
        if result is None:
            raise RunError(f"Run {run.id} is {run.state()}; only a finished run can be reproduced.")
        progress = run.progress()
        plan, rates = progress.plan, dict(zip(progress.steps, progress.learning_rates))
        told = plan.get("recipe")
        if told is None:
            raise RunError(
                f"Run {run.id} does not tell how its batches were laid out (an older version made it). "
                "Take its config, or train it once more."
            )
        steps = int(result["steps"])
        return cls(
            steps,
            told.get("accumulation", run.config().training.accumulation),
            told["rows"],
            told["length"],
            told["solo"],
            told["examples"],
            told["learning_rate"],
            plan["precision"],
            [rates[step] for step in range(1, steps + 1)] if all(s in rates for s in range(1, steps + 1)) else [],
        )


def arrays(run: Run, recipe: Recipe, tokenizer: Any, home: Path) -> dict[str, np.ndarray]:
    """The arrays of the data file.

    Returns:
        tokens (t,) int32 and learned (t,) uint8: all used examples, concatenated. starts (e + 1,): index in `tokens` at
        which each begins. order (p,) int32: example numbers, row after row. rows (n + 1,): index in `order` at which
        each row begins; `recipe.rows` rows are a micro-batch. first (k,) int32: the examples for a data-driven start.
        rates (steps,) float64: learning rates, only if the run had a time budget or could end early.

    Raises:
        RunError: the dataset or the tokenizer has changed since the run.
    """
    config = run.config()
    prepared = prepare(
        tokenizer,
        get_dataset(config.data.dataset, home),
        config.data,
        config.training.seed,
        config.model.embedded,
    )
    examples = [*prepared.train, *prepared.rehearsal]
    if digest_of(examples) != recipe.examples:
        raise RunError(
            f"The dataset {config.data.dataset} or the model's tokenizer has changed since run {run.id}, so its "
            "batches cannot be laid out again. Take its config and train anew."
        )
    stream = Stream(
        prepared.train,
        recipe.length,
        recipe.rows,
        0,
        config.training.seed,
        prepared.rehearsal,
        prepared.share,
        recipe.solo,
    )
    rows = [row for _ in range(recipe.steps * recipe.accumulation) for row in stream.layout()]
    return _numbered(rows, prepared.train[:START_EXAMPLES]) | (
        {"rates": np.array(recipe.rates)} if config.training.open_ended else {}
    )


def _numbered(rows: list[list[Example]], first: list[Example]) -> dict[str, np.ndarray]:
    used: dict[int, int] = {}
    kept: list[Example] = []
    for example in [*first, *(example for row in rows for example in row)]:
        if used.setdefault(id(example), len(kept)) == len(kept):
            kept.append(example)
    return {
        "tokens": np.concatenate([example.ids for example in kept]).astype(np.int32),
        "learned": np.concatenate([example.learned for example in kept]).astype(np.uint8),
        "starts": np.cumsum([0, *(len(example.ids) for example in kept)]),
        "order": np.array([used[id(example)] for row in rows for example in row], dtype=np.int32),
        "rows": np.cumsum([0, *(len(row) for row in rows)]),
        "first": np.array([used[id(example)] for example in first], dtype=np.int32),
    }
