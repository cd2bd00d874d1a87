"""What a sweep will take before it is started, from what its runs would take one by one. It starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_playground.estimates.memory import known_memory
from lora_playground.estimates.time import estimate_times
from lora_playground.jobs.placement import LARGE
from lora_playground.runs import RunStore
from lora_playground.sweeps import race
from lora_playground.sweeps.grid import Point

RELOADING = 0.25
"""What loading the runs that are left anew, twice in a race, adds at most, as a share of all runs in full."""


@dataclass(frozen=True)
class Cost:
    """Attributes:
    runs: how many. at_once: how many of them at a time.
    seconds: from start to end, the least and the most; None where nothing comparable has run here.
    steps: optimiser steps in all. source: what the time is taken from, as in `TimeEstimate`.
    """

    runs: int
    at_once: int
    seconds: tuple[float, float] | None
    steps: int
    source: str = ""


def cost(points: Sequence[Point], raced: bool, store: RunStore, slots: int, gpu: bool = False) -> Cost:
    """What these runs take with so many slots; a race takes fewer steps."""
    configs = [point.config for point in points]
    found = known_memory(configs[0])
    alone = not gpu and (found is None or found.parameters >= LARGE)
    at_once = 1 if alone else min(slots, len(configs))
    each = configs[0].training.steps
    share = race.share_of_steps(len(configs), each) if raced else 1.0
    estimates = [one for one in estimate_times(store, configs, gpu) if one is not None]
    steps = round(share * each * len(configs))
    if len(estimates) < len(configs):
        return Cost(len(configs), at_once, None, steps)
    rounds = max(1.0, len(configs) / at_once)
    least, most = (sum(one.seconds[end] for one in estimates) / len(estimates) * rounds for end in (0, 1))
    # Beside each other, on cores that share caches and memory, runs are slower than one alone: by up to a half as seen.
    most *= 1.5 if at_once > 1 else 1.0
    seconds = (share * least, min(1.0, share + (RELOADING if raced else 0.0)) * most)
    worst = max(estimates, key=lambda one: ["runs", "method", "model", "processor"].index(one.source))
    return Cost(len(configs), at_once, seconds, steps, worst.source)
