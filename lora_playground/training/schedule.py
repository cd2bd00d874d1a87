"""Learning rate over the steps, and how many steps a time budget allows. Plain arithmetic."""

from __future__ import annotations

import math

from lora_playground.config import TrainingConfig


def factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate in step `step` (from 0) of `steps`: linear warm-up, then the schedule's fall.

    The warm-up never begins at 0, so that the first step already learns.
    """
    warmup = math.ceil(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class Budget:
    """Sets the number of steps so that training takes about `seconds`; without a time budget it never changes it.

    The first step is left out, since it warms caches up; the estimate is taken after a few steps and corrected when a
    quarter and a half of the time is over.
    """

    def __init__(self, steps: int, seconds: float | None, start: int = 0) -> None:
        self.steps, self.seconds, self.start = steps, seconds, start
        self._looks = [0.0, 0.25, 0.5, 0.75]
        self._first: float | None = None

    def update(self, done: int, elapsed: float) -> bool:
        """Looks at the clock after `done` steps and `elapsed` seconds; whether the number of steps changed."""
        if self.seconds is None:
            return False
        if self._first is None:
            self._first = elapsed
            return False
        taken = done - self.start - 1
        if not self._looks or taken < 3 or elapsed < self._looks[0] * self.seconds:
            return False
        self._looks.pop(0)
        each = (elapsed - self._first) / taken
        left = max(0, round((self.seconds - elapsed) / max(each, 1e-6)))
        before, self.steps = self.steps, max(done + 1, min(done + left, 1_000_000))
        return before != self.steps
