"""The directions of a run's updates at a few moments of its training, so that they can be followed over its steps.

A moment is a file `step-N.safetensors`: of every module U and Vt in half precision and σ, of the largest directions.
Later moments are farther apart, since what a run learns changes most at its beginning. Plain NumPy; it knows no run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update

MOMENTS = "moments"
"""The folder with them, in a run's."""
GROWTH = 1.5
"""A moment is kept once this many times the steps of the last one are done."""
DIRECTIONS = 32
"""Directions of a module that are kept."""
MOST_BYTES = 64_000_000
"""What the moments of a run may take together on the disk."""
_NAME = re.compile(r"step-(\d+)\.safetensors")

Svd = tuple[np.ndarray, np.ndarray, np.ndarray]
"""U (m, k), σ (k,) and Vt (k, n) of an update, descending."""


class Moments:
    """The moments of one run, in a folder of their own, which is made with the first of them.

    Args:
        steps: of the whole training; what is there after the last one, the run keeps as its update.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        known = moments(folder)
        self._last, self._bytes = max(known, default=0), sum(path.stat().st_size for path in known.values())

    def keep(self, step: int, updates: Iterable[Update]) -> None:
        """Keeps the directions of these updates where their step is due and there is room; dense updates, whose
        directions take long to find, are left out. A disk that refuses is no error: training goes on without.
        """
        if not 1 <= step < self.steps or step < GROWTH * self._last or self._bytes >= MOST_BYTES:
            return
        tensors: dict[str, np.ndarray] = {}
        for update in updates:
            if update.factored:
                U, values, Vt = update_svd(update)
                k = min(nonzero(values), DIRECTIONS)
                tensors[f"{update.name}.U"] = U[:, :k].astype(np.float16)
                tensors[f"{update.name}.sigma"] = values[:k].astype(np.float32)
                tensors[f"{update.name}.Vt"] = Vt[:k].astype(np.float16)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if not tensors or self._bytes + size > MOST_BYTES:
            return
        path = self.folder / f"step-{step}.safetensors"
        staged = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(exist_ok=True)
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, str(staged))
            os.replace(staged, path)
        except Exception:  # safetensors wraps a full disk in an exception of its own
            with contextlib.suppress(OSError):
                staged.unlink()
            return
        self._last, self._bytes = step, self._bytes + size


def moments(folder: Path) -> dict[int, Path]:
    """{steps done: file} of what `Moments` kept there, in order; empty if it kept nothing."""
    if not folder.is_dir():
        return {}
    found = {int(name[1]): path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def load_moment(path: Path) -> dict[str, Svd]:
    """{module: its largest directions} of a moment, float32."""
    tensors = {key: tensor.astype(np.float32) for key, tensor in load_file(str(path)).items()}
    found: dict[str, Svd] = {}
    for name in (key.removesuffix(".U") for key in tensors if key.endswith(".U")):
        U, Vt = tensors[f"{name}.U"], tensors[f"{name}.Vt"]
        # Rounded to half precision they are no longer of length 1.
        U, Vt = U / np.linalg.norm(U, axis=0), Vt / np.linalg.norm(Vt, axis=1, keepdims=True)
        found[name] = U, tensors[f"{name}.sigma"], Vt
    return found
