"""Estimates how long a run will take on this machine, from its start to its result.

Every comparable earlier run gives one estimate, so the differences between these runs, such as a browser on the same
cores, become a range. Without earlier runs the estimate is made from the model's size and the processor's speed. It
trains nothing and imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any, Literal

import numpy as np

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.estimates.memory import known_memory
from lora_playground.machine.device import cores
from lora_playground.runs import RunStore

LOOKED_AT, TAKEN = 20, 5
"""How many of the newest runs are read, and how many of these, the newest comparable ones, are used."""
ENOUGH = 10
"""The speed of a run with fewer steps is less reliable; such runs are used only if there are no others."""
REPORTS_SHARE = 0.05
"""Measured share of time that live spectra, probes and validation add to that of the steps (`training.loop` allows
0.11)."""
MARGINS = {"method": (0.7, 2.0), "model": (0.5, 2.5)}
"""(least, most) factors by which the time can differ from that of a run with another method, or of another model,
beyond the difference in arithmetic."""
PROCESSOR_SHARE = (0.08, 0.4)
"""Speed of training as a share of matrix products' on all cores: with a browser on the same cores, and alone."""
STARTING = (0.5, 15.0)
"""Seconds until the embedded model is loaded: with a worker ready, and without one on a busy machine."""
DISK = (1e9, 1e8)
"""Bytes a second at which weights are read and converted, at best and at worst."""
SCORING = (1.0, 10.0)
"""Seconds of scoring at best and at worst."""
SCORING_SHARE, SCORING_SECONDS = 0.15, 6.0
"""Share of the training time that probes and scoring together may take with any model but the embedded one, which
answers at once; and seconds that scoring may take in any run."""

_PROBE_TOKENS = 2000
"""The probes at both ends take as long as training on so many tokens: twice two answers of 48."""
_VALIDATIONS_STEPS = 3.3
"""The validations at both ends take as long as so many steps: eight batches without gradients."""
_CHUNK_TOKENS = 3200
"""One more batch of test questions takes at most as long as training on so many tokens."""


@dataclass(frozen=True)
class TimeEstimate:
    """The estimate of a run's time; pairs are (least, most).

    Attributes:
        seconds: from its start to its result, without waiting in the queue.
        steps: optimiser steps; the two differ only if training has a time budget.
        source: on what it rests: 'runs' of this model and method on this machine, runs with another 'method', of
            another 'model', or the speed of the 'processor', measured with a matrix product. runs: how many.
        after: expected seconds of saving and scoring, included in `seconds`.
    """

    seconds: tuple[float, float]
    steps: tuple[int, int]
    source: Literal["runs", "method", "model", "processor"]
    runs: int = 0
    after: float = 0.0


def estimate_times(store: RunStore, configs: Sequence[RunConfig], gpu: bool = False) -> list[TimeEstimate | None]:
    """The time of each config on this machine; None for those of which nothing comparable is known, and for federated
    runs.

    Args:
        store: has the earlier runs. gpu: whether the runs will train on a GPU; only earlier runs on such a device
            count.
    """
    found = list(_finished(store, "cuda" if gpu else "cpu"))
    return [None if config.federated is not None else _estimate(found, config, gpu) for config in configs]


def estimate_time(store: RunStore, config: RunConfig, gpu: bool = False) -> TimeEstimate | None:
    """Like `estimate_times`, for one run."""
    return estimate_times(store, [config], gpu)[0]


def flops_per_token(config: RunConfig, result: dict[str, Any] | None = None) -> float | None:
    """Floating-point operations of training per token: the base model's forward and backward pass, and all products of
    trained parameters. Sizes are taken from a run's result, else from the model's files; None if neither is known."""
    if result is not None:
        total, trained = int(result.get("total_parameters") or 0), int(result.get("trainable_parameters") or 0)
    else:
        found = known_memory(config)
        total, trained = (found.parameters, found.trainable) if found else (0, 0)
    if not total:
        return None
    again = 2 * total if config.training.gradient_checkpointing else 0
    return 4.0 * total + again + (2 if config.variant.name == "full" else 6) * trained


@dataclass(frozen=True)
class _Pace:
    """How fast one config trains.

    Attributes:
        speed: tokens per second, without reports. tokens: of one step.
        ends: seconds of the training phase that do not depend on the number of steps: probes and validation at its
            ends.
        before, after: seconds of the phases before and after training.
        cut: whether scoring ends after its share of the time, even if not all rows are answered.
    """

    speed: float
    tokens: float
    ends: float
    before: float
    after: float
    cut: bool = False

    def seconds(self, config: RunConfig) -> float:
        """From start to result."""
        return self.before + self.training(config) + self.ending(config)

    def training(self, config: RunConfig) -> float:
        """Of the training phase."""
        training, step = config.training, self.tokens / self.speed
        asked = training.steps // training.validate_every if training.validate_every else 0
        steps = (1 + REPORTS_SHARE) * training.steps * step + asked * _VALIDATIONS_STEPS / 2 * step
        return training.seconds or self.ends + steps

    def ending(self, config: RunConfig) -> float:
        """Of the phases after training."""
        return max(SCORING_SECONDS, SCORING_SHARE * self.training(config)) if self.cut else self.after

    def steps(self, config: RunConfig) -> int:
        """How many there will be."""
        if config.training.seconds is None:
            return config.training.steps
        left = max(0.0, config.training.seconds - self.ends) / (1 + REPORTS_SHARE)
        return max(1, int(left * self.speed / self.tokens))


@dataclass(frozen=True)
class _Seen:
    """A finished run: its config and result."""

    config: RunConfig
    result: dict[str, Any]

    @property
    def speed(self) -> float:
        return float(self.result["tokens_per_second"])

    def pace(self, config: RunConfig) -> _Pace:
        """The pace of `config`, if it computes as fast as this run did."""
        result, batch = self.result, self.config.training.batch_tokens
        seconds = {phase: float(taken) for phase, taken in result["seconds"].items()}
        training, after = seconds.pop("training"), seconds.pop("saving", 0.0) + seconds.pop("evaluating", 0.0)
        ends = max(0.0, training - (1 + REPORTS_SHARE) * float(result["tokens"]) / self.speed)
        done, needed = flops_per_token(self.config, result), flops_per_token(config)
        # A step has a little fewer tokens than its batch size, or more if an example is longer than that.
        step, asked = float(result["tokens"]) / int(result["steps"]), float(config.training.batch_tokens)
        tokens = asked * step / batch if step <= batch else max(step, asked)
        scored = result.get("scoring") or {}
        cut = scored.get("rows", 0) < scored.get("of", 0)
        speed = self.speed * (done / needed if done and needed else 1.0)
        return _Pace(speed, tokens, ends, sum(seconds.values()), after, cut)


def _estimate(found: list[_Seen], config: RunConfig, gpu: bool) -> TimeEstimate | None:
    same_model = [one for one in found if one.config.model == config.model]
    same = [one for one in same_model if _kind(one.config) == _kind(config)]
    if seen := _longest(same or same_model):
        # With a single run the margin is wide; with more runs their own range shows how much they differ.
        margin = 1 + 0.25 / len(seen)
        low, high = (1 / margin, margin) if same else MARGINS["method"]
        return _from_runs([one.pace(config) for one in seen], config, "runs" if same else "method", low, high)
    needed = flops_per_token(config)
    if needed is None:
        return None
    others = _longest(found)
    speeds = [one.speed * done / needed for one in others if (done := flops_per_token(one.config, one.result))]
    if speeds:
        low, high = MARGINS["model"]
        return _from_sizes(min(speeds) / high, max(speeds) / low, config, "model", len(speeds))
    if gpu:
        return None
    slow, fast = (share * _processor_flops() / needed for share in PROCESSOR_SHARE)
    return _from_sizes(slow, fast, config, "processor", 0)


def _from_runs(
    paces: list[_Pace], config: RunConfig, source: Literal["runs", "method"], low: float, high: float
) -> TimeEstimate:
    steps, after, given = [pace.steps(config) for pace in paces], median(pace.ending(config) for pace in paces), 0.0
    bounds = min(steps), max(steps)
    if config.training.seconds is not None:
        # Training takes the time of its budget; the other phases and the number of steps are uncertain.
        given, bounds = config.training.seconds, (max(1, int(bounds[0] / high)), int(bounds[1] / low))
    uncertain = [pace.seconds(config) - given for pace in paces]
    seconds = given + low * min(uncertain), given + high * max(uncertain)
    return TimeEstimate(seconds, bounds, source, len(paces), after)


def _from_sizes(
    slow: float, fast: float, config: RunConfig, source: Literal["model", "processor"], runs: int
) -> TimeEstimate:
    """For a model that has not been trained on this machine, with the slowest and the fastest speed."""
    memory, batch, paces = known_memory(config), config.training.batch_tokens, []
    for end, speed in enumerate((fast, slow)):
        ends = (_PROBE_TOKENS + _VALIDATIONS_STEPS * batch) / speed
        before = STARTING[end] + 2 * (memory.causes["weights"] if memory else 0) / DISK[end]
        scoring, cut = SCORING[end] + end * _CHUNK_TOKENS / speed, not config.model.embedded
        paces.append(_Pace(speed, batch, ends, before, scoring, cut))
    best, worst = paces
    after = (best.ending(config) + worst.ending(config)) / 2
    steps = worst.steps(config), best.steps(config)
    return TimeEstimate((best.seconds(config), worst.seconds(config)), steps, source, runs, after)


def _kind(config: RunConfig) -> tuple[str, str]:
    return config.variant.name, config.training.precision


def _longest(seen: list[_Seen]) -> list[_Seen]:
    """The newest of those runs that trained long enough for their slow first step not to matter."""
    enough = [one for one in seen if int(one.result["steps"]) >= ENOUGH]
    return (enough or seen)[:TAKEN]


def _finished(store: RunStore, device: str) -> Iterator[_Seen]:
    """Earlier runs that can be compared, newest first: those that were trained on this kind of device in one
    attempt."""
    for run in store.list()[:LOOKED_AT]:
        try:
            result = run.result()
            if result and _usable(result, device) and (config := run.config()).federated is None:
                yield _Seen(config, result)
        except (PlaygroundError, TypeError, ValueError, KeyError):
            continue  # a result that something else wrote


def _usable(result: dict[str, Any], device: str) -> bool:
    if result.get("state") != "done" or result.get("attempt", 1) != 1 or result.get("device", device) != device:
        return False
    numbers = [result.get("tokens_per_second"), result.get("tokens"), result.get("steps")]
    return all(float(number or 0) > 0 for number in numbers) and float(result["seconds"]["training"]) > 0


@lru_cache(maxsize=1)
def _processor_flops() -> float:
    """Float32 operations a second of all of this processor's cores, from small matrix products of one thread, timed for
    a millisecond. Large products take several threads, which beside a busy process wait for each other."""
    side, times = 64, []
    one = np.ones((side, side), np.float32)
    product = np.empty_like(one)
    for _ in range(200):
        begun = time.perf_counter()
        np.matmul(one, one, out=product)
        times.append(max(1e-9, time.perf_counter() - begun))
    return cores() * 2 * side**3 / min(times)  # the fastest: another process may have slowed the others
