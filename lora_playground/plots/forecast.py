"""The first gradient beside the learned update: two scree plots, and how much of each direction it predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.plots.style import INK, axis, figure, rounded

GRADIENT, LEARNED, WRITES = "#8b979b", "#0072B2", "#D55E00"


def scree_figure(module: dict[str, Any], values: Sequence[float], step: str) -> dict[str, Any]:
    """σ of G₀ and of ΔW at one step, each over the largest that it has at the end, logarithmic."""
    data = []
    for name, found, colour in (("first gradient G₀", module["gradient"], GRADIENT), (f"ΔW {step}", values, LEARNED)):
        shown = [value if value > 1e-6 else None for value in found]
        data.append(
            {
                "x": list(range(1, len(shown) + 1)), "y": rounded(shown), "mode": "lines+markers", "name": name,
                "line": {"color": colour, "width": 3}, "marker": {"size": 8},
                "hovertemplate": "σ<sub>%{x}</sub> %{y:.3g} of the largest<extra>" + name + "</extra>",
            }
        )  # fmt: skip
    y_axis = axis("σ over the largest (log)", type="log", range=[-3.1, 0.15])
    title = "Singular values: what the first gradient has, what was learned"
    return figure(data, title, 340, xaxis=axis("direction"), yaxis=y_axis, showlegend=True)


def foretold_figure(module: dict[str, Any]) -> dict[str, Any]:
    """For each learned direction, how much of it lies in as many leading directions of G₀, with what chance gives."""
    x = [f"{i + 1}" for i in range(len(module["reads"]))]
    data: list[dict[str, Any]] = []
    lines = []
    for key, name, colour in (("reads", "what it reads (v)", LEARNED), ("writes", "what it writes (u)", WRITES)):
        data.append(
            {"type": "bar", "x": x, "y": rounded(module[key]), "name": name, "marker": {"color": colour},
             "hovertemplate": "direction %{x}: %{y:.0%}<extra>" + name + "</extra>"}
        )  # fmt: skip
        at = module[f"{key}_chance"]
        dash = {"color": colour, "width": 1.5, "dash": "dot"}
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at, "line": dash})
    half = {"color": INK["quiet"], "width": 1}
    lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "line": half})
    y_axis = axis("share within G₀'s leading directions", tickformat=".0%", range=[0, 1.03])
    title = "How much of each learned direction was foretold"
    return figure(
        data, title, 340, xaxis=axis("learned direction (dotted: by chance)"), yaxis=y_axis, shapes=lines,
        barmode="group", showlegend=True,
    )  # fmt: skip


def describe_forecast(found: dict[str, Any], name: str) -> str:
    """In words: this module's directions and all modules'."""
    one = found["modules"][name]
    return (
        f"In this module {one['foretold']} of {len(one['reads'])} learned directions lie at least half within as many "
        f"leading directions of the first gradient, on both sides; over all {len(found['modules'])} modules it is "
        f"{found['foretold']} of {found['of']}. On average {found['reads']:.0%} of what a learned direction reads lies "
        f"there (by chance {found['reads_chance']:.0%}) and {found['writes']:.0%} of what it writes (by chance "
        f"{found['writes_chance']:.0%})."
    )
