"""Takes a lesson's quantities from finished runs: from `result.json`, from events, from the saved update.

Values are cached under the run that was trained, so runs that took it over share them. No torch: scores of truncated
updates are measured by `jobs.truncation_curve` in a process of its own, and are None until it has them.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lora_playground.analysis.alignment import amplification, intruders
from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import analyse, effective_rank, energy_captured, energy_rank
from lora_playground.analysis.subspaces import directions
from lora_playground.analysis.update import Update, load_updates
from lora_playground.analysis.weights import Weights
from lora_playground.errors import JobError, LessonError, PlaygroundError
from lora_playground.jobs import truncation_curve
from lora_playground.lessons.quantities import Quantity
from lora_playground.models.catalogue import folder_of
from lora_playground.runs import Run, RunStore

_RESULT: dict[str, tuple[str, ...]] = {
    "score": ("score", "adapted"),
    "base_score": ("score", "base"),
    "gain": ("score", "gain", "value"),
    "forgetting": ("forgetting", "drop"),
    "skills": ("forgetting", "adapted"),
    "loss": ("final_loss",),
    "validation_loss": ("validation_loss", "adapted"),
    "parameters": ("trainable_parameters",),
    "adapter_bytes": ("adapter_bytes",),
    "seconds": ("seconds", "training"),
    "tokens_per_second": ("tokens_per_second",),
    "bytes_up": ("federated", "bytes", "up"),
    "bytes_down": ("federated", "bytes", "down"),
    "global_rank": ("federated", "rank", "global"),
}
"""{quantity: path of its value in result.json}."""

LEADING, EPSILON = 10, 0.5
"""Intruder dimensions (arXiv 2410.21228) are those of the LEADING first singular vectors of W + ΔW whose cosine with
every singular vector of W is below EPSILON."""
_MOST_DIRECTIONS = 64


class Measuring:
    """Measures quantities of the runs of one store. Thread-safe."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, str], float] = {}

    def all(self, quantities: Iterable[Quantity], runs: Mapping[str, str]) -> dict[Quantity, float]:
        """The values of those quantities that can be measured already.

        Args:
            runs: {key of the lesson's run: run id}.
        """
        found = {}
        for quantity in dict.fromkeys(quantities):
            value = self.one(quantity, runs)
            if value is not None:
                found[quantity] = value
        return found

    def one(self, quantity: Quantity, runs: Mapping[str, str]) -> float | None:
        """The value of a quantity; None if its run is missing or not finished, or has no such value."""
        try:
            run = self.trained(runs[quantity.run])
            second = self.trained(runs[quantity.detail]) if quantity.detail in runs else None
        except (KeyError, PlaygroundError):
            return None
        if run.result() is None or (second is not None and second.result() is None):
            return None
        key = (run.id, quantity.value, second.id if second else quantity.detail)
        if key not in self._kept:
            with self._lock:  # a class that reaches a step together waits for one SVD, not for thirty
                if key not in self._kept:
                    value = _measure(run, quantity, second)
                    if value is None:
                        return None
                    self._kept[key] = value
        return self._kept[key]

    def trained(self, identity: str) -> Run:
        """The run that was trained: this one, or the one that it took over if that still exists. Raises
        PlaygroundError for an unknown id."""
        run = self._store.get(identity)
        replayed = (run.result() or {}).get("replayed")
        if replayed:
            with contextlib.suppress(PlaygroundError):
                return self._store.get(str(replayed["run"]))
        return run

    def begin_cut(self, identity: str) -> str:
        """Starts to measure how well a finished run scores with only its first k directions, if nobody has.

        Returns:
            '' if that is measured or being measured, else a sentence that says why it is not.
        """
        run = self.trained(identity)
        found = truncation_curve.read(run)
        if (found and found.get("done")) or truncation_curve.running(run):
            return ""
        if found is None and (run.folder / truncation_curve.ERROR).is_file():
            return truncation_curve.failure(run)
        try:
            truncation_curve.start(run)
        except JobError as error:
            return str(error)
        return ""


def _measure(run: Run, quantity: Quantity, second: Run | None) -> float | None:
    value = quantity.value
    if value in _RESULT:
        return _number(_at(run.result() or {}, _RESULT[value]))
    if value == "cut_score":
        curve = truncation_curve.read(run) or {}
        points = dict(zip(curve.get("k", []), curve.get("score", [])))
        return _number(points.get(int(quantity.detail)))
    if value == "early_loss":
        losses = run.progress().losses
        return statistics.fmean(losses[: max(1, len(losses) // 4)]) if losses else None
    if value == "error":
        errors = [event["error"] for event in run.progress().rounds if event.get("error") is not None]
        return statistics.fmean(errors) if errors else None
    updates = _updates(str(run.update_path))
    if value in _SPECTRAL:
        return _median(_SPECTRAL[value](one) for one in _values(updates))
    if value in _BESIDE:
        return _BESIDE[value](updates, run)
    if second is not None and value in _BETWEEN:
        return _mean(_BETWEEN[value](one, other) for one, other in _pairs(updates, _updates(str(second.update_path))))
    raise LessonError(f"{quantity} cannot be measured.")


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@lru_cache(maxsize=8)
def _updates(path: str) -> list[Update]:
    """The saved updates of linear modules, without embedding and LM head."""
    return [update for update in load_updates(Path(path)) if update.of_matrix and "head" not in update.name]


def _values(updates: list[Update]) -> list[np.ndarray]:
    return [s.values[: nonzero(s.values)] for s in analyse(updates).values() if nonzero(s.values)]


_SPECTRAL: dict[str, Callable[[np.ndarray], float]] = {
    "effective_rank": lambda values: effective_rank(values),
    "energy_first": lambda values: float(energy_captured(values)[0]),
    "energy_rank_90": lambda values: float(energy_rank(values, 0.9)),
}
"""{quantity: function of one module's singular values}; its value is the median over the modules."""


def _weights(updates: list[Update], run: Run) -> list[tuple[Update, np.ndarray]]:
    folder = folder_of(run.config().model.source)
    if folder is None:
        raise LessonError("The base model of this run is not at hand, so the update cannot be laid beside it.")
    weights = Weights(folder)
    return [(update, weights.weight(update.name, update.shape)) for update in updates]


def _amplified(updates: list[Update], run: Run, random: bool) -> float | None:
    found = [amplification(update, W) for update, W in _weights(updates, run)]
    return _median(one.factor_random if random else one.factor for one in found)


def _intruders(updates: list[Update], run: Run) -> float:
    return float(sum(intruders(update, W, LEADING, EPSILON).count for update, W in _weights(updates, run)))


_BESIDE: dict[str, Callable[[list[Update], Run], float | None]] = {
    "amplification": lambda updates, run: _amplified(updates, run, random=False),
    "amplification_random": lambda updates, run: _amplified(updates, run, random=True),
    "intruders": _intruders,
}


def _pairs(first: list[Update], second: list[Update]) -> list[tuple[Update, Update]]:
    by_name = {update.name: update for update in second}
    return [(update, by_name[update.name]) for update in first if update.name in by_name]


def _overlap(first: Update, second: Update) -> float:
    """Squared cosine of the two first left singular vectors (LoRA paper, section 7.2, with i = j = 1)."""
    U, V = directions(first, "left"), directions(second, "left")
    return float((U[:, 0] @ V[:, 0]) ** 2)


def _inside(first: Update, second: Update) -> float:
    """The share of the first update's energy ‖ΔW‖_F² that lies in the span of the second's leading left singular
    vectors, at most _MOST_DIRECTIONS of them."""
    V = directions(second, "left")[:, :_MOST_DIRECTIONS]
    matrix = first.matrix()
    return float(np.linalg.norm(V.T @ matrix) ** 2 / np.linalg.norm(matrix) ** 2)


_BETWEEN: dict[str, Callable[[Update, Update], float]] = {
    "overlap": _overlap,
    "overlap_chance": lambda first, _: 1.0 / first.shape[0],
    "inside": _inside,
    "inside_chance": lambda first, second: min(directions(second, "left").shape[1], _MOST_DIRECTIONS) / first.shape[0],
}
"""{quantity: function of one module's updates in two runs}; its value is the mean over the modules."""


def _median(values: Iterable[float]) -> float | None:
    kept = list(values)
    return float(statistics.median(kept)) if kept else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return float(statistics.fmean(kept)) if kept else None
