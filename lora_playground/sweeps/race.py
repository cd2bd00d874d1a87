"""A sweep's race: at a quarter and at half of the steps, the worse half of the runs stops. Pure functions.

This is successive halving (K. Jamieson, A. Talwalkar, AISTATS 2016) with two rungs, and every run compared with all
others at the same number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

SHARES = (0.25, 0.5)


def rungs(steps: int) -> tuple[int, ...]:
    """The steps at which runs are compared, for runs of so many steps; empty where there are too few."""
    found = dict.fromkeys(math.ceil(share * steps) for share in SHARES)
    return tuple(step for step in found if step < steps)


def places(losses: Mapping[int, float | None]) -> list[int]:
    """Runs from the best to the worst by validation loss; without a finite one they come last, equal ones by number."""

    def key(number: int) -> tuple[float, int]:
        loss = losses[number]
        return (loss if loss is not None and math.isfinite(loss) else math.inf, number)

    return sorted(losses, key=key)


def losers(losses: Mapping[int, float | None]) -> dict[int, int]:
    """The worse half, rounded down: {run: its place, from 1}. One run alone stays."""
    order = places(losses)
    kept = len(order) - len(order) // 2
    return {number: place for place, number in enumerate(order, 1) if place > kept}


def share_of_steps(count: int, steps: int) -> float:
    """Of the steps that all runs would take to their end, what a race of so many runs takes."""
    done, before, left = 0, 0, count
    for step in rungs(steps):
        done, before, left = done + left * (step - before), step, left - left // 2
    return (done + left * (steps - before)) / max(1, count * steps)
