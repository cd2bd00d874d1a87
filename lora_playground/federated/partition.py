"""Splitting a dataset's rows among clients: evenly, by a Dirichlet draw over labels, or by topic.

A row is a dict with `messages` and `meta`. It knows neither model nor strategy, and no torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_playground.errors import ConfigError, DataError
from lora_playground.wording import counted

KEYS = ("label", "topic", "person", "category", "kind")
"""Fields of a row's meta that can hold its group, in the order in which they are tried."""

ENTITY = "name"
"""`Partition.key` if groups are taken from the text: the name of the person or thing that a row is about."""

MOST_LABELS = 32
"""The most different answers that count as labels."""
_NAME = re.compile(r"\b[A-Z][a-z]{2,}")


@dataclass(frozen=True)
class Partition:
    """Which client has which rows.

    Attributes:
        rows: for each client ascending row indices.
        groups: the groups' names; only 'all' if rows have no groups.
        counts: for each client the number of rows of each group, in the order of `groups`.
        key: the field of meta that holds the groups, or ''.
    """

    rows: list[list[int]]
    groups: list[str]
    counts: list[list[int]]
    key: str

    @property
    def empty(self) -> list[int]:
        """Clients without a single row."""
        return [client for client, mine in enumerate(self.rows) if not mine]

    def bars(self) -> dict[str, Any]:
        """The `partition` event's data: for each client its rows of each group."""
        names = [client_name(k) for k in range(len(self.rows))]
        return {"clients": names, "groups": self.groups, "counts": self.counts, "key": self.key}


def client_name(index: int) -> str:
    """'client 1' for index 0."""
    return f"client {index + 1}"


def split(
    rows: Sequence[Mapping[str, Any]],
    clients: int,
    how: str = "iid",
    concentration: float = 0.5,
    seed: int = 0,
    key: str = "",
) -> Partition:
    """Splits rows among clients; every row goes to exactly one.

    Args:
        how: 'iid' (shuffled evenly), 'dirichlet' (each group is divided by shares drawn from Dirichlet(α)), or 'topic'
            (whole groups, balanced by size).
        concentration: Dirichlet's α; the smaller it is, the fewer groups a client has.
        key: the field of meta that names a row's group. '' takes the first of `KEYS` that all rows have, else the name
            that question and answer share, else the answer if there are few different ones.

    Raises:
        ConfigError: there is no client, or `how` is unknown. DataError: the rows have no groups.
    """
    if clients < 1:
        raise ConfigError("federated.clients", clients, "there must be at least one client (two to compare anything)")
    if how not in ("iid", "dirichlet", "topic"):
        raise ConfigError("federated.partition", how, "choose iid, dirichlet or topic")
    if not rows:
        raise DataError("The dataset has no training rows to share out; choose another dataset or upload more rows.")
    rng = np.random.default_rng(seed)
    key, labels = _labels(rows, key, needed=how != "iid")
    groups = sorted(set(labels))
    members = {group: [i for i, label in enumerate(labels) if label == group] for group in groups}
    if how == "iid":
        mine = _iid(len(rows), clients, rng)
    elif how == "dirichlet":
        mine = _dirichlet(members, clients, concentration, rng)
    else:
        if len(groups) < clients:
            raise DataError(
                f"Splitting by {key} needs at least one group a client: there are {len(groups)} groups for "
                f"{counted(clients, 'client')}. Use at most {counted(len(groups), 'client')}, or split by "
                "Dirichlet or evenly."
            )
        mine = _by_group(members, clients, rng)
    mine = [sorted(indices) for indices in mine]
    order = {group: position for position, group in enumerate(groups)}
    counts = [[0] * len(groups) for _ in range(clients)]
    for client, indices in enumerate(mine):
        for index in indices:
            counts[client][order[labels[index]]] += 1
    return Partition(mine, groups, counts, key)


def remarks(partition: Partition) -> list[str]:
    """Warnings about a split, one sentence each."""
    said = []
    if len(partition.rows) == 1:
        said.append(
            "There is one client only: every strategy then gives that client's own update, and nothing differs."
        )
    if partition.empty:
        names = ", ".join(client_name(k) for k in partition.empty)
        said.append(
            f"No rows fell to {names}: left out of every round. A larger Dirichlet α or fewer clients gives all some."
        )
    return said


def _labels(rows: Sequence[Mapping[str, Any]], key: str, needed: bool) -> tuple[str, list[str]]:
    """(key, group of each row): a field of meta, the name that question and answer share, or the answer as a label."""
    metas = [row.get("meta") or {} for row in rows]
    for candidate in (key,) if key else KEYS:
        values = [meta.get(candidate) for meta in metas]
        if all(isinstance(value, str | int) for value in values):
            return candidate, [str(value) for value in values]
    if key in ("", ENTITY):
        names = [_entity(row) for row in rows]
        if all(names):
            return ENTITY, names
    answers = [meta.get("answer") for meta in metas]
    labelled = not key and all(isinstance(answer, str) for answer in answers)
    if labelled and len(set(answers)) <= min(MOST_LABELS, max(2, len(rows) // 8)):
        return "answer", [str(answer) for answer in answers]
    if needed or key:
        wanted = f"'{key}'" if key else "one of " + ", ".join(KEYS)
        raise DataError(
            f"This split needs groups, but not every row's meta has {wanted}. Choose the even split (iid), "
            f"or add such a field to the rows."
        )
    return "", ["all"] * len(rows)


def _entity(row: Mapping[str, Any]) -> str:
    """The first name in the question that is also in the answer; '' if there is none."""
    texts = {message.get("role"): str(message.get("content", "")) for message in row.get("messages") or []}
    known = set(_NAME.findall(texts.get("assistant", "")))
    return next((name for name in _NAME.findall(texts.get("user", "")) if name in known), "")


def _iid(count: int, clients: int, rng: np.random.Generator) -> list[list[int]]:
    return [part.tolist() for part in np.array_split(rng.permutation(count), clients)]


def _dirichlet(
    members: Mapping[str, list[int]], clients: int, concentration: float, rng: np.random.Generator
) -> list[list[int]]:
    if not concentration > 0:
        raise ConfigError("federated.concentration", concentration, "Dirichlet's α must be greater than 0")
    mine: list[list[int]] = [[] for _ in range(clients)]
    for indices in members.values():
        shares = rng.dirichlet([concentration] * clients)
        cuts = np.round(np.cumsum(shares)[:-1] * len(indices)).astype(int)
        for client, part in enumerate(np.split(rng.permutation(indices), cuts)):
            mine[client].extend(int(index) for index in part)
    return mine


def _by_group(members: Mapping[str, list[int]], clients: int, rng: np.random.Generator) -> list[list[int]]:
    """Gives whole groups to clients, the largest first, each to the client with the fewest rows so far."""
    mine: list[list[int]] = [[] for _ in range(clients)]
    names = list(members)
    tie = {name: float(rank) for name, rank in zip(names, rng.permutation(len(names)))}
    for name in sorted(names, key=lambda group: (-len(members[group]), tie[group])):
        target = min(range(clients), key=lambda k: (len(mine[k]), k))
        mine[target].extend(members[name])
    return mine
