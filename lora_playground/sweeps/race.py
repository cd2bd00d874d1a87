"""A sweep's race: at a quarter and at half of the steps the worse half of the runs stops. Pure functions.

This is successive halving (K. Jamieson, A. Talwalkar, AISTATS 2016) with two rungs. Runs are compared only at equal
numbers of steps: a run that reaches a comparison early waits for the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

SHARES = (0.25, 0.5)


def rungs(steps: int) -> tuple[int, ...]:
    """The steps at which runs of `steps` steps are compared; fewer than two where runs are very short."""
    found = dict.fromkeys(math.ceil(share * steps) for share in SHARES)
    return tuple(step for step in found if step < steps)


def ranking(losses: Mapping[int, float | None]) -> list[int]:
    """Sorts runs from the lowest validation loss to the highest, those without a finite loss last, ties by number.

    Args:
        losses: {number of the run in its sweep: validation loss}.
    """

    def key(number: int) -> tuple[float, int]:
        loss = losses[number]
        return (loss if loss is not None and math.isfinite(loss) else math.inf, number)

    return sorted(losses, key=key)


def worse_half(losses: Mapping[int, float | None]) -> dict[int, int]:
    """The runs that stop: the worse half, rounded down, as {number of the run: its place among all, from 1}."""
    order = ranking(losses)
    kept = len(order) - len(order) // 2
    return {number: place for place, number in enumerate(order, 1) if place > kept}


def share_of_steps(count: int, steps: int) -> float:
    """The steps that a race of `count` runs takes, as a share of the `count * steps` that they take without a race."""
    done, before, left = 0, 0, count
    for step in rungs(steps):
        done, before, left = done + left * (step - before), step, left - left // 2
    return (done + left * (steps - before)) / max(1, count * steps)
