"""ΔW as pixels, built up from its strongest singular directions."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_playground.plots.style import INK, empty, figure, percent

SIDE = 32
"""Rows and columns drawn of each matrix."""
_SCALE = [[0.0, "#0072b2"], [0.5, "#f7f7f7"], [1.0, "#d55e00"]]
TITLE = "ΔW, built up from its first directions"


def steps(count: int) -> list[int]:
    """How many directions each picture adds up: 1, 2, 4 and all of `count`."""
    return sorted({k for k in (1, 2, 4, count) if k <= count})


def directions_figure(U: np.ndarray, values: np.ndarray, Vt: np.ndarray) -> dict[str, Any]:
    """ΔW cut to its first k directions for a few k, in one colour scale.

    Args:
        U: (out, r); values: (r,), descending; Vt: (r, in): the singular value decomposition of ΔW.

    Up to `SIDE` rows and columns are drawn, in the order of the first direction's entries, so that its pattern shows:
    with k = 1 every row is the same row, stronger or weaker.
    """
    count = int(np.sum(values > 1e-6 * values[0])) if len(values) and values[0] > 0 else 0
    if not count:
        return empty("ΔW is still zero.", TITLE, 250)
    rows, columns = _spread(U[:, 0]), _spread(Vt[0])
    ks = steps(count)
    drawn = [(U[rows, :k] * values[:k]) @ Vt[:k, columns] for k in ks]
    top = max(float(np.abs(one).max()) for one in drawn)
    width = 1 / len(ks)
    data, layout, notes = [], {}, []
    for number, (k, matrix) in enumerate(zip(ks, drawn), 1):
        at = "" if number == 1 else str(number)
        data.append(
            {
                "type": "heatmap", "z": [[float(f"{v:.3g}") for v in row] for row in matrix], "zmin": -top, "zmax": top,
                "colorscale": _SCALE, "showscale": False, "xaxis": f"x{at}", "yaxis": f"y{at}",
                "hovertemplate": "%{z}<extra></extra>",
            }
        )  # fmt: skip
        span = [(number - 1) * width + 0.01, number * width - 0.01]
        layout[f"xaxis{at}"] = {"domain": span, "visible": False, "anchor": f"y{at}"}
        layout[f"yaxis{at}"] = {"visible": False, "anchor": f"x{at}", "autorange": "reversed"}
        words = f"all {count}" if k == count and count > 1 else f"first {k}"
        place = {"x": sum(span) / 2, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
        notes.append({**place, "text": words, "font": {"size": 13, "color": INK["text"]}})
    return figure(data, TITLE, 250, annotations=notes, margin={"l": 8, "r": 8, "t": 66, "b": 8}, **layout)


def describe_directions(values: np.ndarray) -> str:
    """What to see in the picture."""
    squares = np.asarray(values, dtype=np.float64) ** 2
    if not squares.sum() > 0:
        return "The update is still zero."
    share = percent(float(squares[0] / squares.sum()))
    return (
        "One direction is one pattern: every row of the first picture is the same row, stronger or weaker. It alone "
        f"does {share} of the work. Each further direction adds one more such pattern; rank r allows r of them."
    )


def _spread(column: np.ndarray) -> np.ndarray:
    """Up to `SIDE` places, evenly spread over the order of their values."""
    order = np.argsort(column)
    return order[np.linspace(0, len(order) - 1, min(SIDE, len(order))).round().astype(int)]
