"""Figures: valid Plotly, small enough for a live page, one colour a run; and sentences that are true."""

import itertools
import json
import math

import numpy as np
import plotly.graph_objects as go
import pytest

from lora_playground import plots
from lora_playground.plots import spectrum, style, training
from lora_playground.runs.history import RunProgress

KINDS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
KINDS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
BIG = [f"model.layers.{layer}.{kind}" for layer in range(30) for kind in KINDS]


def size(figure: dict) -> int:
    return len(json.dumps(figure, separators=(",", ":")).encode())


def check(figure: dict) -> None:
    """Plotly's own validation refuses unknown fields and wrong values; a live figure keeps zoom and stays small."""
    go.Figure(data=figure["data"], layout=figure["layout"])
    assert figure["layout"]["uirevision"] and figure["layout"]["title"]["text"]
    json.loads(json.dumps(figure, allow_nan=False))
    assert size(figure) <= 30_000


def progress(steps: int) -> RunProgress:
    rng = np.random.default_rng(0)
    losses = [3 * math.exp(-i / 200) + 0.2 * float(rng.random()) for i in range(steps)]
    made: list[dict] = [{"type": "plan", "steps": steps, "start_step": 0}]
    for start in range(0, steps, 10):
        chunk = list(range(start + 1, min(start + 10, steps) + 1))
        made.append({"type": "loss", "steps": chunk, "losses": [losses[i - 1] for i in chunk]})
    made += [
        {"type": "validation", "step": s, "loss": losses[max(0, s - 1)]} for s in range(0, steps, max(1, steps // 10))
    ]
    return RunProgress.of(made)


@pytest.mark.parametrize("steps", [1, 60, 20_000])
def test_loss_of_one_and_of_four_runs(steps):
    check(plots.loss_figure(progress(steps), "#0072B2"))
    four = [(f"run <b>{i}</b>", plots.run_colour(i), progress(steps)) for i in range(4)]
    figure = plots.losses_figure(four)
    check(figure)
    assert "<b>" not in json.dumps(figure["data"]), "a run's title is text, not markup"
    last = max(step for trace in figure["data"] for step in trace["x"])
    assert last == steps, "thinning keeps the newest step"


def test_a_loss_that_is_not_finite_is_a_gap():
    series = RunProgress(steps=[1, 2, 3], losses=[2.0, math.nan, 1.0], validation=[(2, math.inf)])
    check(plots.loss_figure(series, "#000"))
    assert "NaN" not in json.dumps(plots.loss_figure(series, "#000"))
    assert plots.describe_loss(series).startswith("After 3 steps")


def test_the_mean_starts_at_the_first_loss_and_follows():
    assert training.smoothed([5.0, 5.0, 5.0], 4) == pytest.approx([5.0, 5.0, 5.0])
    falling = training.smoothed([4.0, 2.0, 2.0, 2.0], 1)
    assert falling[0] == 4.0 and all(a > b for a, b in itertools.pairwise(falling))


def test_a_rising_validation_loss_is_said():
    series = RunProgress(steps=[1, 2, 3], losses=[3, 2, 1], validation=[(0, 3.0), (2, 2.0), (3, 2.5)])
    assert "lowest (2) at step 2" in plots.describe_loss(series)


@pytest.mark.parametrize("log", [True, False])
def test_scree(log):
    sigma = list(2.0 ** -np.arange(8.0))
    one = plots.scree_figure([("facts", "#0072B2", sigma)], rank=8, log=log, module=BIG[9])
    check(one)
    assert one["layout"]["annotations"][0]["text"] == "rank budget r = 8"
    assert "layer 1" in one["layout"]["title"]["text"]
    several = [(str(i), plots.run_colour(i), list(np.linspace(3, 0.1, 64))) for i in range(4)]
    check(plots.scree_figure(several, rank=[8, 8, 64, 64], log=log))
    check(plots.scree_figure([("full", "#000", list(np.linspace(3, 0.1, 4096)))], log=log))
    check(plots.scree_figure([("zero", "#000", [0.0] * 8)], rank=8, log=log))
    check(plots.scree_figure([]))


def test_scree_leaves_numerical_zeros_out_of_a_log_axis():
    figure = plots.scree_figure([("a", "#000", [1.0, 0.5, 1e-12, 0.0])], rank=4)
    assert figure["data"][0]["y"] == [1.0, 0.5, None, None]


@pytest.mark.parametrize("measure", list(plots.MEASURES))
def test_map_of_a_large_model_fits_an_update(measure):
    values = {name: 1.0 + index / 7 for index, name in enumerate(BIG)}
    figure = plots.map_figure(values, measure, selected=BIG[10])
    check(figure)
    heat = figure["data"][0]
    assert (len(heat["z"]), len(heat["z"][0])) == (30, 7)
    assert heat["customdata"][1][3] == "model.layers.1.self_attn.o_proj"
    assert figure["layout"]["shapes"][0]["x0"] == 2.5 and figure["layout"]["shapes"][0]["y0"] == 0.5
    assert "layer 29 · down_proj" in plots.describe_map(values, measure)
    assert plots.describe_map(dict.fromkeys(BIG, 1.0), measure).endswith("over 210 modules: 1 in each.")


def test_map_columns_follow_the_data_whatever_the_order_of_the_file():
    modules = [f"model.layers.0.{kind}" for kind in sorted(KINDS)]
    assert plots.module_grid(modules)[1] == [kind.split(".")[1] for kind in KINDS]


def test_map_keeps_modules_outside_layers_and_gaps():
    values = {"transformer.h.0.attn.c_proj": 1.0, "transformer.h.0.mlp.c_proj": 2.0, "lm_head": 3.0}
    rows, kinds, _ = plots.module_grid(list(values))
    assert rows == ["0", "other"] and kinds == ["attn.c_proj", "mlp.c_proj", "lm_head"]
    figure = plots.map_figure({**values, "transformer.h.1.mlp.c_proj": math.nan})
    check(figure)
    assert figure["data"][0]["z"][0] == [1.0, 2.0, None]
    check(plots.map_figure({}))


def test_sentences_of_known_spectra():
    assert spectrum.describe_scree("style", [10.0, 0.1, 0.1, 0.1], rank=4) == (
        "style: allowed 4 directions; 1 does 90% of the work."
    )
    assert spectrum.describe_scree("", [1.0] * 8, rank=8) == "Allowed 8 directions; 8 do 90% of the work."
    assert spectrum.describe_scree("x", [0.0, 0.0], rank=2) == "x: the update is still zero."
    assert "the strongest 1 do less than 90%" in spectrum.describe_scree("x", [1.0], frobenius=5.0)
    assert "off by at most 0.01" in spectrum.describe_ranks("x", [1.0], error=0.01, frobenius=5.0)
    assert "effective rank 8" in spectrum.describe_ranks("", [1.0] * 8) and spectrum.describe_ranks("", [0.0]) == ""


def test_directions_as_pixels_add_up_to_the_update():
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (50, 20))
    values = np.array([3.0, 1.0, 0.5])
    drawn = plots.directions_figure(U, values, V.T)
    check(drawn)
    first, last = (np.array(drawn["data"][n]["z"]) for n in (0, -1))
    assert first.shape == (32, 20) and np.linalg.matrix_rank(first, tol=0.01) == 1
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["first 1", "first 2", "all 3"]
    ordered = ((U * values) @ V.T)[np.argsort(U[:, 0])[np.linspace(0, 49, 32).round().astype(int)]]
    np.testing.assert_allclose(last, ordered[:, np.argsort(V[:, 0])], atol=2e-3)
    assert "does 88% of the work" in plots.describe_directions(values)
    check(plots.directions_figure(U, values * 0, V.T))


def test_energy_curve_shades_what_a_cut_keeps():
    figure = plots.energy_figure([("a", "#000", [0.5, 0.8, 1.0])], kept=(1, 2))
    check(figure)
    assert figure["data"][0]["y"][0] == 0.0
    assert (figure["layout"]["shapes"][0]["x0"], figure["layout"]["shapes"][0]["x1"]) == (0, 2)


@pytest.mark.parametrize(
    "value, text",
    [
        (1_234_567, "1.23M"),
        (12_345, "12.3k"),
        (0.12345, "0.123"),
        (1234, "1230"),
        (0, "0"),
        (2e-5, "2.00e-05"),
        (6.53e-4, "0.000653"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert style.significant(value) == text


@pytest.mark.parametrize("share, text", [(0.5, "50%"), (0.998, ">99%"), (1.0, "100%"), (0.004, "<1%"), (0.0, "0%")])
def test_shares_are_never_rounded_to_all_or_nothing(share, text):
    assert style.percent(share) == text


def test_run_colours_differ():
    assert len({plots.run_colour(i) for i in range(6)}) == 6


# ------------------------------------------------------------------------------------- relations, compare, cuts


def test_two_adapters():
    rng = np.random.default_rng(0)
    phi, chance = rng.random((64, 64)), np.full((64, 64), 0.2)
    figure = plots.square_figure(phi, ("a <b>", "#0072B2"), ("b", "#D55E00"), BIG[0])
    check(figure)
    assert "<b>" not in json.dumps(figure["layout"])
    check(plots.overlap_figure(phi, chance, "#0072B2"))
    whole = np.ones((2, 8))
    words = plots.describe_similarity(whole, np.full((2, 8), 0.05), [0.0], "r 2", "r 8")
    assert "lies 100% within the 8 of r 8" in words and "by chance 5%" in words and "0°" in words


def test_update_beside_base():
    cosines = np.random.default_rng(0).random((16, 16))
    check(plots.alignment_figure(cosines, BIG[3]))
    check(plots.amplification_figure([("ΔW", 0.3), ("W", 20.0), ("random", 0.0)], "#000"))
    check(plots.intruder_figure([0.9, 0.2, 0.8], 0.5, (0.12, 0.17), "#D55E00", BIG[3]))
    words = plots.describe_intruders([0.9, 0.2, 0.8], 0.5, 0.12)
    assert words.startswith("1 of the 3 strongest directions of W + ΔW is an intruder") and "direction 2" in words
    assert plots.describe_intruders([0.9, 0.8], 0.5, 0.12).startswith("None of the 2")
    assert "no more than chance" in plots.describe_alignment(np.array([[0.1, 0.05]]), 0.12)
    # Table 7 of the LoRA paper, r = 4.
    words = plots.describe_amplification(by_update=0.32, by_base=21.67, by_random=0.02, norm=6.91, rank=4)
    assert "21.6 times" in words and "amplifies" in words and "more than random" in words and "far from" in words
    assert "about as much as random" in plots.describe_amplification(0.02, 21.67, 0.02, 6.91, 4)


def test_pareto_front_has_those_that_none_beats():
    places = [("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.9), ("d", 1, 0.3)]
    points = [plots.Point(name, plots.run_colour(i), x, y) for i, (name, x, y) in enumerate(places)]
    assert [p.label for p in plots.pareto(points)] == ["a", "c"]
    assert [p.label for p in plots.pareto(points[:2])] == ["a"]
    assert [p.label for p in plots.pareto(points[:2], kept=True)] == ["b", "a"], "more of what is kept is better"
    for log in (True, False):
        check(plots.scatter_figure(points, "Score against parameters", "parameters", "score", log_x=log))
    check(plots.scatter_figure(points[:1], "t", "x", "y", kept=True))
    check(plots.scatter_figure([], "t", "x", "y"))
    assert plots.describe_scatter(points, "score", "parameters").startswith(
        "c has the highest score (90%); none beats a, c"
    )


def test_shares_are_drawn_from_0_to_100_percent_with_their_intervals():
    near = [plots.Point("a", "#000", 1, 0.79, 0.6, 0.91), plots.Point("b", "#000", 2, 0.84, 0.65, 0.94)]
    drawn = plots.scatter_figure(near, "Gain", "lost", "gain", kept=True)
    assert drawn["layout"]["yaxis"]["range"][0] == 0 and drawn["layout"]["yaxis"]["range"][1] > 1
    assert drawn["data"][-1]["error_y"]["array"] == pytest.approx([0.1])
    words = plots.describe_scatter(near, "score", "parameters")
    assert "b has the highest score" in words and "too close to call is a" in words
    alone = plots.scatter_figure(near[:1], "Gain", "lost", "gain")
    assert [trace["mode"] for trace in alone["data"]] == ["markers+text"], "one run has no front"
    lost = plots.scatter_figure([plots.Point("c", "#000", 1, -0.2)], "Gain", "lost", "gain")
    assert lost["layout"]["yaxis"]["range"][0] < -0.2


def written(figure: dict) -> dict[str, str]:
    """The names that stand in a scatter plot, and where beside their marks."""
    return {trace["text"][0]: trace["textposition"] for trace in figure["data"] if trace["mode"] == "markers+text"}


def test_runs_are_named_where_there_is_room_and_by_what_tells_them_apart():
    labels = [f"facts · lora r{rank} · 60 steps" for rank in (1, 4)]
    far = [plots.Point(label, "#000", 0.1 + i / 2, 0.2 + i / 2) for i, label in enumerate(labels)]
    assert set(written(plots.scatter_figure(far, "t", "x", "y", kept=True))) == {"lora r1", "lora r4"}
    far = [plots.Point(f"facts · lora r{r} · {60 * r} steps", "#000", 0.1 + r / 10, 0.2 + r / 10) for r in (1, 4)]
    assert set(written(plots.scatter_figure(far, "t", "x", "y", kept=True))) == {"lora r1", "lora r4"}
    crowd = [plots.Point(f"run {i}", "#000", 0.3 + 0.001 * i, 0.8 + 0.001 * i) for i in range(15)]
    drawn = plots.scatter_figure(crowd, "t", "x", "y", kept=True)
    assert 1 <= len(written(drawn)) <= 4, "no names over each other"
    assert all("run" in trace["hovertemplate"] for trace in drawn["data"]), "the pointer tells the others"
    ends = [plots.Point("left", "#000", 0.1, 0.8), plots.Point("right", "#000", 0.9, 0.1)]
    names = written(plots.scatter_figure(ends, "t", "x", "y", kept=True))
    assert names["left"].endswith("right") and names["right"].endswith("left"), "towards the middle"
    beside = [plots.Point("tall", "#000", 0.2, 0.3, 0.1, 0.5), plots.Point("low", "#000", 0.14, 0.4, 0.35, 0.45)]
    assert written(plots.scatter_figure(beside, "t", "x", "y", kept=True))["low"].endswith("left"), "off its bar"


def test_names_on_the_adapter_map_do_not_cover_each_other():
    places = np.array([[0.5, 0.1], [0.5, 0.101], [0.5, 0.102], [-0.4, -0.2]])
    drawn = plots.adapter_map_figure(
        ["one", "two", "three", "far"], ["#000"] * 4, places, 0.5, [False, True, True, False]
    )
    (trace,) = drawn["data"]
    told = [(text, place) for text, place in zip(trace["text"], trace["textposition"]) if text]
    assert {"two", "three", "far"} <= {text for text, _ in told}, "ticked runs choose first"
    assert len({place for text, place in told if text != "far"}) == len(told) - 1
    check(drawn)


def test_cut_curves():
    figure = plots.cut_figure(
        [0, 1, 2, 4, 8], [3, 2, 1.5, 1.2, 1.2], [0.1, 0.5, 0.9, 0.9, 0.9], "#000", [0, 0.8, 0.9, 1, 1], 2
    )
    check(figure)
    check(plots.cut_figure([0, 8], [3, 1], [None, None], "#000"))
    check(plots.cut_figure([], [], [], "#000"))
    assert "2 directions are enough" in plots.describe_cut([0, 1, 2, 8], [3, 2, 1, 1], [0.1, 0.5, 0.9, 0.9])
    assert "1 direction is enough" in plots.describe_cut([0, 1, 8], [3, 1, 1], [None] * 3)


def test_edges_that_lie_together_share_their_words_and_small_ticks_are_written_out():
    near = plots.scree_figure([("a", "#000", [4.0, 1e-6])], edge=[(2.0, "#111"), (2.2, "#222"), (0.01, "#333")])
    words = [note["text"] for note in near["layout"]["annotations"]]
    assert words == ["edges of noise", "edge of noise"] and len(near["layout"]["shapes"]) == 3
    assert near["layout"]["annotations"][0]["y"] == pytest.approx(np.log10(2.2))
    ticks = dict(zip(near["layout"]["yaxis"]["tickvals"], near["layout"]["yaxis"]["ticktext"], strict=True))
    assert ticks[1e-4] == "10⁻⁴" and ticks[0.001] == "0.001" and ticks[1.0] == "1"


def test_edge_of_noise_is_drawn_where_the_axis_has_it():
    for log in (True, False):
        figure = plots.scree_figure([("full", "#000", [4.0, 1.0, 0.5])], log=log, edge=2.0)
        check(figure)
        assert figure["layout"]["shapes"][0]["y0"] == 2.0
        assert figure["layout"]["annotations"][0]["y"] == (math.log10(2.0) if log else 2.0)
