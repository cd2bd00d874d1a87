"""Turns a dataset into each client's encoded examples. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import Dataset, Row
from lora_playground.data.encoding import Example, encode
from lora_playground.data.preparation import Prepared, prepare
from lora_playground.errors import DataError
from lora_playground.federated.partition import Partition, split


@dataclass(frozen=True)
class ClientData:
    """The clients' data.

    Attributes:
        partition: of `rows`. rows: the training rows that are used.
        examples: encoded examples of each client; [] for a client without data.
        shared: rehearsal and validation examples, which all clients use.
    """

    partition: Partition
    rows: list[Row]
    examples: list[list[Example]]
    shared: Prepared


def chosen_rows(train: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """The training rows that are used, in the dataset's order: all, or `limit` rows drawn with the seed."""
    if limit is None or limit >= len(train):
        return list(train)
    order = np.random.default_rng([seed, 7]).permutation(len(train))[:limit]
    return [train[number] for number in sorted(order)]


def divide(dataset: Dataset, config: RunConfig) -> tuple[Partition, list[Row]]:
    """(partition, the rows that are used). Needs no tokenizer. Raises ConfigError or DataError."""
    federated = config.federated
    assert federated is not None
    rows = chosen_rows(dataset.train, config.data.train_rows, config.training.seed)
    partition = split(
        rows,
        federated.clients,
        federated.partition,
        federated.concentration,
        config.training.seed,
        federated.group,
    )
    return partition, rows


def prepare_clients(tokenizer: Any, dataset: Dataset, config: RunConfig, embedded: bool) -> ClientData:
    """Splits and encodes the rows. A client whose rows have no answers to learn counts as one without data."""
    partition, rows = divide(dataset, config)
    examples = []
    for mine in partition.rows:
        try:
            found = encode(tokenizer, [rows[index] for index in mine], config.data.max_length).examples if mine else []
        except DataError:
            found = []
        examples.append(found)
    if not any(examples):
        raise DataError("No client has a row with something to learn; choose other data or a greater longest length.")
    shared = prepare(tokenizer, dataset, config.data, config.training.seed, embedded)
    return ClientData(partition, rows, examples, shared)
