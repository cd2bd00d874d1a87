"""How long a run will take on this machine, from Train to its result.

Taken from what earlier runs here took, each of which gives a time of its own: so the differences between them, such as
a browser on the same cores, become a range. Without earlier runs it follows from the model's size and the processor's
speed. It trains nothing and imports no torch.
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
from lora_playground.runs import RunStore

LOOKED_AT, TAKEN = 20, 5
"""How many of the newest runs are looked at, and how many of those, the newest that fit, are used."""
ENOUGH = 10
"""Steps from which a run's speed can be trusted; shorter runs are used where there are no others."""
REPORTS_SHARE = 0.05
"""Time that live spectra, probes and validation added to that of the steps, as seen (`training.loop` allows 0.07)."""
MARGINS = {"method": (0.7, 2.0), "model": (0.5, 2.5)}
"""By what factors the time may differ from that of a run with another method, or of another model, after the
difference in arithmetic is taken into account."""
PROCESSOR_SHARE = (0.08, 0.4)
"""Speed of training as a share of a large matrix product's: with a browser on the same cores, and alone."""
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
    """What a run will take: pairs are the least and the most.

    Attributes:
        seconds: from its start to its result; waiting in the queue is not counted.
        steps: optimiser steps, which differ only where training is given a time.
        source: what it is taken from: 'runs' of this model and method here, runs with another 'method', of another
            'model', or the 'processor', timed with a matrix product. runs: how many.
        after: seconds expected for saving and scoring, among `seconds`.
    """

    seconds: tuple[float, float]
    steps: tuple[int, int]
    source: Literal["runs", "method", "model", "processor"]
    runs: int = 0
    after: float = 0.0


def estimate_times(store: RunStore, configs: Sequence[RunConfig], gpu: bool = False) -> list[TimeEstimate | None]:
    """What each config would take here, one list entry each: None where nothing comparable is known, and for federated
    runs.

    Args:
        store: whose finished runs are looked at.
        gpu: whether they will train on a GPU; runs that trained on another kind of device are left out.
    """
    found = list(_finished(store, "cuda" if gpu else "cpu"))
    return [None if config.federated is not None else _estimate(found, config, gpu) for config in configs]


def estimate_time(store: RunStore, config: RunConfig, gpu: bool = False) -> TimeEstimate | None:
    """As `estimate_times`, for one run."""
    return estimate_times(store, [config], gpu)[0]


def flops_per_token(config: RunConfig, result: dict[str, Any] | None = None) -> float | None:
    """Floating-point operations of training per token: the base model forward and back, and all products of what is
    trained. Sizes are taken from a run's result, else from the model's; None where neither is known."""
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
        speed: tokens a second, reports not counted. tokens: of one step.
        ends: seconds of the training phase that do not grow with the steps: probes and validation at both ends.
        before, after: seconds of the phases before and after training.
        cut: whether scoring ends when its share of the time is over, whatever is answered by then.
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
        # A step holds a little less than its batch, or more where one example is longer than that.
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
        # One run is one sample. With more of them, their own range says how much they differ.
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
        # Training takes the time it was given; uncertain are the other phases, and how many steps there will be.
        given, bounds = config.training.seconds, (max(1, int(bounds[0] / high)), int(bounds[1] / low))
    uncertain = [pace.seconds(config) - given for pace in paces]
    seconds = given + low * min(uncertain), given + high * max(uncertain)
    return TimeEstimate(seconds, bounds, source, len(paces), after)


def _from_sizes(
    slow: float, fast: float, config: RunConfig, source: Literal["model", "processor"], runs: int
) -> TimeEstimate:
    """For a model that has not run here, with speeds at worst and at best."""
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
    """The newest of those that trained so long that their slow first step does not count."""
    enough = [one for one in seen if int(one.result["steps"]) >= ENOUGH]
    return (enough or seen)[:TAKEN]


def _finished(store: RunStore, device: str) -> Iterator[_Seen]:
    """Runs to learn from, newest first: those that trained on this kind of device from start to end in one attempt."""
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
    """Float32 operations a second of this processor, timed with matrix products for a few milliseconds."""
    side, times = 384, []
    one = np.ones((side, side), np.float32)
    for _ in range(16):
        begun = time.perf_counter()
        one @ one
        times.append(max(1e-9, time.perf_counter() - begun))
    return 2 * side**3 / min(times)  # the fastest: another process may have slowed the others
