"""The first gradient beside what training learned: two screes, how much of each direction was foretold, and how that
went over the steps.

A moment is what `lab.forecast` found for all modules after some steps; `at` says in words which moment it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.plots.style import INK, axis, figure, log_ticks, rounded

GRADIENT, LEARNED, WRITES, FORETOLD = "#8b979b", "#0072B2", "#D55E00", "#009E73"


def scree_figure(module: dict[str, Any], values: Sequence[float], step: str) -> dict[str, Any]:
    """σ of G₀ and of ΔW at one step, on a logarithmic axis: those of G₀ divided by its largest, those of ΔW by the
    largest at the run's end."""
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
    y_axis = axis("σ over the largest (log)", type="log", range=[-3.1, 0.15], **log_ticks(1e-3, 1.0))
    title = "Singular values: G₀ and what was learned"
    return figure(data, title, 340, xaxis=axis("direction"), yaxis=y_axis, showlegend=True)


def foretold_figure(module: dict[str, Any], shares: dict[str, Any], at: str = "at the end") -> dict[str, Any]:
    """How much of each direction that a module learned lies within as many leading directions of G₀, and what chance
    would give.

    Args:
        module: its final values. shares: its `reads` and `writes` at the moment that is shown.
    """
    x = [f"{i + 1}" for i in range(len(module["reads"]))]
    data: list[dict[str, Any]] = []
    lines = []
    for key, name, colour in (("reads", "what it reads (v)", LEARNED), ("writes", "what it writes (u)", WRITES)):
        data.append(
            {"type": "bar", "x": x, "y": rounded(shares[key]), "name": name, "marker": {"color": colour},
             "hovertemplate": "direction %{x}: %{y:.0%}<extra>" + name + "</extra>"}
        )  # fmt: skip
        chance = module[f"{key}_chance"]
        dash = {"color": colour, "width": 1.5, "dash": "dot"}
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance, "line": dash})
    half = {"color": INK["quiet"], "width": 1}
    lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "line": half})
    y_axis = axis("share within G₀'s", tickformat=".0%", range=[0, 1.03])
    title = f"How much was foretold {at}"
    count = len(module["reads"])
    x_axis = axis("learned direction (dotted: by chance)", type="category", range=[-0.5, count - 0.5])
    return figure(
        data, title, 340, xaxis=x_axis, yaxis=y_axis, shapes=lines, barmode="group", showlegend=True,
    )  # fmt: skip


def over_steps_figure(found: dict[str, Any], moments: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """Over the moments of a run: the mean shares of all modules' directions that lie within G₀'s leading ones, and the
    share of directions that were foretold.

    Args:
        found: of `lab.forecast`. index: of the moment that is shown, which is marked.
    """
    x = [moment["step"] for moment in moments]
    rows = [
        ("what they read (v), on average", LEARNED, [moment["reads"] for moment in moments]),
        ("what they write (u), on average", WRITES, [moment["writes"] for moment in moments]),
        ("directions foretold, of all", FORETOLD, [one["foretold"] / max(1, one["of"]) for one in moments]),
    ]
    data: list[dict[str, Any]] = []
    for name, colour, y in rows:
        sizes = [14 if number == index else 6 for number in range(len(x))]
        data.append(
            {"x": x, "y": rounded(y), "mode": "lines+markers", "name": name, "line": {"color": colour, "width": 3},
             "marker": {"size": sizes}, "hovertemplate": "step %{x}: %{y:.1%}<extra>" + name + "</extra>"}
        )  # fmt: skip
    lines = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": found[key], "y1": found[key],
         "line": {"color": colour, "width": 1.5, "dash": "dot"}}
        for key, colour in (("reads_chance", LEARNED), ("writes_chance", WRITES))
    ]  # fmt: skip
    here = {"color": INK["quiet"], "width": 1}
    lines.append({"type": "line", "yref": "paper", "x0": x[index], "x1": x[index], "y0": 0, "y1": 1, "line": here})
    most = max(value for _, _, y in rows for value in y)
    x_axis = axis("step (log; dotted: by chance)", type="log", tickvals=x, ticktext=[str(step) for step in x])
    y_axis = axis("share within G₀'s", tickformat=".0%", range=[-0.01, max(0.1, 1.15 * most)])
    title = f"All {len(found['modules'])} modules, over the steps"
    return figure(data, title, 340, xaxis=x_axis, yaxis=y_axis, shapes=lines, showlegend=True)


def describe_forecast(found: dict[str, Any], name: str, moment: dict[str, Any], at: str) -> str:
    """In words: this module's directions and all modules' at a moment."""
    one = moment["modules"].get(name, {"foretold": 0, "reads": []})
    return (
        f"{at[0].upper()}{at[1:]}, {one['foretold']} of {len(one['reads'])} directions of this module lie at least "
        "half within as many leading directions of the first gradient, on both sides; over all "
        f"{len(found['modules'])} modules it is {moment['foretold']} of {moment['of']}. On average "
        f"{moment['reads']:.0%} of what a direction reads lies there (by chance {found['reads_chance']:.0%}) and "
        f"{moment['writes']:.0%} of what it writes (by chance {found['writes_chance']:.0%})."
    )
