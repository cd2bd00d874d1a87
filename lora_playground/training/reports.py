"""What a training run tells while it runs, as the events of docs/architecture.md, and what the telling may cost.

It knows no model's inside and no optimiser.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lora_playground.analysis.spectra import analyse, effective_rank
from lora_playground.analysis.update import Update
from lora_playground.training.plan import Emit, TrainPlan

FLUSH_SECONDS = 0.5
SPECTRA_SHARE = 0.01
PROBE_SHARE = 0.03
VALIDATION_SHARE = 0.03
VALIDATION_GRACE = 0.5
"""Seconds of validation that every run may have, so that a short one has a curve too."""

_VALUES = 4000
"""Singular values in one event over all modules: about 28 kB of JSON."""


class Allowance:
    """Lets something costly happen as often as a share of the training time pays for.

    The first time is free of an estimate unless `estimate` seconds are given; from then on the last cost counts.
    `grace` seconds may be spent beyond the share.
    """

    def __init__(self, share: float, every: float, estimate: float = 0.0, grace: float = 0.0) -> None:
        self.share, self.every, self.cost, self.grace = share, every, estimate, grace
        self.spent = 0.0
        self._last = float("-inf")

    def permits(self, elapsed: float) -> bool:
        """Whether it may happen now, `elapsed` seconds into the training."""
        return elapsed - self._last >= self.every and self.spent + self.cost <= self.share * elapsed + self.grace

    def book(self, elapsed: float, cost: float) -> None:
        """It happened and cost so many seconds."""
        self.spent += cost
        self.cost, self._last = cost, elapsed


class SpectraReport:
    """Sends the spectra of the model's updates, as often as one per cent of the training time allows."""

    def __init__(self, plan: TrainPlan, emit: Emit, updates: Callable[[], Iterable[Update]]) -> None:
        self.plan, self.emit, self.updates = plan, emit, updates
        # Dense updates may cost seconds, so they wait until a share of a minute pays for a first look.
        self.allowance = Allowance(SPECTRA_SHARE, 1.0, 0.0 if plan.variant.low_rank else 0.3)
        self._broken = plan.on_spectra is False

    def maybe(self, step: int, elapsed: float) -> None:
        """Sends them if the allowance permits."""
        if not self._broken and self.allowance.permits(elapsed):
            self.send(step, elapsed)

    def send(self, step: int, elapsed: float) -> None:
        """Sends them; a failure becomes one warning and ends the reports, never the training."""
        if self._broken:
            return
        start = time.perf_counter()
        try:
            self.emit({"type": "spectra", "step": step, **self._compute()})
        except Exception as error:
            self._broken = True
            text = f"Live spectra are off: {str(error)[:200]}"
            self.emit({"type": "message", "level": "warning", "text": text})
        self.allowance.book(elapsed, time.perf_counter() - start)

    def _compute(self) -> dict[str, Any]:
        updates = list(self.updates())
        dense = any(not update.factored for update in updates)
        if callable(self.plan.on_spectra):
            values = self.plan.on_spectra(updates)
            frobenius = {name: float(np.linalg.norm(row)) for name, row in values.items()}
        else:
            spectra = analyse(updates)
            values = {name: spectrum.values for name, spectrum in spectra.items()}
            frobenius = {name: spectrum.frobenius for name, spectrum in spectra.items()}
            dense = any(not spectrum.exact for spectrum in spectra.values())
        shown = max(8, _VALUES // max(1, len(values)))
        return {
            "spectra": {name: [rounded(value) for value in row[:shown]] for name, row in values.items()},
            "effective_rank": {name: rounded(effective_rank(row)) for name, row in values.items()},
            "frobenius": {name: rounded(value) for name, value in frobenius.items()},
            "modules_dense": dense,
        }


class ProbeReport:
    """Sends the model's answers to fixed prompts, at both ends and as often as a small share of the time pays."""

    def __init__(self, plan: TrainPlan, emit: Emit) -> None:
        self.plan, self.emit = plan, emit
        self.allowance = Allowance(PROBE_SHARE, 2.0)
        self._broken = plan.on_probe is None

    def maybe(self, step: int, elapsed: float) -> None:
        """Sends them if the allowance permits."""
        if not self._broken and self.allowance.permits(elapsed):
            self.send(step, elapsed)

    def send(self, step: int, elapsed: float) -> None:
        """Sends them; a failure becomes one warning and ends the probes, never the training."""
        if self._broken or self.plan.on_probe is None:
            return
        start = time.perf_counter()
        try:
            self.emit({"type": "probe", "step": step, "answers": self.plan.on_probe(step)})
        except Exception as error:
            self._broken = True
            text = f"'Watch it learn' is off: {str(error)[:200]}"
            self.emit({"type": "message", "level": "warning", "text": text})
        self.allowance.book(elapsed, time.perf_counter() - start)


class ValidationReport:
    """Sends the loss on the validation examples: at both ends, and between as often as a small share of the time pays.

    Args:
        emit: takes the events.
        measure: gives the loss, None where there is nothing to measure it on.
    """

    def __init__(self, emit: Emit, measure: Callable[[], float | None]) -> None:
        self.emit, self.measure = emit, measure
        self.allowance = Allowance(VALIDATION_SHARE, 0.0, grace=VALIDATION_GRACE)

    def maybe(self, step: int, elapsed: float) -> None:
        """Sends it if the allowance permits."""
        if self.allowance.permits(elapsed):
            self.allowance.book(elapsed, self._timed(step)[1])

    def send(self, step: int) -> float | None:
        """Sends it, whatever it costs, and returns it."""
        value, self.allowance.cost = self._timed(step)
        return value

    def _timed(self, step: int) -> tuple[float | None, float]:
        start = time.perf_counter()
        value = self.measure()
        if value is not None:
            self.emit({"type": "validation", "step": step, "loss": round(value, 6)})
        return value, time.perf_counter() - start


class LossReport:
    """Collects losses on the device and sends them in bulk, so that no step waits for the host to read a number.

    Args:
        emit: takes the events.
        plan_steps: gives the planned number of steps, which a time budget may change.
    """

    def __init__(self, emit: Emit, plan_steps: Callable[[], int]) -> None:
        self.emit, self.plan_steps = emit, plan_steps
        self.history: list[float] = []
        self.tokens = 0
        self.seconds = 0.0
        self._rates: list[float] = []
        self._losses: list[Any] = []
        self._norms: list[Any] = []
        self._first_step = 0
        self._pending_tokens = 0
        self._since = time.perf_counter()
        self._paused = 0.0

    def add(self, step: int, loss: Any, norm: Any, rate: float, tokens: int) -> None:
        """One optimiser step (from 1): loss and gradient norm as 0-d tensors, still on the device."""
        if not self._losses:
            self._first_step = step
        self._losses.append(loss)
        self._norms.append(norm)
        self._rates.append(rate)
        self._pending_tokens += tokens

    @property
    def due(self) -> bool:
        """Whether it is time to send; the first loss of all goes out at once."""
        return bool(self._losses) and (not self.history or time.perf_counter() - self._since >= FLUSH_SECONDS)

    def pause(self, seconds: float) -> None:
        """So many seconds since the last flush went into something else than training."""
        self._paused += seconds

    def flush(self) -> int | None:
        """Sends what was collected; returns the first step whose loss or gradient is not finite, or None."""
        import torch

        if not self._losses:
            return None
        values = torch.stack([*self._losses, *self._norms]).float().cpu().numpy().astype(float)
        losses, norms = values[: len(self._losses)], values[len(self._losses) :]
        now = time.perf_counter()
        taken = max(now - self._since - self._paused, 1e-9)
        self.seconds += taken
        self.tokens += self._pending_tokens
        steps = list(range(self._first_step, self._first_step + len(losses)))
        bad = next((step for step, a, b in zip(steps, losses, norms) if not (np.isfinite(a) and np.isfinite(b))), None)
        good = len(losses) if bad is None else bad - self._first_step
        self.history += losses[:good].tolist()
        if good:
            left = max(0, self.plan_steps() - steps[-1])
            each = self.seconds / max(1, len(self.history))
            self.emit(
                {
                    "type": "loss",
                    "steps": steps[:good],
                    "losses": [round(loss, 6) for loss in losses[:good].tolist()],
                    "learning_rates": [rounded(rate) for rate in self._rates[:good]],
                    "tokens_per_second": rounded(self._pending_tokens / taken),
                    "eta": round(left * each, 1),
                }
            )
        self._losses, self._norms, self._rates, self._pending_tokens = [], [], [], 0
        self._since, self._paused = now, 0.0
        return bad


def rounded(value: float, digits: int = 4) -> float:
    """The number to so many significant digits, as JSON should carry it."""
    return float(f"{value:.{digits}g}")
