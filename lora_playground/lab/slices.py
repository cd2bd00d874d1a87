"""Score and forgetting of runs of the variant `wslice` over the position in W's spectrum where they start. It reads
finished runs and trains nothing."""

from __future__ import annotations

import contextlib
from typing import Any

from lora_playground.errors import PlaygroundError, RunError
from lora_playground.runs import Run, RunStore

VARIANT = "wslice"


def over_position(store: RunStore, id: str) -> dict[str, Any]:
    """This run and all that differ from it only in title, position and seed, sorted by position.

    Returns:
        {kind: 'slice', run, dataset, points}; `points`: [{value: the position, seed, score, forgetting}], the last two
        as `lab.dials.over_dial` returns them.

    Raises:
        RunError: the run has another variant, or fewer than two positions have been trained.
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
    """The parts of a run's config that must be equal: all but title, position and seed."""
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
        value = {"value": score["adapted"], **{key: score[key] for key in ("low", "high", "base", "n")}}
        return {
            "value": config.variant.position,  # type: ignore[attr-defined]
            "seed": config.training.seed,
            "score": value,
            "forgetting": lost,
        }
    return None
