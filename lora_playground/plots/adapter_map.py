"""The map of runs by how similar their updates are. It takes positions and cosines, no run."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_playground.plots.compare import apart
from lora_playground.plots.labels import beside
from lora_playground.plots.style import axis, empty, figure, percent, shortened

LABELLED = 8
"""With more runs than this only coloured ones are labelled. A run without a label says its name when pointed at."""


def adapter_map_figure(
    names: Sequence[str], colours: Sequence[str], places: np.ndarray, shown: float, marked: Sequence[bool],
) -> dict[str, Any]:  # fmt: skip
    """One point for each run; runs with similar updates are close to each other.

    Args:
        places: (n, 2). shown: share of the squared distances that the plane shows. marked: which are ticked.
    """
    title = "Adapter map: like updates lie close"
    if len(names) < 3:
        return empty("It needs three finished runs on one base model.", title, 140)
    few = len(names) <= LABELLED
    reach = 1.25 * max(0.05, float(np.abs(places).max()))
    wanted = [shortened(name, 24) if few or on else "" for name, on in zip(apart(names), marked)]
    at, up = ([(float(v) / reach + 1) / 2 for v in places[:, axis_]] for axis_ in (0, 1))
    positions = beside(at, up, wanted, sorted(range(len(names)), key=lambda i: not marked[i]))
    points = {
        "x": [round(float(x), 4) for x in places[:, 0]],
        "y": [round(float(y), 4) for y in places[:, 1]],
        "mode": "markers+text",
        "text": [html.escape(name) if place else "" for name, place in zip(wanted, positions)],
        "hovertext": [html.escape(name) for name in names],
        "textposition": [place or "top center" for place in positions],
        "textfont": {"size": 12},
        "marker": {"size": [13 if on else 9 for on in marked], "color": list(colours)},
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }
    x = axis(f"first axis ({percent(shown)} of the differences are in this plane)", range=[-reach, reach])
    y = axis("second axis", range=[-reach, reach])
    return figure([points], title, 380, xaxis=x, yaxis=y, showlegend=False)


def describe_adapter_map(names: Sequence[str], similar: np.ndarray, methods: int) -> str:
    """Sentences on the most and the least similar pair, and on what cosines do not say."""
    n = len(names)
    if n < 3:
        return ""
    pairs = [(float(similar[i, j]), i, j) for i in range(n) for j in range(i)]
    high, low = max(pairs), min(pairs)
    said = f"Most alike: {names[high[2]]} and {names[high[1]]}, cos {_cosine(high[0])}; "
    said += f"least: {names[low[2]]} and {names[low[1]]}, cos {_cosine(low[0])}. Nothing in common: 0."
    if methods > 1:
        said += " Between methods the angle says little: the same behaviour can be written in other directions."
    return said


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
