"""Scores over the weights of a mixture: a curve for two adapters, a triangle for three. It draws plain values."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from lora_playground.plots.style import INK, axis, empty, figure, rounded

Found = dict[str, Any]
"""What `lab.weights.over_weights` returns."""
CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(0.75)))
"""Where the three adapters stand."""
ASKED, RANDOM = (1.45, 0.62), (1.45, 0.12)
"""Where the chosen mixture and the random control stand beside them."""
WIDTH, TALL = 0.06, 0.2
"""Width and height of a full bar, in the axes' units."""
BELOW = {"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "font": {"size": 12}}


def curve_figure(found: Found, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """The score of each task over the second adapter's weight, with intervals; the chosen mixture and the random
    control as marks at the right."""
    points = [point for point in found["points"] if point["kind"] == "grid"]
    x = [point["weights"][1] for point in points]
    data: list[dict[str, Any]] = []
    for task, about in enumerate(found["tasks"]):
        colour = colours[about["index"]]
        name = f"{html.escape(names[about['index']])}: its task"
        scores = [point["scores"][task] for point in points]
        data.append(
            {
                "x": x, "y": rounded(s["value"] for s in scores), "mode": "lines+markers", "name": name,
                "line": {"color": colour, "width": 3}, "marker": {"size": 9}, "error_y": _whiskers(scores, colour),
                "hovertemplate": "share %{x:.0%}<br>score %{y:.0%}<extra>" + name + "</extra>",
            }
        )  # fmt: skip
        for kind, symbol, place in (("asked", "diamond", 1.2), ("random", "x", 1.36)):
            there = [p["scores"][task] for p in found["points"] if p["kind"] == kind and p["scores"][task] is not None]
            if there:
                data.append(
                    {
                        "x": [place + 0.02 * task], "y": rounded(s["value"] for s in there[:1]), "mode": "markers",
                        "marker": {"symbol": symbol, "size": 12, "color": colour}, "showlegend": False,
                        "error_y": _whiskers(there[:1], colour),
                        "hovertemplate": f"{kind}<br>score %{{y:.0%}}<extra>{name}</extra>",
                    }
                )  # fmt: skip
    first, second = (html.escape(_short(name)) for name in names[:2])
    weights = next(point["weights"] for point in found["points"] if point["kind"] == "asked")
    ticks = [0, 0.25, 0.5, 0.75, 1, 1.21, 1.37]
    labels = ["1 : 0", "¾ : ¼", "½ : ½", "¼ : ¾", "0 : 1"]
    labels += [f"{weights[0]:g} : {weights[1]:g}<br>asked", "beside<br>random"]
    # Upright and short, so that they also stand beside each other on a phone.
    x_axis = axis(f"{first} : {second}", tickvals=ticks, ticktext=labels, range=[-0.07, 1.47], tickangle=0)
    y_axis = axis("share of the test solved", tickformat=".0%", range=[-0.04, 1.06])
    line = {"type": "line", "x0": 1.1, "x1": 1.1, "y0": 0, "y1": 1, "yref": "paper"}
    shapes = [line | {"line": {"color": INK["quiet"], "width": 1}}]
    title = "What is left of each task over the weights"
    return figure(data, title, 380, xaxis=x_axis, yaxis=y_axis, shapes=shapes, showlegend=True)


def _whiskers(scores: Sequence[Found], colour: str) -> Found:
    up, down = [[abs(s[end] - s["value"]) for s in scores] for end in ("high", "low")]
    return {
        "type": "data", "symmetric": False, "array": rounded(up), "arrayminus": rounded(down), "color": colour,
        "thickness": 1.2, "width": 4,
    }  # fmt: skip


def triangle_figure(found: Found, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """The score of each task at every mixture of three adapters, as three small bars; a corner is one adapter alone. At
    the right the chosen mixture, and each task beside random updates."""
    points = [point for point in found["points"] if point["kind"] == "grid"]
    shown = [
        (sum(w * x for w, (x, _) in zip(p["weights"], CORNERS)), sum(w * y for w, (_, y) in zip(p["weights"], CORNERS)),
         p["scores"], " : ".join(f"{w:.2g}" for w in p["weights"])) for p in points
    ]  # fmt: skip
    asked = next(point for point in found["points"] if point["kind"] == "asked")
    beside = [
        next((p["scores"][task] for p in found["points"] if p["kind"] == "random" and p["scores"][task]), None)
        for task in range(len(found["tasks"]))
    ]
    recipe = " : ".join(f"{weight:g}" for weight in asked["weights"])
    shown += [(*ASKED, asked["scores"], recipe), (*RANDOM, beside, "beside random")]
    edge = [*CORNERS, CORNERS[0]]
    data: list[dict[str, Any]] = [
        {"x": rounded(x for x, _ in edge), "y": rounded(y for _, y in edge), "mode": "lines", "hoverinfo": "skip",
         "line": {"color": INK["quiet"], "width": 1}, "showlegend": False}
    ]  # fmt: skip
    every = range(len(found["tasks"]))
    frames = [_bar(x, y, task, 1.0) for x, y, _, _ in shown for task in every]
    full = {"fillcolor": "rgba(128,128,128,0.2)", "line": {"width": 0}, "name": "100%", "showlegend": True}
    data.append(_filled(frames, INK["quiet"]) | full)
    for task, about in enumerate(found["tasks"]):
        colour, name = colours[about["index"]], f"{html.escape(_short(names[about['index']]))}: its task"
        bars = [_bar(x, y, task, s[task]["value"]) for x, y, s, _ in shown if s[task]]
        data.append(_filled(bars, colour) | {"name": name, "showlegend": True})
        told = [(x, y, f"{at}<br>{_span(s[task])}") for x, y, s, at in shown if s[task]]
        data.append(
            {"x": rounded(x + (task - 1) * WIDTH for x, _, _ in told), "y": rounded(y + TALL / 2 for _, y, _ in told),
             "mode": "markers", "marker": {"size": 16, "color": colour, "opacity": 0}, "showlegend": False,
             "customdata": [text for _, _, text in told],
             "hovertemplate": "%{customdata}<extra>" + name + "</extra>"}
        )  # fmt: skip
    corners = [(x, y, f"only {html.escape(_short(name, 14))}") for (x, y), name in zip(CORNERS, names)]
    corners[2] = (corners[2][0], corners[2][1] + TALL + 0.14, corners[2][2])
    notes = [
        {"x": x, "y": y, "text": text, "showarrow": False, "yshift": -12, "font": {"size": 12}}
        for x, y, text in [*corners, (*ASKED, f"{recipe} asked"), (*RANDOM, "beside random")]
    ]
    hidden = {"visible": False}
    ranges = {"xaxis": {**hidden, "range": [-0.28, 1.75]}, "yaxis": {**hidden, "range": [-0.14, 1.3]}}
    title = "What is left of each task over the weights"
    return figure(data, title, 430, **ranges, annotations=notes, showlegend=True, legend=BELOW)


def _bar(x: float, y: float, task: int, value: float) -> list[tuple[float, float]]:
    """The corners of a task's bar in the small picture that stands at (x, y)."""
    left, right = x + (task - 1.5) * WIDTH, x + (task - 0.55) * WIDTH
    return [(left, y), (left, y + value * TALL), (right, y + value * TALL), (right, y), (left, y)]


def _filled(shapes: Sequence[Sequence[tuple[float, float]]], colour: str) -> dict[str, Any]:
    """These shapes as one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    for shape in shapes:
        x += [*(one for one, _ in shape), None]
        y += [*(one for _, one in shape), None]
    return {
        "x": rounded(x), "y": rounded(y), "mode": "lines", "fill": "toself", "fillcolor": colour, "hoverinfo": "skip",
        "line": {"color": colour, "width": 1}, "showlegend": False,
    }  # fmt: skip


def _span(score: Found) -> str:
    return f"{score['value']:.0%} [{score['low']:.0%}, {score['high']:.0%}]"


def mixture_figure(found: Found, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """The figure for this number of adapters: a curve, a triangle or bars."""
    if not found["tasks"]:
        return empty("None of these runs has a test part with a metric.", "Scores over the weights")
    if len(names) == 3:
        return triangle_figure(found, names, colours)
    if len(names) == 2:
        return curve_figure(found, names, colours)
    return bars_figure(found, names, colours)


def bars_figure(found: Found, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """Each task's score with its adapter alone, in the chosen mixture, in the plain mean, and beside random updates."""
    data = []
    kinds = (("alone", "alone"), ("asked", "as asked"), ("mean", "plain mean"), ("random", "beside random ones"))
    for task, about in enumerate(found["tasks"]):
        scores, labels = [], []
        for kind, label in kinds:
            there = [
                point["scores"][task]
                for point in found["points"]
                if (point["kind"] == kind or (kind == "alone" and point["weights"][about["index"]] == 1 == sum(
                    point["weights"]) and point["kind"] == "grid")) and point["scores"][task] is not None
            ]  # fmt: skip
            if there:
                scores.append(there[0])
                labels.append(label)
        colour, name = colours[about["index"]], html.escape(_short(names[about["index"]]))
        bar = {"type": "bar", "x": labels, "y": rounded(s["value"] for s in scores), "name": name}
        data.append(bar | {"marker": {"color": colour}, "error_y": _whiskers(scores, INK["quiet"])})
    y_axis = axis("share of the test solved", tickformat=".0%", range=[0, 1.06])
    title = "What is left of each task in the mixture"
    return figure(data, title, 380, xaxis=axis(""), yaxis=y_axis, barmode="group", showlegend=True)


def _short(name: str, characters: int = 22) -> str:
    return name if len(name) <= characters else name[: characters - 1] + "…"
