"""A run's score, and how many of its base's skills are left, over a factor on its update. It draws plain values."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from lora_playground.plots.style import INK, axis, figure, rounded
from lora_playground.wording import counted

TITLES = {
    "strength": ("Task and base skills over the strength", "strength s of W + s·ΔW"),
    "intruders": ("Task and base skills over the intruders", "λ: factor on the intruders of W + ΔW"),
    "slice": ("Task and base skills over the slice of W", "position: 0 largest σ, 1 smallest"),
}
TASK, SKILLS = "#0072B2", "#E69F00"


def dial_figure(found: dict[str, Any]) -> dict[str, Any]:
    """Two curves with 95% intervals; a mark at 1, the run as it was trained.

    Args:
        found: what `lab.dials.over_dial` or `lab.slices.over_position` returned.
    """
    title, x_title = TITLES[found["kind"]]
    lost = [point["forgetting"] for point in found["points"]]
    if not all(lost):  # of a base whose skills are not asked
        title = title.replace("Task and base skills", "Its task")
    x = [point["value"] for point in found["points"]]
    scores = [(p["score"]["value"], p["score"]["low"], p["score"]["high"]) for p in found["points"]]
    data = _curve(x, scores, "its task", TASK)
    if all(lost):
        # The interval is that of the loss of skills, which is subtracted from the base's skills.
        kept = [(one["adapted"], one["base"] - one["high"], one["base"] - one["low"]) for one in lost]
        data += _curve(x, kept, "base skills", SKILLS)
    line = {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper"}
    shapes = [line | {"line": {"color": INK["quiet"], "width": 1.5, "dash": "dot"}}]
    mark = {"x": 1, "y": 1.0, "yref": "paper", "text": "as trained", "showarrow": False, "xanchor": "left", "xshift": 5}
    marks = {} if found["kind"] == "slice" else {"shapes": shapes, "annotations": [mark]}
    y_axis = axis("share solved", tickformat=".0%", range=[-0.04, 1.08])
    return figure(
        data, title, 380, xaxis=axis(x_title), yaxis=y_axis, showlegend=True, **marks,
    )  # fmt: skip


def _curve(x: list[float], values: list[tuple[float, float, float]], name: str, colour: str) -> list[dict[str, Any]]:
    """Points with their intervals, and a line through the means at each x."""
    up, down = [high - value for value, _, high in values], [value - low for value, low, _ in values]
    places = sorted(set(x))
    several = len(places) < len(x)
    points = {
        "x": x, "y": rounded(value for value, _, _ in values), "mode": "markers" if several else "lines+markers",
        "name": name, "showlegend": not several,
        "line": {"color": colour, "width": 3}, "marker": {"size": 9},
        "error_y": {"type": "data", "symmetric": False, "array": rounded(up), "arrayminus": rounded(down),
                    "color": colour, "thickness": 1.2, "width": 4},
        "hovertemplate": "%{x}: %{y:.0%}<extra>" + name + "</extra>",
    }  # fmt: skip
    if not several:
        return [points]
    means = [fmean(value for at, (value, _, _) in zip(x, values) if at == place) for place in places]
    line = {"x": places, "y": rounded(means), "mode": "lines", "name": name, "line": {"color": colour, "width": 3}}
    return [points, line | {"hoverinfo": "skip"}]


def describe_dial(found: dict[str, Any]) -> str:
    """Sentences on task and skills at 1, and at the value at which their sum is largest."""
    points = found["points"]
    if found["kind"] == "slice":
        return _describe_slices(points)
    start = ""
    if found["kind"] == "intruders":
        total, places = sum(found["intruders"].values()), len(found["intruders"])
        if not total:
            return "No module of this run has an intruder, so this dial changes nothing."
        start = f"{counted(total, 'intruder')} among the ten leading directions of {places} of "
        start += f"{counted(found['of'], 'module')}. "
    trained = next((point for point in points if point["value"] == 1), None)
    if trained is None:
        return start.strip()
    grounds = f"{counted(trained['score']['n'], 'row')}, intervals at 95%."
    text = f"As trained it solves {trained['score']['value']:.0%} of its task"
    if not all(point["forgetting"] for point in points):
        best = max(points, key=lambda point: (point["score"]["value"], point is trained))
        more = "no value more" if best is trained else f"at {best['value']:g} the most, {best['score']['value']:.0%}"
        return f"{start}{text}, {more}; base skills are asked of the embedded model only. {grounds}"
    lost = trained["forgetting"]
    text += f" and has {lost['adapted']:.0%} of the base skills, which were {lost['base']:.0%}"
    best = max(points, key=lambda point: point["score"]["value"] + point["forgetting"]["adapted"])
    if best is trained:
        return f"{start}{text}; no other value keeps more of both together. {grounds}"
    at = f"{best['value']:g}: {best['score']['value']:.0%} and {best['forgetting']['adapted']:.0%}"
    return f"{start}{text}; most of both together is left at {at}. {grounds}"


def _describe_slices(points: list[dict[str, Any]]) -> str:
    positions = sorted({point["value"] for point in points})
    text = f"{len(points)} runs that started from {len(positions)} places of W's spectrum"
    if not all(point["forgetting"] for point in points):
        by_place = {at: fmean(p["score"]["value"] for p in points if p["value"] == at) for at in positions}
        rows = sorted({point["score"]["n"] for point in points})
        told = ", ".join(f"{value:.0%} at {at:g}" for at, value in by_place.items())
        of = f"{rows[0]} to {rows[-1]} rows" if len(rows) > 1 else counted(rows[0], "row")
        return f"{text}: their task is solved by {told}. {of} a run; base skills are asked of the embedded model only."
    kept = {at: [p["forgetting"]["adapted"] for p in points if p["value"] == at] for at in positions}
    means = {at: sum(values) / len(values) for at, values in kept.items()}
    best = max(means, key=lambda at: means[at])
    ends = f"{means[positions[0]]:.0%} at {positions[0]:g} and {means[positions[-1]]:.0%} at {positions[-1]:g}"
    return f"{text}: base skills are {ends}, most at {best:g} ({means[best]:.0%}). Intervals at 95% are of one run."
