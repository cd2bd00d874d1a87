"""Takes a lesson's quantities from finished runs: from `result.json`, from events, from the saved update.

What takes an SVD is kept in memory, for the run that was trained and so for all that took it over. No torch: the score
over k is measured by `jobs.truncation_curve` in a process of its own, and is None until that has come so far.
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
"""Where in `result.json` a value stands."""

LEADING, EPSILON = 10, 0.5
"""Leading directions of W + ΔW that are looked at for intruders, and the cosine below which one is one."""
_LARGE = 64


class Measuring:
    """Measures quantities of the runs of one store; safe to call from many threads."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, str], float] = {}

    def all(self, quantities: Iterable[Quantity], runs: Mapping[str, str]) -> dict[Quantity, float]:
        """The quantities that can be told by now.

        Args:
            runs: {key of the lesson's run: run id}; quantities of other keys are left out.
        """
        found = {}
        for quantity in dict.fromkeys(quantities):
            value = self.one(quantity, runs)
            if value is not None:
                found[quantity] = value
        return found

    def one(self, quantity: Quantity, runs: Mapping[str, str]) -> float | None:
        """One quantity; None where its run has no result yet, or no such number."""
        try:
            run = self.trained(runs[quantity.run])
            second = self.trained(runs[quantity.detail]) if quantity.detail in runs else None
        except (KeyError, PlaygroundError):
            return None
        if run.result() is None or (second is not None and second.result() is None):
            return None
        key = (run.id, quantity.value, second.id if second else quantity.detail)
        if key not in self._kept:
            with self._lock:  # thirty people who reach a step together wait for one SVD
                if key not in self._kept:
                    value = _measure(run, quantity, second)
                    if value is None:
                        return None
                    self._kept[key] = value
        return self._kept[key]

    def trained(self, identity: str) -> Run:
        """The run that was trained, where this one took it over and it is still there. Raises PlaygroundError."""
        run = self._store.get(identity)
        replayed = (run.result() or {}).get("replayed")
        if replayed:
            with contextlib.suppress(PlaygroundError):
                return self._store.get(str(replayed["run"]))
        return run

    def begin_cut(self, identity: str) -> str:
        """Begins to measure the score over k of a finished run, where nobody has.

        Returns:
            a sentence on why it has to wait or cannot be measured; '' where it is there or under way.
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


def _at(told: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@lru_cache(maxsize=8)
def _updates(path: str) -> list[Update]:
    """The saved updates of linear modules, without embedding and head."""
    return [update for update in load_updates(Path(path)) if update.of_matrix and "head" not in update.name]


def _values(updates: list[Update]) -> list[np.ndarray]:
    return [s.values[: nonzero(s.values)] for s in analyse(updates).values() if nonzero(s.values)]


_SPECTRAL: dict[str, Callable[[np.ndarray], float]] = {
    "effective_rank": lambda values: effective_rank(values),
    "energy_first": lambda values: float(energy_captured(values)[0]),
    "energy_rank_90": lambda values: float(energy_rank(values, 0.9)),
}
"""Of one module's singular values; a lesson tells the median over the modules."""


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
    """|cos|² of the strongest directions that both write (LoRA paper, section 7.2, with i = j = 1)."""
    U, V = directions(first, "left"), directions(second, "left")
    return float((U[:, 0] @ V[:, 0]) ** 2)


def _inside(first: Update, second: Update) -> float:
    """The share of the first update's energy that lies in the directions which the second writes."""
    V = directions(second, "left")[:, :_LARGE]
    matrix = first.matrix()
    return float(np.linalg.norm(V.T @ matrix) ** 2 / np.linalg.norm(matrix) ** 2)


_BETWEEN: dict[str, Callable[[Update, Update], float]] = {
    "overlap": _overlap,
    "overlap_chance": lambda first, _: 1.0 / first.shape[0],
    "inside": _inside,
    "inside_chance": lambda first, second: min(1.0, directions(second, "left").shape[1] / first.shape[0]),
}
"""Of one module in two runs; a lesson tells the mean over the modules."""


def _median(values: Iterable[float]) -> float | None:
    kept = list(values)
    return float(statistics.median(kept)) if kept else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return float(statistics.fmean(kept)) if kept else None
