"""Figures that compare runs (gain against cost), and the curves of a run that is cut to fewer directions."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_playground.plots.labels import beside
from lora_playground.plots.style import INK, axis, empty, figure, log_ticks, percent, rounded, shortened, significant

NAMED = 3
"""The most runs that a sentence names one by one."""


@dataclass(frozen=True)
class Point:
    """A run in a scatter plot.

    Attributes:
        x: its cost, less is better, or a share of something kept, more is better. y: its gain, more is better.
        low, high: y's 95% interval, NaN if not known.
    """

    label: str
    colour: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan

    @property
    def sure(self) -> bool:
        """Whether y's interval is known."""
        return self.low <= self.high


def pareto(points: Sequence[Point], kept: bool = False) -> list[Point]:
    """The Pareto front: runs that no other beats in both x and gain, by rising gain. `kept`: more of x is better."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.x if kept else p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def scatter_figure(
    points: Sequence[Point],
    title: str,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    kept: bool = False,
) -> dict[str, Any]:
    """Gain over cost, or over a share that is `kept`, each run in its colour with its name and 95% interval.

    Shares are drawn on an axis from 0 to 100%, lower where one is negative, so that small differences look small.
    The Pareto front joins the runs that no other beats in both, where there are two or more.
    """
    if not points:
        return empty("Tick finished runs that have a score.", title, 140)
    front = pareto(points, kept)
    line = {
        "x": rounded(p.x for p in front),
        "y": rounded(p.y for p in front),
        "mode": "lines",
        "name": "Pareto front",
        "line": {"color": INK["quiet"], "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    x = _cost_axis([p.x for p in points], x_title, log_x, kept)
    lowest = min(0.0, *(p.low if p.sure else p.y for p in points))
    y = axis(y_title, tickformat=".0%", range=[lowest - 0.04 * (lowest < 0), 1.08])
    y |= {"ticks": "outside", "ticklen": 7, "tickcolor": "rgba(0,0,0,0)"}  # keeps both axes' 0% apart
    names = [shortened(name, 24) for name in apart([p.label for p in points])]
    marks = [
        {
            "x": rounded([p.x]),
            "y": rounded([p.y]),
            "mode": "markers+text" if place else "markers",
            "text": [html.escape(name)],
            "textposition": place or "top right",
            "cliponaxis": False,
            "name": html.escape(p.label),
            "showlegend": False,
            "marker": {"color": p.colour, "size": 14, "line": {"color": "#ffffff", "width": 1.5}},
            "error_y": _interval(p),
            "hovertemplate": f"{html.escape(p.label)}<br>{x_title} %{{x}}<br>{y_title} %{{y:.0%}}<extra></extra>",
        }
        for p, name, place in zip(points, names, _places(points, names, x, y, kept))
    ]
    front_too = len(front) > 1
    return figure([line, *marks] if front_too else marks, title, 360, xaxis=x, yaxis=y, showlegend=front_too)


def _cost_axis(costs: Sequence[float], title: str, log: bool, shares: bool) -> dict[str, Any]:
    """The axis of costs, with room for the names at both ends."""
    low, high = min(costs), max(costs)
    x = axis(title + (" (log)" if log else ""), type="log" if log else "linear")
    if shares:
        x |= {"tickformat": ".0%", "range": [min(0.0, low) - 0.04, 1.04]}
    elif not log:
        pad = 0.15 * (high - low) or 0.05
        x["range"] = [low - pad, high + pad]
    elif low > 0:
        # At least a third of a decade.
        x |= log_ticks(low, high)
        pad = max(0.15 * math.log10(high / low), 0.35)
        x["range"] = [math.log10(low) - pad, math.log10(high) + pad]
    return x


def _interval(point: Point) -> dict[str, Any]:
    if not point.sure:
        return {"visible": False}
    ends = {"array": [point.high - point.y], "arrayminus": [point.y - point.low]}
    return {"type": "data", "symmetric": False, **ends, "color": point.colour, "thickness": 1.5, "width": 5}


def _places(
    points: Sequence[Point], names: Sequence[str], x: dict[str, Any], y: dict[str, Any], kept: bool
) -> list[str]:
    """The position of each run's name beside its mark, by `labels.beside`; the Pareto front has the first choice."""
    at = [_fraction(math.log10(p.x) if x.get("type") == "log" and p.x > 0 else p.x, x["range"]) for p in points] if (
        "range" in x) else [0.5] * len(points)  # fmt: skip
    up = [_fraction(p.y, y["range"]) for p in points]
    bars = [
        (_fraction(p.low, y["range"]), _fraction(p.high, y["range"])) if p.sure else (above, above)
        for p, above in zip(points, up)
    ]
    front = pareto(points, kept)
    order = sorted(range(len(points)), key=lambda i: (points[i] not in front, -points[i].y))
    return beside(at, up, names, order, bars)


def _fraction(value: float, ends: Sequence[float]) -> float:
    return (value - ends[0]) / ((ends[1] - ends[0]) or 1.0)


def apart(labels: Sequence[str]) -> list[str]:
    """The shortest names that differ: without the parts that all share, and without last parts that are not needed.

    'pirate · lora r8 · 60 steps' is 'lora r8' beside 'pirate · lora r2 · 30 steps'.
    """
    parts = [label.split(" · ") for label in labels]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    names = [[part for part in one if part not in shared] or one for one in parts]
    while len(names) > 1 and (most := max(map(len, names))) > 1:
        shorter = [one[: most - 1] for one in names]
        if len(set(map(tuple, shorter))) < len(names):
            break
        names = shorter
    return [" · ".join(one) for one in names]


def describe_scatter(points: Sequence[Point], gain: str, cost: str, kept: bool = False) -> str:
    """Sentences on the run that gains most, those whose intervals overlap its own, and the Pareto front."""
    if not points:
        return ""  # the figure says what to do
    best = max(points, key=lambda p: p.y)
    text = f"{best.label} has the highest {gain} ({percent(best.y)}{_ends(best)})"
    rivals = [p for p in points if p is not best and p.sure and best.sure and p.high >= best.low]
    if rivals:
        names = ", ".join(f"{p.label} ({percent(p.y)}{_ends(p)})" for p in rivals[:NAMED])
        names += f" and {len(rivals) - NAMED} more" if len(rivals) > NAMED else ""
        text += f", but too close to call {'is' if len(rivals) == 1 else 'are'} {names}"
        text += ": their intervals overlap, so chance may have made the difference"
    elif len(points) > 1:
        front = [p.label for p in pareto(points, kept)]
        named = ", ".join(front[:NAMED]) + (f" and {len(front) - NAMED} more" if len(front) > NAMED else "")
        text += f"; none beats {named} in both {gain} and {cost}"
        text += ": they are the Pareto front" if len(front) > 1 else ""
    return text + "."


def _ends(point: Point) -> str:
    return f", 95% interval {percent(point.low)} to {percent(point.high)}" if point.sure else ""


def cut_figure(
    k: Sequence[int],
    loss: Sequence[float | None],
    score: Sequence[float | None],
    colour: str,
    energy: Sequence[float] = (),
    kept: int | None = None,
) -> dict[str, Any]:
    """Validation loss, task score and energy of an adapter that is cut to its first k directions.

    Args:
        k: numbers of directions kept, rising; 0 is the base.
        loss: validation loss at each k in nats per token. score: task score, 0 to 1. None if not measured.
        energy: share of energy at each k. kept: the chosen k, which is marked.
    """
    title = "What is left when only the first k directions are kept"
    if not k:
        return empty("Press “Measure” to see loss and score over k.", title)
    data: list[dict[str, Any]] = [
        _curve(k, loss, "validation loss", colour, "y", "solid", "%{y:.3f}"),
    ]
    if any(value is not None for value in score):
        data.append(_curve(k, score, "task score", colour, "y2", "dash", "%{y:.0%}"))
    if len(energy):
        data.append(_curve(k, energy, "energy kept", "#6b7280", "y2", "dot", "%{y:.0%}"))
    shapes = []
    if kept is not None:
        line = {"type": "line", "x0": kept, "x1": kept, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({**line, "line": {"color": INK["quiet"], "width": 1.5, "dash": "dash"}})
    x = axis("directions kept, k (0 is the base)", tickformat="d", tickvals=list(k) if len(k) <= 14 else None)
    y = axis("validation loss (nats per token)")
    right = axis("score, energy", overlaying="y", side="right", range=[0, 1.05], tickformat=".0%", showgrid=False)
    return figure(data, title, 340, xaxis=x, yaxis=y, yaxis2=right, shapes=shapes, showlegend=True)


def _curve(
    x: Sequence[int], y: Sequence[float | None], name: str, colour: str, side: str, dash: str, hover: str
) -> dict[str, Any]:
    return {
        "x": list(x),
        "y": rounded(y),
        "yaxis": side,
        "mode": "lines+markers",
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 6},
        "hovertemplate": f"k = %{{x}}: {hover}<extra>{name}</extra>",
    }


def describe_cut(k: Sequence[int], loss: Sequence[float | None], score: Sequence[float | None]) -> str:
    """One sentence: the fewest directions that keep 95% of the gain, in score where there is one, else in loss."""
    known = [(i, s) for i, s in zip(k, score) if s is not None]
    what = "score"
    if len(known) < 2:
        known = [(i, -value) for i, value in zip(k, loss) if value is not None]
        what = "validation loss"
    if len(known) < 2:
        return "Not measured yet."
    base, full = known[0][1], known[-1][1]
    shown = (percent(base), percent(full)) if what == "score" else (significant(-base), significant(-full))
    if abs(full - base) < 1e-9:
        return f"Cut or whole, the {what} is the base's ({shown[0]})."
    enough = next(i for i, value in known if (value - base) / (full - base) >= 0.95)
    noun = "direction is" if enough == 1 else "directions are"
    gain = f"From {shown[0]} (base) to {shown[1]} (whole adapter) in {what}"
    return f"{gain}: {enough} {noun} enough for 95% of the difference."
