"""Cosines between the updates of runs, for the tab Compare. Reads run folders and caches the results; no Gradio."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.adapter_map import cosines, inner_products
from lora_playground.analysis.update import Update, load_updates
from lora_playground.errors import PlaygroundError
from lora_playground.runs import Run

MOST, MOST_BYTES = 24, 40_000_000
"""Most runs in the map, and the largest file of updates, in bytes, that is read for it."""
KEPT = 12


@dataclass(frozen=True)
class Alike:
    """Runs on one base model, and the cosines (n, n) between their updates."""

    runs: tuple[str, ...]
    similar: np.ndarray


class Alikeness:
    """Computes cosines between updates of runs, and caches the last few results. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[tuple[str, int], ...], Alike] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, runs: Sequence[Run]) -> Alike:
        """The cosines of the first `MOST` of these runs that have an update of at most `MOST_BYTES`."""
        stamped: list[tuple[str, int]] = []
        for run in runs:
            try:
                found = run.update_path.stat()
            except OSError:
                continue
            if found.st_size <= MOST_BYTES and len(stamped) < MOST:
                stamped.append((run.id, found.st_mtime_ns))
        key = tuple(stamped)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            made = self._read([run for run in runs if run.id in dict(stamped)])
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return made

    def _read(self, runs: Sequence[Run]) -> Alike:
        ids: list[str] = []
        updates: list[list[Update]] = []
        for run in runs:
            try:
                updates.append(load_updates(run.update_path))
                ids.append(run.id)
            except (OSError, ValueError, PlaygroundError):
                continue  # leaves a damaged file out
        return Alike(tuple(ids), cosines(inner_products(updates)))
