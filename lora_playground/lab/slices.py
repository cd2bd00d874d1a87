"""What runs of the slice family scored and forgot, over where in W's spectrum they started. It trains nothing."""

from __future__ import annotations

import contextlib
from typing import Any

from lora_playground.errors import PlaygroundError, RunError
from lora_playground.runs import Run, RunStore

VARIANT = "wslice"


def over_position(store: RunStore, id: str) -> dict[str, Any]:
    """Runs like this one that differ in position and seed alone, each a point, by position.

    Returns:
        kind 'slice', run, dataset; `points`: [{value, seed, score, forgetting}] as `lab.dials.over_dial` has them.

    Raises:
        RunError: the run is none of that family, or there are no two positions yet.
    """
    run = store.get(id)
    if run.config().variant.name != VARIANT:
        raise RunError("Choose a run of the variant Slice of W; train some at several positions, all else equal.")
    points = [point for other in store.list() if (point := _point(other, _rest(run))) is not None]
    if len({point["value"] for point in points}) < 2:
        raise RunError("There are no two positions yet; train runs of Slice of W that differ in the position alone.")
    points.sort(key=lambda point: (point["value"], point["seed"]))
    return {"kind": "slice", "run": id, "dataset": run.config().data.dataset, "points": points}


def _rest(run: Run) -> dict[str, Any]:
    """A run's config without title, position and seed."""
    config = run.config().model_dump(mode="json")
    config["variant"].pop("position", None)
    config["training"].pop("seed", None)
    return {key: config[key] for key in ("model", "data", "variant", "training")}


def _point(run: Run, like: dict[str, Any]) -> dict[str, Any] | None:
    with contextlib.suppress(PlaygroundError, KeyError, OSError):
        result, config = run.result() or {}, run.config()
        score, lost = result.get("score"), result.get("forgetting")
        if config.variant.name != VARIANT or not score or _rest(run) != like:
            return None
        told = {"value": score["adapted"], **{key: score[key] for key in ("low", "high", "base", "n")}}
        return {
            "value": config.variant.position,  # type: ignore[attr-defined]
            "seed": config.training.seed,
            "score": told,
            "forgetting": lost,
        }
    return None
