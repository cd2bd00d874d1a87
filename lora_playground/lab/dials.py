"""Scores a run while one factor varies: the strength of its update, or that of its intruder dimensions. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lora_playground.analysis.intruder_dial import dial, scaled_intruders
from lora_playground.analysis.truncation import scaled
from lora_playground.analysis.update import Update, load_updates
from lora_playground.analysis.weights import Weights
from lora_playground.errors import ConfigError, RunError
from lora_playground.lab.tasks import ROWS, Tasks, datasets_of
from lora_playground.models.catalogue import folder_of
from lora_playground.runs import Run, RunStore

KINDS = ("strength", "intruders")
VALUES = {"strength": (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0), "intruders": (0.0, 0.5, 1.0, 1.5, 2.0)}
Turned = Callable[[float], list[Update]]


def over_dial(
    store: RunStore, id: str, kind: str, values: Sequence[float] = (), rows: int = ROWS,
    report: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Score and forgetting of a run at several values of a factor.

    Args:
        kind: 'strength' scales the whole update (W + s·ΔW), 'intruders' its intruder dimensions only
            (`analysis.intruder_dial`).
        values: of the factor, from −2 to 2, for intruders from 0 to 2; empty takes VALUES.
        rows: test rows to score. report: called with (number of values done, number of all).

    Returns:
        {run, label, kind, dataset, rows, points}; `points`: [{value, score, forgetting}], both as `Tasks.score` returns
        them, forgetting None unless the base is the embedded model. For 'intruders' also `intruders`: {module: number
        of intruder dimensions} and `of`: number of modules.

    Raises:
        ConfigError: a kind or value is not allowed.
        RunError: the run has no update or nothing to score it on, or the base's weights are not on this disk.
    """
    if kind not in KINDS:
        raise ConfigError("dial", kind, f"choose one of {', '.join(KINDS)}")
    values = list(values) or list(VALUES[kind])
    low = 0.0 if kind == "intruders" else -2.0
    for value in values:
        if not low <= value <= 2.0:
            raise ConfigError("values", value, f"give numbers from {low:g} to 2")
    run = store.get(id)
    run.require_update()
    dataset = datasets_of([run], store.home)[0]
    if not dataset:
        raise RunError(f"Run {run.id} learned no dataset with a test part and a metric, so a dial has nothing to show.")
    turned, about = _turned(run, kind)
    tasks, points = Tasks(store.home, run.config().model, rows), []
    alike = about.get("intruders") == {}  # no intruder dimensions: the scores are the same at every value
    found: dict[str, Any] = {}
    for number, value in enumerate(values):
        found = found if alike and found else tasks.score(turned(value), dataset, skills=True)
        score = {key: value for key, value in found.items() if key != "forgetting"}
        points.append({"value": value, "forgetting": found.get("forgetting"), "score": score})
        report(number + 1, len(values))
    fields = {"run": run.id, "label": run.label, "kind": kind, "dataset": dataset, "rows": rows}
    return {**fields, **about, "points": points}


def _turned(run: Run, kind: str) -> tuple[Turned, dict[str, Any]]:
    """(a function that returns the updates at a value of the factor, further entries of the result)."""
    updates = load_updates(run.update_path)
    if kind == "strength":
        return lambda s: [] if s == 0 else [scaled(update, s) for update in updates], {}
    folder = folder_of(run.config().model.source)
    if folder is None:
        raise RunError(
            f"The weights of {run.config().model.source} are not on this disk; intruders are found from them."
        )
    weights = Weights(folder)
    matrices = [update for update in updates if update.of_matrix]
    dials = [dial(update, weights.weight(update.name, (update.shape[0], update.shape[1]))) for update in matrices]
    others = [update for update in updates if all(update is not one for one in matrices)]
    counts = {one.update.name: one.U.shape[1] for one in dials if one.U.shape[1]}
    return lambda factor: scaled_intruders(dials, others, factor), {"intruders": counts, "of": len(dials)}
