"""How long a run will take on this machine, from Train to its result: from what earlier runs here took, else reckoned.

It knows results of runs and sizes of models; it trains nothing and imports no torch. Every earlier run gives a time of
its own, so that what differs between them (a browser on the same cores, a loaded machine) is told as a range.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.estimates.memory import known_memory
from lora_playground.runs import RunStore

LOOKED_AT = 20
"""How many of the newest runs are looked at."""

TAKEN = 5
"""How many of them, the newest, make a forecast."""

ENOUGH = 10
"""Steps from which a run's speed is its own; shorter runs count where there are no others."""

LIVE_SHARE = 0.05
"""Of the time of the steps, what spectra, probes and validations between them were seen to add; seven hundredths is
what `training.reports` allows them."""

MARGINS = {"method": (0.7, 2.0), "model": (0.5, 2.5)}
"""By how much a run of another method, or of another model, may mislead, once its arithmetic was taken into account."""

PROCESSOR_SHARE = (0.08, 0.4)
"""Of what a large product reaches, what training did: with a browser and other work on the same cores, and alone."""

STARTING = (0.5, 15.0)
"""Seconds until the embedded model was loaded: a worker that was ready, and one that was not, on a loaded machine."""

DISK = (1e9, 1e8)
"""Bytes a second at which weights are read and converted, at best and at worst."""

_ASKING, _LOOKING = 2000, 3.3
"""What a run spends on looks at both ends, as time of training: probes as of so many tokens (two times two answers of
48), validations as of so many steps (eight passes without gradients)."""

_CHUNK = 3200
"""Answering one chunk of test questions takes about as long as training so many tokens, at the most."""

_SCORING = (1.0, 10.0)
"""Seconds of scoring: it begins nothing new after so long."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take, at the least and at the most.

    Attributes:
        seconds: from its start to its result, waiting in the queue left out.
        steps: optimiser steps; both the same unless training is given a time.
        source: 'runs' of this model and method here, runs with another 'method', of another 'model', or 'processor':
            from a matrix product timed now. runs: how many.
    """

    seconds: tuple[float, float]
    steps: tuple[int, int]
    source: str
    runs: int = 0


@dataclass(frozen=True)
class Pace:
    """How fast steps are, and what is spent beside them.

    Attributes:
        speed: tokens a second of pure training. tokens: of one step; None where a whole batch is reckoned with.
        looks: seconds of the training phase that do not grow with the steps. around: seconds of all other phases.
    """

    speed: float
    tokens: float | None
    looks: float
    around: float

    def seconds(self, config: RunConfig) -> float:
        """From start to result."""
        training = config.training
        spent = training.seconds or self.training(config, training.steps)
        return self.around + spent

    def training(self, config: RunConfig, steps: int) -> float:
        """The training phase of so many steps."""
        tokens = self._step(config)
        asked = steps // config.training.validate_every if config.training.validate_every else 0
        validations = asked * (_LOOKING / 2) * tokens / self.speed
        return self.looks + (1 + LIVE_SHARE) * steps * tokens / self.speed + validations

    def steps(self, config: RunConfig) -> int:
        """How many there will be."""
        if config.training.seconds is None:
            return config.training.steps
        left = max(0.0, config.training.seconds - self.looks) / (1 + LIVE_SHARE)
        return max(1, int(left * self.speed / self._step(config)))

    def _step(self, config: RunConfig) -> float:
        return self.tokens or config.training.batch_tokens


@dataclass(frozen=True)
class _Seen:
    """A finished run: its config and result."""

    config: RunConfig
    result: dict[str, Any]

    @property
    def speed(self) -> float:
        return float(self.result["tokens_per_second"])

    def pace(self, config: RunConfig) -> Pace:
        """At which `config` would run, by this run; `speed` is taken to the same arithmetic."""
        result, seconds, batch = self.result, self.result["seconds"], self.config.training.batch_tokens
        spent = float(result["tokens"]) / self.speed
        looks = max(0.0, float(seconds["training"]) - (1 + LIVE_SHARE) * spent)
        around = sum(float(taken) for phase, taken in seconds.items() if phase != "training")
        mine, other = work(self.config, self.result), work(config)
        ratio = mine / other if mine and other else 1.0
        # A step holds a little less than its batch, or more where an example is longer than that.
        step = float(result["tokens"]) / int(result["steps"])
        fill = step / batch
        tokens = config.training.batch_tokens * fill if fill <= 1 else max(step, float(config.training.batch_tokens))
        return Pace(self.speed * ratio, tokens, looks, around)


def forecast(store: RunStore, config: RunConfig, gpu: bool = False) -> Forecast | None:
    """What `config` will take here; None where nothing of the kind is known, and for a federated run.

    Args:
        store: whose finished runs are looked at.
        gpu: whether it will train on one; runs that say they trained on something else do not count.
    """
    return forecasts(store, [config], gpu)[0]


def forecasts(store: RunStore, configs: Sequence[RunConfig], gpu: bool = False) -> list[Forecast | None]:
    """As `forecast`, for several runs; the store is looked at once."""
    found = list(_finished(store, "cuda" if gpu else "cpu"))
    return [None if config.federated is not None else _forecast(found, config, gpu) for config in configs]


def _forecast(found: list[_Seen], config: RunConfig, gpu: bool) -> Forecast | None:
    same_model = [one for one in found if one.config.model == config.model]
    same = [one for one in same_model if _kind(one.config) == _kind(config)]
    if seen := _longest(same or same_model):
        # One run is one sample; with more of them their own range says how much they differ.
        margin = 1 + 0.25 / len(seen)
        around = (1 / margin, margin) if same else MARGINS["method"]
        return _of([one.pace(config) for one in seen], config, "runs" if same else "method", around)
    needed = work(config)
    if needed is None:
        return None
    speeds = [one.speed * done / needed for one in _longest(found) if (done := work(one.config, one.result))]
    if speeds:
        low, high = MARGINS["model"]
        return _between(min(speeds) / high, max(speeds) / low, config, "model", len(speeds))
    if gpu:
        return None
    slow, fast = (share * _flops() / needed for share in PROCESSOR_SHARE)
    return _between(slow, fast, config, "processor", 0)


def work(config: RunConfig, result: dict[str, Any] | None = None) -> float | None:
    """Floating-point operations a token of training: forward and back through the base, and all products of what is
    trained. Sizes from a run's result, else from the model's; None where neither is known."""
    if result is not None:
        total, trained = int(result.get("total_parameters") or 0), int(result.get("trainable_parameters") or 0)
    else:
        found = known_memory(config)
        total, trained = (found.parameters, found.trainable) if found else (0, 0)
    if not total:
        return None
    again = 2 * total if config.training.gradient_checkpointing else 0
    return 4.0 * total + again + (2 if config.variant.name == "full" else 6) * trained


def _kind(config: RunConfig) -> tuple[str, str]:
    return config.variant.name, config.training.precision


def _longest(seen: list[_Seen]) -> list[_Seen]:
    """The newest of those that trained long enough for the first step, which takes longer, not to count."""
    enough = [one for one in seen if int(one.result["steps"]) >= ENOUGH]
    return (enough or seen)[:TAKEN]


def _of(paces: list[Pace], config: RunConfig, source: str, margin: tuple[float, float]) -> Forecast:
    low, high = margin
    seconds, steps = [pace.seconds(config) for pace in paces], [pace.steps(config) for pace in paces]
    if config.training.seconds is None:
        return Forecast((low * min(seconds), high * max(seconds)), (min(steps), max(steps)), source, len(paces))
    # Training takes what it was given; what is uncertain is what stands around it, and how many steps there are.
    given = config.training.seconds
    around = [pace.around for pace in paces]
    spread = (max(1, int(min(steps) / high)), int(max(steps) / low))
    return Forecast((given + low * min(around), given + high * max(around)), spread, source, len(paces))


def _between(slow: float, fast: float, config: RunConfig, source: str, runs: int) -> Forecast:
    """For speeds at worst and at best, with everything beside the steps reckoned."""
    slowest, quickest = _reckoned(slow, config, 1), _reckoned(fast, config, 0)
    seconds = (quickest.seconds(config), slowest.seconds(config))
    return Forecast(seconds, (slowest.steps(config), quickest.steps(config)), source, runs)


def _reckoned(speed: float, config: RunConfig, end: int) -> Pace:
    """The pace of a model that has not run here at that speed; `end` 0 at the best, 1 at the worst."""
    looks = (_ASKING + _LOOKING * config.training.batch_tokens) / speed
    found = known_memory(config)
    loading = STARTING[end] + 2 * (found.causes["weights"] if found else 0) / DISK[end]
    return Pace(speed, None, looks, loading + _SCORING[end] + end * _CHUNK / speed)


def _finished(store: RunStore, device: str) -> Iterator[_Seen]:
    """What can be learned from, newest first: whole runs, trained in one go on this kind of device."""
    for run in store.list()[:LOOKED_AT]:
        result = run.result()
        try:
            if result and _usable(result, device):
                config = run.config()
                if config.federated is None:
                    yield _Seen(config, result)
        except (PlaygroundError, TypeError, ValueError, KeyError):
            continue


def _usable(result: dict[str, Any], device: str) -> bool:
    if result.get("state") != "done" or result.get("attempt", 1) != 1 or result.get("device", device) != device:
        return False
    numbers = [result.get("tokens_per_second"), result.get("tokens"), result.get("steps")]
    return all(float(number or 0) > 0 for number in numbers) and float(result["seconds"]["training"]) > 0


@lru_cache(maxsize=1)
def _flops() -> float:
    """Multiplications and additions a second of this processor in float32: products that take a few milliseconds."""
    side = 384
    one = np.ones((side, side), np.float32)
    one @ one
    best = min(_seconds(one) for _ in range(15))  # the best: another process may be in the way
    return 2 * side**3 / best


def _seconds(one: np.ndarray) -> float:
    begun = time.perf_counter()
    one @ one
    return max(1e-9, time.perf_counter() - begun)
