"""How often a run will see its training rows, before anything is loaded: from a sample of encoded rows. No torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import encode
from lora_playground.models.catalogue import folder_of
from lora_playground.models.plain_tokenizer import PlainTokenizer

_SAMPLE = 200
"""Rows that are encoded for the mean length, in some hundredths of a second."""


def epochs(config: RunConfig, home: Path, steps: int | None = None) -> float | None:
    """Passes over the training rows in so many steps (the config's own where not given), padding left out.

    Returns:
        None where the base model is not on this disk, since its tokenizer is then unknown.

    Raises:
        DataError, ModelError: the dataset or the tokenizer cannot be used.
    """
    folder = folder_of(config.model.source)
    if folder is None:
        return None
    rows, mean = _lengths(home, config.data.dataset, folder, config.data.max_length)
    rows = min(rows, config.data.train_rows or rows)
    rehearsal = config.data.rehearsal if config.model.embedded else 0.0
    seen = (steps or config.training.steps) * config.training.batch_tokens * (1 - rehearsal)
    return seen / (rows * mean) if rows else None


@lru_cache(maxsize=32)
def _lengths(home: Path, dataset: str, folder: Path, longest: int) -> tuple[int, float]:
    """(training rows, their mean number of tokens). A dataset's name always stands for the same rows."""
    rows = get_dataset(dataset, home).train
    sample = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
    examples = encode(PlainTokenizer(folder), sample, longest).examples
    return len(rows), sum(len(example.ids) for example in examples) / len(sample)
