"""Learning rate over the steps, when to stop early, and how many steps a time budget allows. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lora_playground.config import TrainingConfig


def factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate in step `step` (from 0) of `steps`: linear warm-up, then the schedule's decay.

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


COMMON, COMMON_SHARE, VALIDATION_STEPS = (1 / 4, 1 / 2, 1 / 8, 3 / 4, 3 / 8, 5 / 8, 1 / 16, 7 / 8), 0.1, 1.65
"""Shares of the steps, the more telling ones first; the share of the training time that validations after them may
take; and how many steps take as long as one validation."""


def common_steps(config: TrainingConfig) -> frozenset[int]:
    """The steps after which every run of a sweep is validated, so that their curves have points in common on any
    machine. Empty where the number of steps is not known before, or the person says how often to validate."""
    if config.seconds is not None or config.validate_every or config.early_stop:
        return frozenset()
    count = max(1, int(COMMON_SHARE * config.steps / VALIDATION_STEPS))
    return frozenset(math.ceil(share * config.steps) for share in COMMON[:count])


@dataclass
class Plateau:
    """Decides from validation losses whether to stop early: when several in a row bring no better loss.

    Attributes:
        best: the lowest loss so far; step: where it was. waited: validations since then.
    """

    best: float = math.inf
    step: int = 0
    waited: int = 0

    PATIENCE: ClassVar[int] = 2
    """Validations in a row that may pass without a better loss."""
    LEAST: ClassVar[float] = 0.01
    """A loss is better when it is lower than the best by at least this share of it."""

    @classmethod
    def of(cls, kept: Sequence[float]) -> Plateau:
        """From a checkpoint's fields (`best`, `step`, `waited`). A checkpoint of an older version has none: `kept` is
        empty."""
        return cls(kept[0], int(kept[1]), int(kept[2])) if kept else cls()

    def update(self, step: int, loss: float) -> bool:
        """Records the validation loss after a step; returns whether the loss has stopped falling."""
        if loss < self.best * (1.0 - self.LEAST):
            self.best, self.step, self.waited = loss, step, 0
        else:
            self.waited += 1
        return self.waited >= self.PATIENCE


class Budget:
    """Sets the number of steps so that training takes about `seconds`. Without a time budget the number never changes.

    The first steps are not counted, since they warm caches up. The number is estimated after FEWEST more steps and
    corrected at every tenth of the time; when the time is up, training ends.

    Attributes:
        steps: planned.
        reserve: seconds to keep for what follows the last step; at most a tenth of the time is kept.
    """

    FEWEST = 3
    """The fewest steps from which the time of one is taken."""

    def __init__(self, steps: int, seconds: float | None, start: int = 0) -> None:
        self.steps, self.seconds, self.start = steps, seconds, start
        self.reserve = 0.0
        self._looks = [0.0, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95]
        self._marks: list[tuple[int, float]] = []

    def update(self, done: int, elapsed: float) -> bool:
        """To be called after `done` steps and `elapsed` seconds; returns whether the number of steps changed."""
        if self.seconds is None:
            return False
        if not self._marks:
            self._marks.append((done, elapsed))
        before = self.steps
        left = self.seconds - min(self.reserve, 0.1 * self.seconds) - elapsed
        enough = done - self._marks[0][0] >= self.FEWEST
        if enough and left <= 0:
            self.steps = done
        elif enough and self._looks and elapsed >= self._looks[0] * self.seconds:
            self._looks = [look for look in self._looks if look * self.seconds > elapsed]
            more = max(1, round(left / self._each(done, elapsed)))
            self._marks.append((done, elapsed))
            self.steps = min(done + more, 1_000_000)
        return before != self.steps

    def _each(self, done: int, elapsed: float) -> float:
        """Seconds per step: the mean of the average over all steps and the average since the last correction."""
        (first, began), (last, looked) = self._marks[0], self._marks[-1]
        whole = (elapsed - began) / (done - first)
        recent = (elapsed - looked) / (done - last) if done - last >= self.FEWEST else whole
        return max(0.5 * (whole + recent), 1e-6)
