"""What a sweep shows, from runs whose answers are known, against formulas written out and dense float64."""

import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from lora_playground.plots.sweeps import describe_capacity, describe_fan, describe_scores
from lora_playground.runs.history import RunProgress
from lora_playground.service import sweeps as service
from lora_playground.sweeps import Entry, Member, Sweep, SweepStatus, findings

N = 100


def member(number: int, rank: int, losses: dict[int, float], score: float | None = None, **more: Any) -> Member:
    """A run with that validation curve; `more`: state, seed, rate, parameters, spectrum."""
    entry = Entry({"title": f"r{rank}"}, "lora", rank, more.get("rate"), more.get("seed", 0), run=f"run-{number}")
    progress = RunProgress()
    progress.take({"type": "plan", "steps": 40, "trainable_parameters": more.get("parameters", 1000 * rank)})
    for step, loss in losses.items():
        progress.take({"type": "validation", "step": step, "loss": loss})
    if "spectrum" in more:
        progress.take({"type": "spectra", "step": 40, "spectra": more["spectrum"]})
    state = more.get("state", "done")
    result: dict[str, Any] = {"validation_loss": {"base": 2.0 * math.log(2), "adapted": 1.0}, "target_tokens": 3000}
    if score is not None:
        result["score"] = {"adapted": score, "base": 0.1, "n": N, "low": 0.0, "high": 1.0}
    return Member(number, entry, state, max(losses), 40, progress, result if state == "done" else None)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Both roots p of (share − p)² = z² p (1 − p) / count."""
    z2 = 1.959964**2
    roots = np.roots([1 + z2 / count, -(2 * share + z2 / count), share * share])
    return tuple(sorted(float(root.real) for root in roots))


def test_where_the_curves_part() -> None:
    curves = findings.curves_by_rank([
        member(0, 1, {0: 4.0, 10: 3.0, 20: 2.5, 40: 2.2}),
        member(1, 4, {0: 4.0, 10: 3.2, 20: 2.0, 40: 1.01}),  # above the lowest at 10 only, so it has not parted
        member(2, 16, {0: 4.0, 10: 3.0, 20: 2.0, 40: 1.0}),
    ])  # fmt: skip
    assert [(one.rank, one.separates_at) for one in curves] == [(1, 20), (4, None), (16, None)]
    words = describe_fan([(one.rank, one.steps, one.losses, one.separates_at) for one in curves], findings.MARGIN)
    assert words == "r = 4 and 16 end within 2% of the lowest loss; r = 1 lies above it from step 20 on."


def test_what_the_race_has_stopped_is_not_said_to_have_ended_as_low() -> None:
    curves = findings.curves_by_rank([
        member(0, 1, {0: 4.0, 10: 3.0}, state="out", spectrum={"m": [1.0]}),
        member(1, 4, {0: 4.0, 10: 2.99, 40: 1.0}, spectrum={"m": [1.0, 1.0, 1.0, 1.0]}),
        member(2, 8, {0: 4.0, 10: 2.99, 40: 1.0}, spectrum={"m": [1.0] * 8}),
    ])  # fmt: skip
    words = describe_fan([(one.rank, one.steps, one.losses, one.separates_at) for one in curves], findings.MARGIN)
    assert words == ("The curves do not part: r = 4 and 8 end within 2% of the lowest loss. r = 1 has come to step 10.")
    used = findings.utilisation([
        member(0, 1, {10: 3.0}, state="out", spectrum={"m": [1.0]}), member(1, 4, {40: 1.0}, spectrum={"m": [1.0] * 4})
    ])  # fmt: skip
    assert used is not None and used.points == ((4, 4.0),) and used.slope is None


def test_a_curve_is_the_mean_of_its_seeds_that_came_as_far_and_of_the_best_rate() -> None:
    curves = findings.curves_by_rank([
        member(0, 2, {0: 4.0, 20: 2.0, 40: 1.0}, seed=0, rate=1e-3),
        member(1, 2, {0: 4.0, 20: 3.0, 40: 2.0}, seed=1, rate=1e-3),
        member(2, 2, {0: 4.0, 20: 9.0}, seed=2, rate=1e-3, state="out"),
        member(3, 2, {0: 4.0, 20: 5.0, 40: 5.0}, rate=1e-1),
    ])  # fmt: skip
    assert [(one.steps, one.losses, one.runs) for one in curves] == [((0, 20, 40), (4.0, 2.5, 1.5), 2)]


def test_the_smallest_rank_within_the_interval_of_the_best() -> None:
    scores = {1: 0.60, 2: 0.85, 4: 0.92, 16: 0.93}
    scored = findings.scores_by_rank(
        [member(n, rank, {40: 1.0}, score) for n, (rank, score) in enumerate(scores.items())]
    )
    for one in scored:
        assert (one.low, one.high) == pytest.approx(wilson(scores[one.rank], N))
    low = wilson(0.93, N)[0]
    assert 0.85 < low < 0.92
    found = findings.smallest_sufficient_rank(scored)
    assert found is not None and (found[0].rank, found[1].rank) == (4, 16)
    rows = [(one.variant, one.rank, one.score, one.low, one.high, one.scores) for one in scored]
    words = describe_scores(rows, rows[2], rows[3], N)
    assert words.startswith("r = 4 is enough here: 92 [85, 96] against 93 [86, 97] at r = 16")
    assert "every smaller rank lies below" in describe_scores(rows[:3], rows[2], rows[2], N)
    smallest = describe_scores(rows[2:], rows[2], rows[2], N)
    assert smallest == f"r = 4, the smallest, is the best too: 92 [85, 96] ({N} test rows)."


def test_seeds_do_not_make_the_rows_more() -> None:
    """Three seeds answer the same rows: the mean's interval is as wide as one run's."""
    three = findings.scores_by_rank([member(n, 2, {40: 1.0}, s, seed=n) for n, s in enumerate((0.6, 0.7, 0.8))])
    assert three[0].score == pytest.approx(0.7) and (three[0].low, three[0].high) == pytest.approx(wilson(0.7, N))


def test_capacity_is_counted_in_bits() -> None:
    held = findings.capacity([member(0, 1, {40: 1.0}), member(1, 8, {40: 1.0})])
    assert held is not None and held.target_bits == pytest.approx(2.0 * 3000), "two bits a token, 3000 tokens"
    assert held.held == {("lora", 1): (1000, 2000.0), ("lora", 8): (8000, 16000.0)}
    words = describe_capacity(held.target_bits, held.held, held.bits)
    assert "6000 bits" in words and "r = 8 is the first that could hold it all" in words
    assert findings.capacity([member(0, 1, {10: 1.0}, state="training")]) is None


def test_utilisation_is_the_slope_of_the_stable_rank_of_dense_matrices() -> None:
    draw = np.random.default_rng(0)
    members, expected = [], []
    for number, rank in enumerate((2, 4, 16)):
        dense = [draw.normal(size=(24, rank)) @ draw.normal(size=(rank, 32)) for _ in range(3)]
        values = {f"m{n}": np.linalg.svd(one, compute_uv=False)[:rank].tolist() for n, one in enumerate(dense)}
        members.append(member(number, rank, {40: 1.0}, spectrum=values))
        stable = [np.linalg.norm(one, "fro") ** 2 / np.linalg.norm(one, 2) ** 2 for one in dense]
        expected.append((rank, float(np.mean(stable))))
    used = findings.utilisation(members)
    assert used is not None
    assert [rank for rank, _ in used.points] == [2, 4, 16]
    np.testing.assert_allclose([value for _, value in used.points], [value for _, value in expected], rtol=1e-10)
    x, y = np.log([r for r, _ in expected]), np.log([v for _, v in expected])
    slope = ((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) @ (x - x.mean()))
    assert used.slope == pytest.approx(slope)


def test_the_heat_map_is_a_mean_over_what_it_does_not_show() -> None:
    members = [
        member(n, rank, {40: 1.0}, rank / 10 + seed / 100, rate=rate, seed=seed)
        for n, (rank, rate, seed) in enumerate((r, lr, s) for r in (1, 2) for lr in (1e-3, 1e-2) for s in (0, 1))
    ]
    heat = findings.heat(members[:-1])
    assert heat is not None and (heat.x, heat.y, heat.xs, heat.ys) == ("rank", "learning_rate", (1, 2), (1e-3, 1e-2))
    np.testing.assert_allclose(heat.cells, [[0.105, 0.205], [0.105, 0.2]])
    assert findings.heat([one for one in members if one.entry.seed == 0 and one.entry.learning_rate == 1e-3]) is None


def test_a_sweep_is_told_and_drawn_at_every_moment() -> None:
    sweep = Sweep("s", "facts: 2 ranks", "", 0.0, True, 40)
    begun = Member(0, Entry({"title": "r1"}, "lora", 1, None, 0), "planned", 0, 40)
    moments = [
        [begun],
        [begun, member(1, 2, {0: 2.0}, state="training")],
        [member(0, 1, {0: 2.0, 10: 1.9}, state="out"), member(1, 2, {0: 2.0, 40: 1.0}, 0.5)],
    ]
    for members in moments:
        made = service.pictures(SweepStatus(sweep, members))
        assert {"fan", "score", "capacity", "utilisation"} <= set(made)
        for figure, words in made.values():
            assert "nan" not in words
            go.Figure(data=figure["data"], layout=figure["layout"])  # Plotly refuses what it does not know
            json.dumps(figure, allow_nan=False)
    told = service.report(SweepStatus(sweep, moments[-1]))
    assert told["best"]["rank"] == 2 and [one["state"] for one in told["runs"]] == ["out", "done"]
