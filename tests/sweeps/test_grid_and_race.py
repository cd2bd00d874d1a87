"""Which runs a sweep has, and which of them its race stops: against counting by hand and by simulation."""

import itertools
import math
import random

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.sweeps import race
from lora_playground.sweeps.grid import Grid

BASE = {"data": {"dataset": "facts"}, "variant": {"name": "lora", "alpha": 32.0}, "training": {"steps": 40}}


def test_every_combination_once_and_nothing_else_changes() -> None:
    base = RunConfig.parse(BASE)
    points = Grid((4, 1, 4), (), (1e-3, 2e-3), (0, 1)).points(base)
    found = [(p.config.training.seed, p.config.training.learning_rate, p.config.variant.rank) for p in points]
    assert found == list(itertools.product((0, 1), (1e-3, 2e-3), (4, 1))), "the first seed before the second"
    for point in points:
        swept = {"title", "variant.rank", "training.learning_rate", "training.seed"}
        same = _flat(point.config.model_dump()).items() - _flat(base.model_dump()).items()
        assert {name for name, _ in same} <= swept
        assert point.config.variant.alpha == 32.0
    assert len({point.config.title for point in points}) == len(points), "each has a name of its own"


def test_a_variant_without_rank_is_one_run_and_other_variants_have_their_own_defaults() -> None:
    points = Grid((2, 8), ("lora", "full", "dora"), (), ()).points(RunConfig.parse(BASE))
    assert [(p.variant, p.rank) for p in points] == [("lora", 2), ("lora", 8), ("full", None), ("dora", 2), ("dora", 8)]
    assert [p.config.variant.alpha for p in points if p.variant == "dora"] == [16.0, 16.0]


def test_too_many_runs_unknown_variants_and_parties_are_refused() -> None:
    base = RunConfig.parse(BASE)
    with pytest.raises(ConfigError, match=r"33 runs.*at most 32"):
        Grid(seeds=tuple(range(33))).points(base)
    assert len(Grid(seeds=tuple(range(32))).points(base)) == 32
    with pytest.raises(ConfigError, match="nothing-known"):
        Grid(variants=("nothing-known",)).points(base)
    with pytest.raises(ConfigError, match="rank"):
        Grid(ranks=(0,)).points(base)
    with pytest.raises(ConfigError, match="federated"):
        Grid(ranks=(1,)).points(RunConfig.parse(BASE | {"federated": {}}))


def test_a_race_keeps_the_better_half_whatever_the_order() -> None:
    draw = random.Random(3)
    for count in range(1, 33):
        losses = {number: draw.choice([1.0, 2.0, draw.random(), None, math.nan]) for number in range(count)}
        out = race.worse_half(losses)
        assert len(out) == count // 2

        worth = {n: math.inf if loss is None or math.isnan(loss) else loss for n, loss in losses.items()}
        best_out = min((worth[number] for number in out), default=math.inf)
        assert all(worth[number] <= best_out for number in losses if number not in out)


def test_the_steps_of_a_race_are_those_that_are_counted_one_by_one() -> None:
    for count, steps in itertools.product((1, 2, 7, 32), (1, 2, 3, 8, 30, 41)):
        alive, total = count, 0
        for step in range(steps):
            if step in (math.ceil(steps / 4), math.ceil(steps / 2)) and step:
                alive -= alive // 2
            total += alive
        assert race.share_of_steps(count, steps) == pytest.approx(total / (count * steps))


def _flat(config: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: repr(value)}
    return found
