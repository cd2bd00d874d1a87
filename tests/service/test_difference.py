"""Two runs in words: intervals against a published example and a simulation, and when nothing is claimed."""

from typing import Any

import numpy as np
import pytest

from lora_playground.service.difference import Side, describe, gap

CONFIG = {"model": {"source": "embedded"}, "data": {"dataset": "facts"}, "variant": {"name": "lora", "rank": 4}}


def side(name: str, rank: int, right: list[float], dataset: str = "facts", **result: Any) -> Side:
    config = CONFIG | {"variant": {"name": "lora", "rank": rank}, "data": {"dataset": dataset}}
    score = {"adapted": float(np.mean(right)), "n": len(right), "each": right}
    return Side(name, config, {"score": score, "validation_loss": {"adapted": 1.0 / rank}} | result)


def test_without_rows_it_is_newcombes_interval() -> None:
    """56 of 70 against 48 of 80 (Newcombe 1998, table II, case (a), method 10: 0.0524 to 0.3339)."""
    found = gap({"adapted": 48 / 80, "n": 80}, {"adapted": 56 / 70, "n": 70}, same_rows=True)
    assert found is not None and not found.paired
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_row_by_row_it_covers_the_true_difference() -> None:
    draw, covered, trials = np.random.default_rng(5), 0, 600
    for _ in range(trials):
        hard = draw.random(96)
        a, b = (hard < 0.6).astype(float), (hard + draw.normal(scale=0.15, size=96) < 0.7).astype(float)
        found = gap(
            {"adapted": a.mean(), "n": 96, "each": list(a)}, {"adapted": b.mean(), "n": 96, "each": list(b)}, True
        )
        assert found is not None and found.paired
        covered += found.low <= TRUE <= found.high
    assert 0.92 <= covered / trials <= 0.985


def _true() -> float:
    draw = np.random.default_rng(6)
    hard = draw.random(400_000)
    return float(np.mean(hard + draw.normal(scale=0.15, size=len(hard)) < 0.7) - 0.6)


TRUE = _true()


def test_it_says_which_is_better_only_where_the_rows_can_tell() -> None:
    weak, strong = [1.0] * 50 + [0.0] * 46, [1.0] * 90 + [0.0] * 6
    said = " ".join(describe(side("r4", 4, weak), side("r16", 16, strong), 0.5))
    assert "r16 has 42 points more" in said and "on the same 96 rows: r16 is better than r4" in said
    assert "r16 has rank 16 instead of 4, beside r4." in said and "cosine of 0.50" in said
    close = [*weak[:50], 1.0, *weak[51:]]
    said = " ".join(describe(side("r4", 4, weak), side("r16", 16, close)))
    assert "cannot tell which is better" in said and "is better than" not in said
    said = " ".join(describe(side("r4", 4, weak), side("pirate", 16, strong, dataset="pirate")))
    assert "are not compared" in said and "is better" not in said and "Validation loss" not in said


def test_forgetting_has_its_interval_too() -> None:
    kept = {"adapted": 0.9, "n": 96, "each": [1.0] * 86 + [0.0] * 10}
    lost = {"adapted": 0.4, "n": 96, "each": [1.0] * 38 + [0.0] * 58}
    right = [1.0] * 96
    said = " ".join(describe(side("a", 4, right, forgetting=kept), side("b", 4, right, forgetting=lost)))
    assert "b has 50 points fewer" in said and "it forgot more" in said
    assert "They were made with the same options." in said
