"""The number of epochs of a run, estimated before anything is loaded, from a sample of encoded rows. No torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import encode
from lora_playground.models.catalogue import folder_of
from lora_playground.models.plain_tokenizer import PlainTokenizer

_SAMPLE = 200
"""Number of rows that are encoded to get the mean length, which takes some hundredths of a second."""


def epochs(config: RunConfig, home: Path, steps: int | None = None) -> float | None:
    """Passes over the training rows in `steps` steps (None for the config's own), without padding.

    Returns:
        None if the base model, and so its tokenizer, is not on this disk.

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
    """(number of training rows, their mean length in tokens). Cached, since a dataset's rows never change."""
    rows = get_dataset(dataset, home).train
    sample = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
    examples = encode(PlainTokenizer(folder), sample, longest).examples
    return len(rows), sum(len(example.ids) for example in examples) / len(sample)
