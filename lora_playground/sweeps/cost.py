"""Estimates how long a sweep will take before it is started, from the estimates of its runs. It starts nothing."""

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
"""In a race the runs that go on are loaded again after each of the two comparisons. This is the most time that loading
adds, as a share of the time that all runs would take without a race."""


@dataclass(frozen=True)
class Cost:
    """What a sweep will take.

    Attributes:
        runs: number of runs. at_once: how many of them train at the same time.
        seconds: (shortest, longest) time from start to end; None if nothing comparable has run on this machine.
        steps: optimiser steps of all runs together. source: what the time is derived from, see `TimeEstimate.source`.
    """

    runs: int
    at_once: int
    seconds: tuple[float, float] | None
    steps: int
    source: str = ""


def cost(points: Sequence[Point], raced: bool, store: RunStore, slots: int, gpu: bool = False) -> Cost:
    """The cost of training these runs.

    Args:
        points: the runs; all have the same base model and number of steps. raced: whether the worse half stops early.
        slots: how many jobs this server runs at a time. gpu: whether they train on a GPU.
    """
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
    # Runs that train at the same time share caches and memory; each was measured to take up to 1.5 times as long.
    most *= 1.5 if at_once > 1 else 1.0
    seconds = (share * least, min(1.0, share + (RELOADING if raced else 0.0)) * most)
    worst = max(estimates, key=lambda one: ["runs", "method", "model", "processor"].index(one.source))
    return Cost(len(configs), at_once, seconds, steps, worst.source)
