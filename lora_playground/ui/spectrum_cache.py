"""Reads and caches what the tab Spectrum shows of runs: spectra at every step, updates, the base's weights.

It draws nothing and knows no Gradio. Files are read module by module, so that a large adapter needs little memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lora_playground.analysis import spectra_file
from lora_playground.analysis.alignment import Amplification, Intruders, alignment, amplification, intruders
from lora_playground.analysis.spectra import EXACT_SIDE, Spectrum, analyse, effective_rank, stable_rank, update_svd
from lora_playground.analysis.tensors import TensorFile
from lora_playground.analysis.truncation import Decomposition
from lora_playground.analysis.update import Update
from lora_playground.analysis.weights import Weights
from lora_playground.errors import AdapterError, PlaygroundError
from lora_playground.exchange.importing import opened
from lora_playground.models.catalogue import folder_of

if TYPE_CHECKING:
    from lora_playground.runs import Run

T = TypeVar("T")

KEPT = 48
ALIGNED, LEADING = 16, 32
"""The most directions of ΔW and W that are compared, and the most directions of W + ΔW that are checked for
intruders."""
LARGE_SIDE = 2048
"""A W with a longer side takes too long to decompose while a person waits."""


@dataclass
class Frames:
    """Spectra of one run over its training.

    Attributes:
        steps: optimiser steps at which spectra are known, rising; the last is the newest.
        values: {module: σ} at each of them. frobenius: {module: ‖ΔW‖_F} at each of them.
        errors: {module: relative error of estimated values}.
        exact: whether the newest values are computed from the saved update; those in events have 4 digits.
    """

    steps: list[int] = field(default_factory=list)
    values: list[dict[str, np.ndarray]] = field(default_factory=list)
    frobenius: list[dict[str, float]] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    exact: bool = False

    def at(self, step: int | None) -> int:
        """Index of the newest spectra not after `step`, 0 if all are after it; None gives the newest of all. −1 if
        there are no spectra."""
        if not self.steps:
            return -1
        if step is None:
            return len(self.steps) - 1
        return max(0, int(np.searchsorted(self.steps, step, side="right")) - 1)

    @property
    def modules(self) -> list[str]:
        """Names of the modules with spectra, in the model's order."""
        return list(self.values[-1]) if self.values else []


class SpectrumCache:
    """Reads runs; results are cached for all visitors. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `make()`, cached under `key`; the least recently used value is dropped first."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:  # a second request for the same value waits for the first; others do not wait
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            value = make()
            with self._lock:
                self._kept[key] = value
                self._making.pop(key, None)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return value

    # --- spectra ---------------------------------------------------------------------------------------------------

    def frames(self, run: Run) -> Frames:
        """The spectra of a run so far; the newest of a finished run are exact."""
        stamp = _stamp(run.update_path) or _stamp(run.adapter)
        size = _stamp(run.events_path)
        return self._once(("frames", run.id, stamp, size), lambda: self._frames(run, bool(stamp)))

    def _frames(self, run: Run, saved: bool) -> Frames:
        frames = Frames()
        for event in run.history():
            if event.get("type") != "spectra" or not isinstance(event.get("spectra"), dict):
                continue
            values = {name: np.asarray(row, dtype=np.float64) for name, row in event["spectra"].items()}
            norms = {name: float(norm) for name, norm in event.get("frobenius", {}).items()}
            frames.steps.append(int(event.get("step", 0)))
            frames.values.append(values)
            frames.frobenius.append({name: norms.get(name, float(np.linalg.norm(row))) for name, row in values.items()})
        if saved and run.result() is not None:
            try:
                exact = self._exact(run)
            except (PlaygroundError, OSError):
                return frames
            last = frames.steps[-1] if frames.steps else 0
            step = max(last, int((run.result() or {}).get("steps") or 0))
            if frames.steps and step == last:
                for column in (frames.steps, frames.values, frames.frobenius):
                    column.pop()
            frames.steps.append(step)
            frames.values.append({name: s.values for name, s in exact.items()})
            frames.frobenius.append({name: s.frobenius for name, s in exact.items()})
            frames.errors = {name: s.error for name, s in exact.items() if not s.exact}
            frames.exact = True
        return frames

    def _exact(self, run: Run) -> dict[str, Spectrum]:
        kept = run.folder / spectra_file.NAME
        if kept.is_file():  # of an imported adapter, whose own file may be large
            with contextlib.suppress(AdapterError):
                return spectra_file.load_spectra(kept)
        matrices = (u for u in self._all(run) if len(u.shape) == 2 and min(u.shape) > 1)
        return analyse(matrices, exact_side=EXACT_SIDE)

    def measure(self, run: Run, frames: Frames, index: int, measure: str) -> dict[str, float]:
        """{module: value} of a measure of the map at one of the frames. Raises AdapterError if it needs the base's
        weights and these are not on this disk."""
        if index < 0:
            return {}
        values, norms = frames.values[index], frames.frobenius[index]
        if measure == "effective_rank":
            return {name: effective_rank(row) for name, row in values.items()}
        if measure == "stable_rank":
            return {name: stable_rank(row, norms[name]) for name, row in values.items()}
        if measure == "frobenius":
            return dict(norms)
        if measure == "sigma_1":
            return {name: float(row[0]) if row.size else 0.0 for name, row in values.items()}
        base = self.norms(run, list(values))
        return {name: norms[name] / base[name] for name in values if base.get(name)}

    # --- updates ---------------------------------------------------------------------------------------------------

    def update(self, run: Run, module: str) -> Update:
        """ΔW of one module of a finished run. Raises AdapterError if it is not saved."""
        return self._once(("update", run.id, _stamp(run.update_path), module), lambda: self._read(run, module))

    def _read(self, run: Run, module: str) -> Update:
        if run.update_path.is_file():
            file = self._file(run)
            found = {
                part: file.read(f"{module}.{part}")
                for part in ("B", "A", "dense")
                if f"{module}.{part}" in file.entries
            }
            if found:
                return Update(module, **found)
        elif run.adapter.is_dir():
            adapter = opened(run)
            if module in adapter.shapes:
                return adapter.update(module)
        raise AdapterError(f"{module} has no saved update in this run; it is there when the run has ended.")

    def directions(self, run: Run, module: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The singular value decomposition (U, σ, Vᵀ) of one module's update.

        Raises:
            AdapterError: no update is saved, it is no matrix, or it is dense and too large to be decomposed while
                somebody waits.
        """
        update = self.update(run, module)
        if not update.factored and min(update.shape) > LARGE_SIDE:
            raise AdapterError(f"ΔW is {update.shape[0]} by {update.shape[1]}, too large to be decomposed here.")
        return self._once(("directions", run.id, _stamp(run.update_path), module), lambda: update_svd(update))

    def _file(self, run: Run) -> TensorFile:
        stamp = _stamp(run.update_path)
        return self._once(("file", run.id, stamp), lambda: TensorFile(run.update_path, 100 * 2**20, 200_000))

    def _all(self, run: Run) -> Any:
        if not run.update_path.is_file():
            return opened(run).updates()
        file = self._file(run)
        names = dict.fromkeys(key.rsplit(".", 1)[0] for key in file.entries)
        return (self._read(run, name) for name in names)

    def decomposition(self, run: Run) -> Decomposition:
        """The SVDs of all updates of a finished run, for cuts. Raises AdapterError if none are saved."""
        if not run.update_path.is_file():
            raise AdapterError("its update is not saved (yet), or is too large to be cut here.")
        return self._once(("decomposition", run.id, _stamp(run.update_path)), lambda: Decomposition(self._all(run)))

    # --- the base --------------------------------------------------------------------------------------------------

    def weights(self, run: Run) -> Weights:
        """The base model's tensors. Raises AdapterError if the base is not on this disk."""
        source = run.config().model.source
        try:
            folder = folder_of(source)
        except PlaygroundError as error:
            raise AdapterError(f"its base model {source} is not on this disk, so W cannot be looked at.") from error
        if folder is None:
            raise AdapterError(f"its base model {source} is not on this disk, so W cannot be looked at.")
        return self._once(("weights", str(folder), _stamp(folder)), lambda: Weights(folder))

    def weight(self, run: Run, module: str) -> np.ndarray:
        """W of a module in (out, in) layout."""
        weights = self.weights(run)
        return weights.weight(module, tuple(self.update(run, module).shape))

    def beside(self, run: Run, module: str, side: str) -> tuple[Amplification, np.ndarray, Intruders]:
        """The update of one module beside its base: (amplification, alignment of `ALIGNED` directions, intruders among
        `LEADING` directions at the default ε). Cached, since it computes W's SVD.

        Raises:
            AdapterError: the update or the base is not on this disk, or W is too large to decompose while a person
                waits.
        """
        update, W = self.update(run, module), self.weight(run, module)
        if min(W.shape) > LARGE_SIDE:
            raise AdapterError(f"W is {W.shape[0]} by {W.shape[1]}, too large to be decomposed while you wait.")
        key = ("beside", run.id, _stamp(run.update_path) or _stamp(run.adapter), module, side)
        return self._once(
            key,
            lambda: (
                amplification(update, W),
                alignment(update, W, k=ALIGNED, side=side),
                intruders(update, W, k=LEADING, side=side),
            ),
        )

    def norms(self, run: Run, modules: list[str]) -> Mapping[str, float]:
        """‖W‖_F of the base's modules."""
        weights = self.weights(run)
        key = ("norms", tuple(str(file.path) for file in weights.files), tuple(modules))
        return self._once(key, lambda: {module: _norm(weights, module) for module in modules})


def _norm(weights: Weights, module: str) -> float:
    shape = weights.shape(module)
    if shape is None:
        return 0.0
    try:
        W = weights.weight(module, shape)
    except AdapterError:  # a Conv1D, whose weight is stored transposed; its norm is the same
        W = weights.weight(module, shape[::-1])
    return float(np.sqrt(np.sum(np.square(W, dtype=np.float64))))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
