"""Figures of subspaces: the directions of two adapters, an update beside its base, intruders. It knows numbers only."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_playground.plots.spectrum import short_name
from lora_playground.plots.style import INK, SCALE, axis, figure, log_ticks, percent, rounded, shortened, significant

_SHOWN = 64
_CHANCE = "#6b7280"


def square_figure(
    similarity: np.ndarray, first: tuple[str, str], second: tuple[str, str], module: str = ""
) -> dict[str, Any]:
    """φ(i, j) of two adapters as a heatmap: i of the first upwards, j of the second to the right.

    Args:
        similarity: (k₁, k₂) in [0, 1].
        first, second: (label, colour) of the two.
        module: the module's name, for the title.
    """
    shown = np.asarray(similarity)[:_SHOWN, :_SHOWN]
    one, two = (html.escape(shortened(label, 30)) for label, _ in (first, second))
    heat = {
        "type": "heatmap",
        "x0": 1,
        "dx": 1,
        "y0": 1,
        "dy": 1,
        "z": [rounded(row, 3) for row in shown.tolist()],
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "hovertemplate": f"first %{{y}} of {one}<br>within first %{{x}} of {two}<br>φ = %{{z:.2f}}<extra></extra>",
        "colorbar": _scale("φ"),
    }
    title = "Shared directions φ(i, j)" + (f" · {html.escape(short_name(module))}" if module else "")
    x = axis(f"first j directions of {two}", showgrid=False, tickformat="d")
    y = axis(f"first i directions<br>of {one}", showgrid=False, tickformat="d")
    x["title"]["font"]["color"], y["title"]["font"]["color"] = second[1], first[1]
    for side, length in ((x, shown.shape[1]), (y, shown.shape[0])):
        side["range"] = [0.5, length + 0.5]
        if length <= 12:
            side["dtick"] = 1
    return figure([heat], title, 360, xaxis=x, yaxis=y, showlegend=False)


def overlap_figure(similarity: np.ndarray, chance: np.ndarray, colour: str) -> dict[str, Any]:
    """φ(k, k) over k, beside its value for random directions."""
    k = min(similarity.shape)
    index = list(range(1, k + 1))
    shared = {
        "x": index,
        "y": rounded(np.diag(similarity[:k, :k]).tolist()),
        "mode": "lines+markers",
        "name": "these two",
        "line": {"color": colour, "width": 2.5},
        "marker": {"size": 6},
        "hovertemplate": "first %{x} of both share %{y:.0%}<extra></extra>",
    }
    random = {
        "x": index,
        "y": rounded(np.diag(chance[:k, :k]).tolist()),
        "mode": "lines",
        "name": "chance",
        "line": {"color": _CHANCE, "width": 2, "dash": "dot"},
        "hovertemplate": "by chance %{y:.1%}<extra></extra>",
    }
    x = axis("first k directions of both", tickformat="d", **({"dtick": 1} if k <= 12 else {}))
    y = axis("share in common, φ(k, k)", range=[0, 1.04], tickformat=".0%")
    return figure([shared, random], "How much they have in common", 360, xaxis=x, yaxis=y, showlegend=True)


def describe_similarity(
    similarity: np.ndarray, chance: np.ndarray, angles: Sequence[float], first: str, second: str
) -> str:
    """Two sentences: the strongest directions and the whole, each against chance."""
    k1, k2 = similarity.shape
    top, whole = float(similarity[0, 0]), float(similarity[-1, -1])
    expected = float(chance[-1, -1])
    text = f"The strongest direction of {first} lies {percent(float(similarity[0, -1]))} within the {k2} of {second}; "
    text += f"the two strongest ones agree to {percent(top)}. All {k1} against all {k2} share {percent(whole)} "
    text += f"(by chance {percent(expected)})"
    if len(angles):
        text += f"; the smallest angle between them is {float(angles[0]):.0f}°"
    return text + "."


def alignment_figure(cosines: np.ndarray, module: str = "") -> dict[str, Any]:
    """|cos| between directions of ΔW (upwards) and of W (to the right)."""
    heat = {
        "type": "heatmap",
        "x0": 1,
        "dx": 1,
        "y0": 1,
        "dy": 1,
        "z": [rounded(row, 3) for row in np.asarray(cosines).tolist()],
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "hovertemplate": "direction %{y} of ΔW, %{x} of W<br>|cos| = %{z:.2f}<extra></extra>",
        "colorbar": _scale("|cos|"),
    }
    title = "Does ΔW follow W?" + (f" · {html.escape(short_name(module))}" if module else "")
    x = axis("direction of W, strongest first", showgrid=False, tickformat="d")
    y = axis("direction of ΔW", showgrid=False, tickformat="d", dtick=max(1, len(cosines) // 8))
    return figure([heat], title, 340, xaxis=x, yaxis=y, showlegend=False)


def describe_alignment(cosines: np.ndarray, floor: float) -> str:
    """One sentence: the best match of ΔW's strongest direction, against a random one's."""
    if not cosines.size:
        return "The update is still zero."
    best = int(np.argmax(cosines[0])) + 1
    top = float(cosines[0].max())
    tail = "more than chance" if top > 1.5 * floor else "no more than chance"
    return (
        f"ΔW's strongest direction is closest to direction {best} of W, |cos| = {significant(top)}; a random one would "
        f"reach about {significant(floor)}, so that is {tail}."
    )


def amplification_figure(values: Sequence[tuple[str, float]], colour: str) -> dict[str, Any]:
    """‖UᵀWV‖ for directions of ΔW, of W and at random (log): how much of W lies where the update acts.

    Args:
        values: (whose directions, norm); the first is the update's and carries the run's colour.
    """
    names = [name for name, _ in values]
    bars = {
        "type": "bar",
        "x": names,
        "y": rounded(max(value, 1e-300) for _, value in values),
        "text": [significant(value) for _, value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [colour] + [_CHANCE] * (len(values) - 1)},
        "hovertemplate": "%{x}: %{text}<extra></extra>",
    }
    known = [value for _, value in values if value > 0] or [1.0]
    low, high = min(known) / 3, 2 * max(known)  # on a logarithmic axis bars begin at a third of the smallest
    span = [math.log10(low), math.log10(high)]
    y = axis("‖Uᵀ W V‖_F (log)", type="log", range=span, **log_ticks(low, high))
    x = axis("directions U, V taken from", showgrid=False)
    return figure([bars], "How much of W lies where ΔW acts", 340, xaxis=x, yaxis=y, showlegend=False)


def describe_amplification(by_update: float, by_base: float, by_random: float, norm: float, rank: int) -> str:
    """Two sentences: how much of W lies where ΔW acts, beside chance and W's own strongest directions, and how many
    times as large ΔW is there.

    Args:
        by_update, by_base, by_random: ‖UᵀWV‖_F for directions of ΔW, of W, and random ones. norm: ‖ΔW‖_F.
    """
    known = by_update > 1.5 * by_random
    noun = "direction" if rank == 1 else f"{rank} directions"
    text = f"In the {noun} that ΔW uses, W holds {significant(by_update)}: "
    text += "more than" if known else "about as much as"
    text += f" random directions would catch ({significant(by_random)}), far from W's own strongest "
    text = text if by_update < 0.7 * by_base else text.replace("far from", "close to")
    text += f"({significant(by_base)}). The update is {significant(norm / max(by_update, 1e-300))} times as large there"
    return text + (", so it amplifies what the base knows but does not stress." if known else ".")


def intruder_figure(
    cosines: Sequence[float],
    epsilon: float,
    floor: tuple[float, float],
    colour: str,
    module: str = "",
) -> dict[str, Any]:
    """Largest |cos| of each leading singular vector of W + ΔW with any of W's; those under ε are intruders.

    Args:
        cosines: (k,). floor: mean and 99% quantile for a random vector.
    """
    index = list(range(1, len(cosines) + 1))
    bars = {
        "type": "bar",
        "x": index,
        "y": rounded(cosines, 3),
        "marker": {"color": [colour if c < epsilon else _CHANCE for c in cosines]},
        "hovertemplate": "direction %{x} of W + ΔW: |cos| = %{y:.2f}<extra></extra>",
    }
    text = INK["text"]
    span = {"type": "line", "xref": "paper", "x0": 0, "x1": 1}
    lines = [
        {**span, "y0": epsilon, "y1": epsilon, "line": {"color": text, "width": 1.5, "dash": "dash"}},
        {**span, "y0": floor[0], "y1": floor[0], "line": {"color": text, "width": 2, "dash": "dot"}},
    ]
    notes = [_note(f"ε = {epsilon:g}", epsilon, text), _note("chance", floor[0], text)]
    title = "Intruders, new to W" + (f" · {html.escape(short_name(module))}" if module else "")
    x = axis("direction of W + ΔW, strongest first", tickformat="d", showgrid=False)
    if len(index) <= 16:
        x["dtick"] = 1
    y = axis("closest direction of W, |cos|", range=[0, 1.05])
    edges = {"l": 56, "r": 62, "t": 44, "b": 48}
    return figure([bars], title, 340, xaxis=x, yaxis=y, shapes=lines, annotations=notes, showlegend=False, margin=edges)


def _scale(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right", "font": {"size": 13}}, "thickness": 12, "outlinewidth": 0}


def _note(text: str, y: float, colour: str) -> dict[str, Any]:
    """A line's name, to the right of the plot, where no bar hides it."""
    place = {"xref": "paper", "x": 1.01, "y": y, "xanchor": "left", "yanchor": "middle", "showarrow": False}
    return {**place, "text": text, "font": {"size": 12, "color": colour}}


def describe_intruders(cosines: Sequence[float], epsilon: float, floor: float) -> str:
    """One sentence: how many of the leading directions are new, and which is the least like the base's."""
    count = sum(1 for c in cosines if c < epsilon)
    k = len(cosines)
    least = int(np.argmin(cosines)) + 1
    verb = "is an intruder" if count == 1 else "are intruders"
    return (
        f"{count or 'None'} of the {k} strongest directions of W + ΔW {verb} (|cos| under {epsilon:g} with every "
        f"direction of W). The least alike is direction {least}, |cos| = {significant(float(min(cosines)))}; "
        f"a random vector would reach about {significant(floor)}."
    )
