"""A run's updates at a few moments of its training, so that directions can be followed over its steps.

A moment is a file `step-N.safetensors` as `analysis.update` writes it. Later moments are farther apart, since what a
run learns changes most at its beginning. Plain NumPy; it knows no run.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from lora_playground.analysis.update import Update, save_updates

MOMENTS = "moments"
"""The folder with them, in a run's."""
GROWTH = 2.0
"""A moment is kept once this many times the steps of the last one are done."""
MOST_BYTES = 64_000_000
"""What the moments of a run may take together on the disk."""
_NAME = re.compile(r"step-(\d+)\.safetensors")


class Moments:
    """The moments of one run, in a folder of their own, which is made with the first of them.

    Args:
        steps: of the whole training; what is there after the last one, the run keeps as its update.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        known = moments(folder)
        self._last, self._bytes = max(known, default=0), sum(path.stat().st_size for path in known.values())

    def keep(self, step: int, updates: list[Update]) -> None:
        """Keeps the factors of these updates where their step is due and there is room; dense ones are left out. If the
        disk refuses, nothing is kept, and training goes on."""
        if not 1 <= step < self.steps or step < GROWTH * self._last:
            return
        kept = [update for update in updates if update.factored]
        size = sum(4 * sum(update.shape) * update.B.shape[1] for update in kept if update.B is not None)
        if not kept or self._bytes + size > MOST_BYTES:
            return
        path = self.folder / f"step-{step}.safetensors"
        staged = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(exist_ok=True)
            save_updates(kept, staged)
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
