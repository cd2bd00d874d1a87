"""Scores the task of every adapter over the weights of a mixture, beside controls, and measures what might predict how
much the adapters disturb each other.

Two adapters give a curve over the weights, three a triangle, four only the corners and the mean. Loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from lora_playground.analysis.interference import overlap
from lora_playground.analysis.merging import Mixture, random_like
from lora_playground.analysis.update import Update
from lora_playground.data.catalogue import get_dataset, prompt_of
from lora_playground.lab.mixing import Mixed
from lora_playground.lab.tasks import ROWS, Tasks, datasets_of
from lora_playground.runs import RunStore

Report = Callable[[int, int], None]
TEXTS = 8
"""Test prompts of a dataset on which ‖ΔW·h‖ is measured."""


def grid(count: int, asked: Sequence[float]) -> list[tuple[str, list[float]]]:
    """The mixtures of `count` adapters to be scored, as (kind, weights): 'grid' with weights that sum to 1, and 'asked'
    with the weights that a person has chosen."""
    if count == 2:
        found = [[1 - t, t] for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    elif count == 3:
        found = [[i / 3, j / 3, (3 - i - j) / 3] for i in range(3, -1, -1) for j in range(3 - i, -1, -1)]
    else:
        found = [[float(i == j) for j in range(count)] for i in range(count)] + [[1 / count] * count]
    return [("grid", weights) for weights in found] + [("asked", list(asked))]


def over_weights(store: RunStore, chosen: Mixed, rows: int = ROWS, report: Report = lambda *_: None) -> dict[str, Any]:
    """Scores of every task over the weights of a mixture.

    Args:
        rows: test rows of each task. report: called with (number of scores done, number of all).

    Returns:
        `tasks`: [{run, label, dataset, index}] of the runs whose task can be scored; `points`: [{kind, weights,
        scores}] with one score for each task (see `Tasks.score`); `pairs`: see `_pair`; `agreement`: see `agreement`;
        `rows`. Kinds of points are those of `grid`, and two controls: 'mean' is the plain mean of the updates, whatever
        the recipe; 'random' has at the chosen weights, for one task, random updates with the same singular values in
        place of all adapters but that task's own (the scores of other tasks are None).
    """
    adapters = chosen.adapters()
    names = datasets_of(chosen.runs, store.home)
    tasks = Tasks(store.home, chosen.model, rows)
    scored = [index for index, name in enumerate(names) if name]
    mixture, plain = Mixture(adapters, chosen.recipe), _sum(adapters)
    points = grid(len(adapters), chosen.weights)
    pairs = list(permutations(scored, 2))
    total, done = (len(points) + 1) * len(scored) + len(scored) + len(pairs), 0

    def score(updates: Sequence[Update], index: int) -> dict[str, Any]:
        nonlocal done
        found = tasks.score(updates, names[index])
        done += 1
        report(done, total)
        return found

    shown = []
    for kind, weights in points:
        made = mixture.updates(weights)
        shown.append({"kind": kind, "weights": weights, "scores": [score(made, index) for index in scored]})
    share = [1 / len(adapters)] * len(adapters)
    made = plain.updates(share)
    shown.append({"kind": "mean", "weights": share, "scores": [score(made, index) for index in scored]})
    for index in scored:
        others = [one if i == index else random_like(one, seed=i) for i, one in enumerate(adapters)]
        found = score(Mixture(others, chosen.recipe).updates(chosen.weights), index)
        row = [found if other == index else None for other in scored]
        shown.append({"kind": "random", "weights": chosen.weights, "scores": row})
    measured = [_pair(tasks, adapters, names, first, second, score) for first, second in pairs]
    labels = [
        {"run": chosen.runs[i].id, "label": chosen.runs[i].label, "dataset": names[i], "index": i} for i in scored
    ]
    return {"tasks": labels, "points": shown, "pairs": measured, "agreement": agreement(measured), "rows": rows}


def _sum(adapters: Sequence[Sequence[Update]]) -> Mixture:
    from lora_playground.analysis.merging import Recipe

    return Mixture(adapters, Recipe("sum"))


def _pair(
    tasks: Tasks,
    adapters: Sequence[list[Update]],
    names: Sequence[str],
    first: int,
    second: int,
    score: Callable[[Sequence[Update], int], dict[str, Any]],
) -> dict[str, Any]:
    """How much the second adapter disturbs the first one's task, and what might predict it.

    Returns:
        first, second: indices of the adapters. cosine, reads, writes and their values by chance: see
        `analysis.interference.overlap`. on_data: ‖ΔW₂h‖/‖ΔW₁h‖ over inputs h of the modules while the first adapter
        reads its test prompts. alone, together: the first task's score with the first adapter only, and with both at
        weight 1. drop: the difference of the two.
    """
    from lora_playground.models.activations import responses
    from lora_playground.models.decoding import Decoder, RowUpdate

    pair = [adapters[first], adapters[second]]
    decoder = Decoder(tasks.base.model, tasks.base.tokenizer)
    prompts = [prompt_of(row) for row in get_dataset(names[first], tasks.home).test[:TEXTS]]
    texts = [decoder.encode(prompt)[-256:] for prompt in prompts]
    own, other = responses(decoder, texts, RowUpdate(decoder.adapter(pair[0])), pair)
    common = overlap(pair[0], pair[1])
    alone = tasks.score(pair[0], names[first])
    together = score(_sum(pair).updates([1.0, 1.0]), first)
    drop = None if alone["value"] is None or together["value"] is None else alone["value"] - together["value"]
    return {
        "first": first, "second": second, "cosine": common.cosine,
        "reads": common.reads, "reads_chance": common.reads_chance,
        "writes": common.writes, "writes_chance": common.writes_chance,
        "on_data": other / own if own > 0 else None, "alone": alone, "together": together, "drop": drop,
    }  # fmt: skip


def agreement(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's rank correlation of each predictor with the measured drop; {} for fewer than five pairs."""
    known = [pair for pair in pairs if pair["drop"] is not None and pair["on_data"] is not None]
    drops = [pair["drop"] for pair in known]
    if len(known) < 5 or len(set(drops)) < 2:
        return {}
    found = {}
    for name in ("cosine", "reads", "writes", "on_data"):
        # Rounded, since the cosines of (a, b) and (b, a) differ in the last digits but must get equal ranks.
        ranks = [_ranks([round(pair[name], 9) for pair in known]), _ranks(drops)]
        if np.std(ranks[0]) > 0:
            found[name] = round(float(np.corrcoef(ranks)[0, 1]), 3)
    return found


def _ranks(values: Sequence[float]) -> np.ndarray:
    """The ranks of the values; equal values get the mean of theirs."""
    array = np.asarray(values, dtype=float)
    return np.array([(np.sum(array < v) + np.sum(array <= v) - 1) / 2 for v in array])
