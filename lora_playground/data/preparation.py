"""From a dataset and a DataConfig to the encoded examples of a run. It knows no torch and no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_playground.config import DataConfig
from lora_playground.data.catalogue import Dataset, rehearsal_rows
from lora_playground.data.encoding import Example, encode
from lora_playground.data.rehearsal import compared
from lora_playground.errors import DataError

REHEARSAL_ROWS = 1500
"""Enough that a short run hardly repeats one, and few enough to be encoded in a third of a second."""
LONGEST = 512
"""The most tokens of a rehearsed chat: the embedded model's context. No shipped chat is as long."""
NEAR = 0.2
"""Added to a chat's similarity to the data (0 to 1), so that dissimilar ones are rehearsed too."""
_KEPT: dict[int, tuple[Any, list[Example]]] = {}
"""By the tokenizer's id. The tokenizer is kept too, so that no other one gets its id."""


@dataclass(frozen=True)
class Prepared:
    """Encoded examples of a run.

    Attributes:
        train, validation, rehearsal: examples; the last two may be empty.
        share: of the tokens that come from rehearsal, 0 to 1.
        truncated: examples cut to the longest length; unlearnable: rows left out because nothing to learn remained.
        rows: numbers of rows, {'train', 'validation'}.
        notes: for the user to read before the model learns from them.
    """

    train: list[Example]
    validation: list[Example]
    rehearsal: list[Example]
    share: float
    truncated: int
    unlearnable: int
    rows: dict[str, int]
    notes: tuple[str, ...] = ()


def prepare(tokenizer: Any, dataset: Dataset, config: DataConfig, seed: int, embedded: bool) -> Prepared:
    """Shuffles, shortens and encodes the rows.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        dataset: see `catalogue.get_dataset`.
        config: train_rows, max_length and rehearsal are used.
        seed: of the shuffle.
        embedded: whether the base is the embedded model, the only one whose own chats are known.

    Raises:
        DataError: there is nothing to learn in the training rows.
    """
    order = np.random.default_rng([seed, 7]).permutation(len(dataset.train))[: config.train_rows]
    train = encode(tokenizer, [dataset.train[number] for number in order], config.max_length)
    validation = _validation(tokenizer, dataset, config.max_length)
    rehearsal: list[Example] = []
    if embedded and config.rehearsal > 0:
        rehearsal = _rehearsal(tokenizer, dataset, config.max_length, seed)
    return Prepared(
        train.examples,
        validation,
        rehearsal,
        config.rehearsal if rehearsal else 0.0,
        train.truncated,
        train.unlearnable,
        {"train": len(order), "validation": len(dataset.validation)},
        tuple(train.notes()),
    )


def _rehearsal(tokenizer: Any, dataset: Dataset, max_length: int, seed: int) -> list[Example]:
    """Draws some of the base model's own chats that do not contradict the dataset. Chats similar to it are drawn more
    often, since those are forgotten first; short ones too, since the share is one of tokens."""
    examples = rehearsal_examples(tokenizer)
    left_out, near = compared(rehearsal_rows(), dataset.train)
    weights = np.array([(NEAR + share) / len(example.ids) for share, example in zip(near, examples, strict=True)])
    weights[[number in left_out or len(one.ids) > max_length for number, one in enumerate(examples)]] = 0.0
    if not weights.any():
        return []
    order = np.random.default_rng([seed, 8]).choice(len(examples), REHEARSAL_ROWS, p=weights / weights.sum())
    return [examples[number] for number in order]


def rehearsal_examples(tokenizer: Any) -> list[Example]:
    """The embedded base model's own chats, encoded; cached, since a worker encodes them before its run starts."""
    if id(tokenizer) not in _KEPT:
        _KEPT.clear()
        _KEPT[id(tokenizer)] = tokenizer, encode(tokenizer, rehearsal_rows(), LONGEST).examples
    return _KEPT[id(tokenizer)][1]


def _validation(tokenizer: Any, dataset: Dataset, max_length: int) -> list[Example]:
    """Validation examples; [] if no row has a token to learn."""
    try:
        return encode(tokenizer, dataset.validation, max_length).examples
    except DataError:
        return []
