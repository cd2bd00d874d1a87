"""The events that training sends while it runs (docs/architecture.md has their fields), and the time they may take.

It knows neither the model nor the optimiser.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_playground.analysis.spectra import analyse, effective_rank
from lora_playground.analysis.update import Update
from lora_playground.training.plan import Emit

FLUSH_SECONDS = 0.5
"""Losses are sent at most this often."""
RECENT_SECONDS = 20.0
"""The time left is estimated from the steps of this many seconds: a machine may become busy."""

_VALUES = 4000
"""The most singular values in one event, all modules together: about 28 kB of JSON."""

Fields = dict[str, Any]


class Report:
    """Sends events of one kind: always with `send`, and with `maybe` only while they take no more than a share of the
    training time. Events sent with `send` do not count towards that share.

    Args:
        kind: the events' type.
        make: gives an event's fields for a step; None if there is nothing to send.
        share: of the training time that these events may take. grace: seconds that they may take beyond it.
        every: least seconds between two events. cost: seconds that the first one is expected to take.
        title: the name shown to the user if making an event fails: there is one warning, no more events of this kind,
            and training goes on. Without a title the error is raised.

    Attributes:
        cost: seconds that the last event took. spent: that all have taken.
    """

    def __init__(
        self,
        emit: Emit,
        kind: str,
        make: Callable[[int], Fields | None] | None,
        share: float,
        *,
        every: float = 0.0,
        cost: float = 0.0,
        grace: float = 0.0,
        title: str = "",
    ) -> None:
        self.emit, self.kind, self.make, self.title = emit, kind, make, title
        self.share, self.every, self.cost, self.grace = share, every, cost, grace
        self.spent = 0.0
        self._between, self._last = 0.0, float("-inf")

    def maybe(self, step: int, elapsed: float) -> None:
        """Sends an event if the share allows it `elapsed` seconds into the training."""
        affordable = self._between + self.cost <= self.share * elapsed + self.grace
        if self.make is not None and affordable and elapsed - self._last >= self.every:
            self.send(step, elapsed)
            self._between += self.cost

    def affords(self, expected: float, part: float = 1.0) -> bool:
        """Whether an event at this point and one at the end, each for `part` of what the last one took, stay within the
        share of `expected` seconds of training, or within the grace."""
        return self.spent + 2 * part * self.cost <= max(self.grace, self.share * expected)

    def send(self, step: int, elapsed: float) -> Fields | None:
        """Sends an event, whatever it costs, and returns its fields; None if there was nothing to send."""
        if self.make is None:
            return None
        start, fields = time.perf_counter(), None
        try:
            fields = self.make(step)
            if fields is not None:
                self.emit({"type": self.kind, "step": step, **fields})
        except Exception as error:
            if not self.title:
                raise
            self.make = None
            self.emit({"type": "message", "level": "warning", "text": f"{self.title} off: {str(error)[:200]}"})
        self.cost, self._last = time.perf_counter() - start, elapsed
        self.spent += self.cost
        return fields


def spectra_fields(
    updates: list[Update], custom: Callable[[list[Update]], dict[str, np.ndarray]] | bool | None
) -> Fields:
    """Singular values, effective ranks and norms of the updates; a callable gives the values in place of `analyse`."""
    if callable(custom):
        values, dense = custom(updates), any(not update.factored for update in updates)
        frobenius = {name: float(np.linalg.norm(row)) for name, row in values.items()}
    else:
        spectra = analyse(updates)
        values, dense = {name: one.values for name, one in spectra.items()}, any(not s.exact for s in spectra.values())
        frobenius = {name: spectrum.frobenius for name, spectrum in spectra.items()}
    shown = max(8, _VALUES // max(1, len(values)))
    return {
        "spectra": {name: [rounded(value) for value in row[:shown]] for name, row in values.items()},
        "effective_rank": {name: rounded(effective_rank(row)) for name, row in values.items()},
        "frobenius": {name: rounded(value) for name, value in frobenius.items()},
        "modules_dense": dense,
    }


class LossReport:
    """Collects losses on the device and sends them in bulk, so that no step waits for the host to read a number.

    Args:
        planned: gives the planned number of steps, which a time budget may change.
        after: seconds expected between the last step and the result, part of the time left that is shown.

    Attributes:
        history: losses sent so far. tokens, seconds: trained tokens, and the pure training time that they took.
    """

    def __init__(self, emit: Emit, planned: Callable[[], int], after: float = 0.0) -> None:
        self.emit, self.planned, self.after = emit, planned, after
        self.history: list[float] = []
        self.tokens, self.seconds = 0, 0.0
        self._since, self._paused = time.perf_counter(), 0.0
        self._marks: deque[tuple[float, int]] = deque()
        self._clear()

    def _clear(self) -> None:
        self._steps: list[int] = []
        self._losses: list[Any] = []
        self._norms: list[Any] = []
        self._rates: list[float] = []
        self._tokens = 0

    def add(self, step: int, loss: Any, norm: Any, rate: float, tokens: int) -> None:
        """One optimiser step (from 1): loss and gradient norm as 0-d tensors, still on the device."""
        self._steps.append(step)
        self._losses.append(loss)
        self._norms.append(norm)
        self._rates.append(rate)
        self._tokens += tokens

    @property
    def due(self) -> bool:
        """Whether it is time to send; the very first loss is sent at once."""
        return bool(self._steps) and (not self.history or time.perf_counter() - self._since >= FLUSH_SECONDS)

    def pause(self, seconds: float) -> None:
        """Excludes `seconds` since the last flush from the training time: they went into something else."""
        self._paused += seconds

    def flush(self) -> int | None:
        """Sends what was collected; returns the first step whose loss or gradient is not finite, or None."""
        import torch

        if not self._steps:
            return None
        values = torch.stack([*self._losses, *self._norms]).float().cpu().numpy().reshape(2, -1).astype(float)
        now = time.perf_counter()
        taken = max(now - self._since - self._paused, 1e-9)
        self.seconds += taken
        self.tokens += self._tokens
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=0))
        good = int(wrong[0]) if len(wrong) else len(self._steps)
        losses = values[0][:good].tolist()
        self.history += losses
        if good:
            self.emit(
                {
                    "type": "loss",
                    "steps": self._steps[:good],
                    "losses": [round(loss, 6) for loss in losses],
                    "learning_rates": [rounded(rate) for rate in self._rates[:good]],
                    "tokens_per_second": rounded(self._tokens / taken),
                    "eta": round(self._left(now, self._steps[-1]), 1),
                }
            )
        bad = self._steps[good] if len(wrong) else None
        self._since, self._paused = now, 0.0
        self._clear()
        return bad

    def _left(self, now: float, step: int) -> float:
        """Seconds until the run has its result at the speed of the last RECENT_SECONDS, reports included."""
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > RECENT_SECONDS:
            self._marks.popleft()
        began, first = self._marks[0]
        each = (now - began) / (step - first) if step > first else self.seconds / len(self.history)
        return max(0, self.planned() - step) * each + self.after


def rounded(value: float, digits: int = 4) -> float:
    """The number rounded to `digits` significant digits, to keep the JSON short."""
    return float(f"{value:.{digits}g}")
