"""Scores over the weights of a mixture: a curve for two adapters, a triangle for three. It draws plain values."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from lora_playground.plots.style import INK, SCALE, axis, empty, figure, rounded

Found = dict[str, Any]
"""What `lab.weights.over_weights` returns."""
CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(0.75)))
"""Where the three adapters stand."""


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
    labels = [f"only<br>{first}", "¾ : ¼", "½ : ½", "¼ : ¾", f"only<br>{second}"]
    labels += [f"{weights[0]:g} : {weights[1]:g}<br>asked", "beside<br>random"]
    x_axis = axis("", tickvals=ticks, ticktext=labels, range=[-0.07, 1.47])
    y_axis = axis("share of the test solved", tickformat=".0%", range=[-0.04, 1.06])
    line = {"type": "line", "x0": 1.1, "x1": 1.1, "y0": 0, "y1": 1, "yref": "paper"}
    shapes = [line | {"line": {"color": INK["grid"], "width": 2}}]
    title = "What is left of each task over the weights"
    return figure(data, title, 380, xaxis=x_axis, yaxis=y_axis, shapes=shapes, showlegend=True)


def _whiskers(scores: Sequence[Found], colour: str) -> Found:
    up, down = [[abs(s[end] - s["value"]) for s in scores] for end in ("high", "low")]
    return {
        "type": "data", "symmetric": False, "array": rounded(up), "arrayminus": rounded(down), "color": colour,
        "thickness": 1.2, "width": 4,
    }  # fmt: skip


def triangle_figure(found: Found, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """The lowest of the tasks' scores at each mixture of three adapters; a corner is one adapter alone."""
    points = [point for point in found["points"] if point["kind"] == "grid"]
    places = [tuple(sum(w * c[i] for w, c in zip(point["weights"], CORNERS)) for i in (0, 1)) for point in points]
    worst = [min(score["value"] for score in point["scores"]) for point in points]
    told = [
        "<br>".join(
            f"{html.escape(_short(names[about['index']]))}: {score['value']:.0%}"
            for about, score in zip(found["tasks"], point["scores"])
        )
        for point in points
    ]
    edge = [*CORNERS, CORNERS[0]]
    data: list[dict[str, Any]] = [
        {"x": rounded(x for x, _ in edge), "y": rounded(y for _, y in edge), "mode": "lines", "hoverinfo": "skip",
         "line": {"color": INK["grid"], "width": 2}},
        {"x": rounded(x for x, _ in places), "y": rounded(y for _, y in places), "mode": "markers+text",
         "text": [f"{value:.0%}" for value in worst], "textposition": "middle center", "customdata": told,
         "textfont": {"size": 12, "color": ["#ffffff" if value < 0.55 else "#14232b" for value in worst]},
         "marker": {"size": 42, "color": rounded(worst), "colorscale": SCALE, "cmin": 0, "cmax": 1, "showscale": True,
                    "colorbar": {"title": {"text": "lowest score"}, "tickformat": ".0%", "thickness": 12},
                    "line": {"color": INK["grid"], "width": 1}},
         "hovertemplate": "%{customdata}<extra></extra>"},
    ]  # fmt: skip
    hidden = {"visible": False}
    notes = [
        {"x": x, "y": y, "text": f"<b>{html.escape(_short(name))}</b>", "showarrow": False, "yshift": shift,
         "font": {"color": colour, "size": 13}}
        for (x, y), name, colour, shift in zip(CORNERS, names, colours, (-40, -40, 40))
    ]  # fmt: skip
    ranges = {"xaxis": {**hidden, "range": [-0.25, 1.25]}, "yaxis": {**hidden, "range": [-0.28, 1.12]}}
    title = "The task that suffers most, over the weights of three"
    return figure(data, title, 430, **ranges, annotations=notes, showlegend=False)


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
