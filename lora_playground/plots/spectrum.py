"""The scree of one module, the map of all, energy over the directions kept. It knows numbers and module names only."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.analysis.spectra import effective_rank, energy_captured, energy_rank, stable_rank
from lora_playground.plots.style import (
    INK,
    SCALE,
    axis,
    empty,
    figure,
    log_ticks,
    percent,
    rounded,
    shortened,
    significant,
)
from lora_playground.wording import counted

MEASURES: dict[str, tuple[str, str]] = {
    "effective_rank": ("How many directions it uses (effective rank)", "directions"),
    "stable_rank": ("How many directions carry its weight (stable rank)", "directions"),
    "frobenius": ("How large the update is (‖ΔW‖_F)", "‖ΔW‖_F"),
    "relative": ("How large it is beside the base (‖ΔW‖/‖W‖)", "‖ΔW‖/‖W‖"),
    "sigma_1": ("Its strongest direction (σ₁)", "σ₁"),
}
"""{measure: (title of the map, name of the number)}."""

_TEXT_CELLS = 70
"""The most cells of a map whose numbers are written in them."""


# ---------------------------------------------------------------------------------------------------------- scree


def scree_figure(
    series: Sequence[tuple[str, str, Sequence[float]]],
    rank: int | Sequence[int] | None = None,
    log: bool = True,
    module: str = "",
    points: int = 64,
    edge: float | Sequence[tuple[float, str]] | None = None,
) -> dict[str, Any]:
    """Singular values of one module's ΔW in descending order, one line a run.

    Args:
        series: (label, colour, σ descending) of each run.
        rank: the rank budget r, marked; or one for each of the series.
        log: logarithmic σ axis.
        module: the module's name, for the title.
        points: the most values of a run that are drawn.
        edge: upper edge of what noise alone would give (Marchenko–Pastur), drawn for dense updates; or several, each
            with its run's colour.
    """
    title = "Singular values of ΔW" + (f" · {html.escape(short_name(module))}" if module else "")
    if not any(len(values) and values[0] > 0 for _, _, values in series):
        return empty("ΔW is still zero: nothing has been learned yet.", title)
    data: list[dict[str, Any]] = []
    for label, colour, values in series:
        data += _scree_traces(label, colour, [float(v) for v in values], points, log, energy=len(series) == 1)
    length = max((len(trace["x"]) for trace in data), default=1)
    ranks = [rank] if isinstance(rank, int) else list(rank or [])
    furthest = max([length, *[r for r in ranks if r <= 2 * length]])
    lines, notes = _rank_marks(ranks, [colour for _, colour, _ in series], furthest)
    more_lines, more_notes = _edge_marks([(edge, INK["quiet"])] if isinstance(edge, int | float) else edge, log)
    lines, notes = lines + more_lines, notes + more_notes
    x = axis("direction, strongest first", range=[0.4, furthest + 0.6], tickformat="d")
    if furthest <= 20:
        x["dtick"] = 1 if furthest <= 10 else 2
    y = axis("singular value σ" + (" (log)" if log else ""), type="log" if log else "linear")
    if log:
        y |= _sigma_ticks(series)
    else:
        y["rangemode"] = "tozero"
    more: dict[str, Any] = {}
    if len(series) == 1:
        more["yaxis2"] = axis(
            "energy kept", overlaying="y", side="right", range=[0, 1.05], tickformat=".0%", showgrid=False
        )
    layout: dict[str, Any] = {"shapes": lines, "annotations": notes, "showlegend": True, "hovermode": "x"}
    if len(set(ranks)) == 1:  # a single rank's name stands between title and picture
        layout["margin"] = {"l": 56, "r": 16, "t": 62, "b": 48}
    return figure(data, title, 354, xaxis=x, yaxis=y, **layout, **more)


def _edge_marks(
    edges: Sequence[tuple[float, str]] | None, log: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dotted lines at the edges of noise, each with a label; edges close to each other share one label."""
    lines, notes, named = [], [], []  # type: list[dict[str, Any]], list[dict[str, Any]], list[float]
    for height, colour in edges or ():
        line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height}
        lines.append({**line, "line": {"color": colour, "width": 1.5, "dash": "dot"}})
        if any(abs(math.log10(height / other)) < 0.25 for other in named):
            notes[-1] |= {"text": "edges of noise", "font": {"size": 12, "color": INK["quiet"]}}
            highest = max(height, *named)
            notes[-1]["y"] = math.log10(highest) if log else highest
        else:
            note = {"xref": "paper", "x": 1, "y": math.log10(height) if log else height, "text": "edge of noise"}
            look = {"xanchor": "right", "yanchor": "bottom", "font": {"size": 12, "color": colour}}
            notes.append({**note, **look, "showarrow": False})
        named.append(height)
    return lines, notes


def _scree_traces(
    label: str, colour: str, values: list[float], points: int, log: bool, energy: bool
) -> list[dict[str, Any]]:
    floor = 1e-7 * max(values[0], 0.0) if values else 0.0
    shown = values[:points]
    captured = energy_captured(shown, None if len(shown) == len(values) else math.hypot(*values))
    index = list(range(1, len(shown) + 1))
    name = html.escape(shortened(label)) or "σ"
    kept = [percent(float(share)) for share in captured]
    scree = {
        "x": index,
        "y": rounded(value if value > floor or not log else None for value in shown),
        "customdata": kept,
        "mode": "lines+markers",
        "name": name,
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 7 if len(shown) <= 40 else 4},
        "hovertemplate": "σ<sub>%{x}</sub> = %{y:.3g}; the first %{x} keep %{customdata}<extra>" + name + "</extra>",
    }
    if not energy:
        return [scree]
    curve = {
        "x": index,
        "y": rounded(float(share) for share in captured),
        "yaxis": "y2",
        "mode": "lines",
        "name": "energy kept",
        "line": {"color": colour, "width": 1.5, "dash": "dot"},
        "opacity": 0.7,
        "hoverinfo": "skip",
    }
    return [scree, curve]


def _sigma_ticks(series: Sequence[tuple[str, str, Sequence[float]]]) -> dict[str, Any]:
    tops = [float(values[0]) for _, _, values in series if len(values) and values[0] > 0]
    lows = [float(v) for _, _, values in series for v in values if v > 1e-7 * values[0] > 0]
    return log_ticks(min(lows), max(tops)) if tops and lows else {}


def _rank_marks(
    ranks: Sequence[int], colours: Sequence[str], furthest: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dashed lines just right of direction r, where the rank budget ends; equal budgets share one line."""
    lines, notes = [], []
    distinct = list(dict.fromkeys(ranks))
    for position, rank in enumerate(distinct):
        several = len(distinct) > 1 and len(ranks) == len(colours)
        colour = colours[list(ranks).index(rank)] if several else INK["quiet"]
        place = {"x0": rank + 0.5, "x1": rank + 0.5, "y0": 0, "y1": 1, "yref": "paper", "type": "line"}
        lines.append({**place, "line": {"color": colour, "width": 1.5, "dash": "dash"}})
        text = f"r = {rank}" if len(distinct) > 1 else f"rank budget r = {rank}"
        # The text stands on the side of its line where there is room.
        side = "left" if rank < furthest / 2 else "right"
        note = {"x": rank + 0.5, "y": 1 - 0.08 * position, "yref": "paper", "text": text, "xanchor": side}
        if len(distinct) > 1:
            note["xshift"] = 4 if side == "left" else -4  # off the line
        # A single one stands above the picture, where no curve passes; several stand one below the other.
        anchor = "bottom" if len(distinct) == 1 else "top"
        notes.append({**note, "yanchor": anchor, "showarrow": False, "font": {"size": 12, "color": colour}})
    return lines, notes


def describe_scree(label: str, values: Sequence[float], rank: int | None = None, frobenius: float | None = None) -> str:
    """In plain words: how many directions the rank allows, and how few do 90% of the work (hold 90% of the energy).

    Args:
        rank: the rank budget, None for an update without one. frobenius: ‖ΔW‖_F, if not all values are given.
    """
    sigma = [float(v) for v in values]
    if not sigma or sigma[0] <= 0:
        return f"{label}: the update is still zero." if label else "The update is still zero."
    k = energy_rank(sigma, 0.9, frobenius)
    used = sum(1 for v in sigma if v > 1e-7 * sigma[0])
    does = f"{k} {'does' if k == 1 else 'do'} 90% of the work"
    if k > len(sigma):
        does = f"the strongest {len(sigma)} do less than 90% of the work"
    directions = f"{rank or used} direction{'s' * ((rank or used) != 1)}"
    text = f"allowed {directions}; {does}" if rank else f"{directions}; {does}"
    text = f"{label}: {text}" if label else text[0].upper() + text[1:]
    return text + "."


def describe_ranks(label: str, values: Sequence[float], error: float = 0.0, frobenius: float | None = None) -> str:
    """A sentence with effective rank, stable rank and the error of estimated values; '' for an update of zero.

    Args:
        error: bound on the error of the values; 0 if they are exact. frobenius: ‖ΔW‖_F, if not all values are given.
    """
    sigma = [float(v) for v in values]
    if not sigma or sigma[0] <= 0:
        return ""
    text = f"{label}: " if label else ""
    text += f"effective rank {significant(effective_rank(sigma))} (as many equal directions would be as evenly used), "
    text += f"stable rank {significant(stable_rank(sigma, frobenius))} (energy over that of the strongest direction)"
    if error > 0:
        text += f"; values are estimates, off by at most {significant(error)}"
    return text + "."


# ------------------------------------------------------------------------------------------------------------ map


def short_name(module: str) -> str:
    """A module's name without what all modules share: 'model.layers.3.self_attn.q_proj' → 'layer 3 · q_proj'."""
    layer, kind = cell_of(module)
    return f"layer {layer} · {kind}" if layer is not None else kind


def cell_of(module: str) -> tuple[int | None, str]:
    """(layer, kind) of a module: ('model.layers.3.self_attn.q_proj') → (3, 'q_proj'); (None, name) outside layers."""
    match = re.search(r"(?:^|\.)(\d+)\.(.+)$", module)
    if match is None:
        return None, module.removesuffix(".weight").rsplit(".", 1)[-1]
    kind = match.group(2).removesuffix(".weight")
    parts = kind.split(".")
    # GPT-2 calls two modules of a block c_proj, so a generic last part keeps its parent.
    generic = len(parts) > 1 and parts[-1] in {"c_proj", "dense", "weight", "proj", "out_proj", "fc", "linear"}
    return int(match.group(1)), ".".join(parts[-2:]) if generic else parts[-1]


def module_grid(modules: Sequence[str]) -> tuple[list[str], list[str], dict[tuple[str, str], str]]:
    """Rows (layers from the input up, 'other' last), columns (kinds in the data's order), the module of each cell."""
    cells: dict[tuple[str, str], str] = {}
    layers: dict[str, int] = {}
    kinds: dict[str, None] = {}
    for module in modules:
        layer, kind = cell_of(module)
        row = "other" if layer is None else str(layer)
        layers[row] = 10**9 if layer is None else layer
        kinds[kind] = None
        cells.setdefault((row, kind), module)
    return sorted(layers, key=lambda row: layers[row]), sorted(kinds, key=_place), cells


def usual_module(modules: Sequence[str]) -> str:
    """The module that pictures show where nobody chose one, the same in all tabs: the middle one of the map.

    A middle layer's value or output projection is where updates are commonly large; any module will do.
    """
    rows, kinds, cells = module_grid(modules)
    ordered = [cells[row, kind] for row in rows for kind in kinds if (row, kind) in cells]
    return ordered[len(ordered) // 2] if ordered else ""


_FLOW = ("q", "k", "v", "qkv", "attn", "o", "gate", "up", "fc", "down", "proj")


def _place(kind: str) -> int:
    """Where data passes a module inside its layer; kinds that are not known keep their order, after these."""
    words = re.split(r"[._]", kind)
    return next((place for place, name in enumerate(_FLOW) if name in words), len(_FLOW))


def map_figure(
    values: Mapping[str, float],
    measure: str = "effective_rank",
    selected: str = "",
    top: float | None = None,
) -> dict[str, Any]:
    """Layers × modules as a heatmap; the cell's module name is its `customdata`.

    Args:
        values: {module: number}.
        measure: a key of MEASURES.
        selected: a module to frame.
        top: upper end of the colour scale, so that a replay keeps its colours; by default the largest value.
    """
    title, unit = MEASURES[measure]
    if not values:
        return empty("The map fills when training begins.", title, 360)
    rows, kinds, cells = module_grid(list(values))
    z = [rounded(_lookup(values, cells, row, kind) for kind in kinds) for row in rows]
    names = [[cells.get((row, kind), "") for kind in kinds] for row in rows]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": [column_label(kind) for kind in kinds],
        "y": rows,
        "z": z,
        "customdata": names,
        "colorscale": SCALE,
        "zmin": 0,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "%{customdata}<br>" + unit + " = %{z:.3g}<extra></extra>",
        "colorbar": {
            "title": {"text": unit, "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "outlinewidth": 0,
            "tickformat": ".3~g",
        },
    }
    largest = max((abs(v) for line in z for v in line if v is not None), default=0.0)
    heat["zmax"] = float(f"{max(largest, top or 0.0) or 1.0:.4g}")
    if len(rows) * len(kinds) <= _TEXT_CELLS:
        heat["texttemplate"] = "%{z:.2~g}" if measure in ("relative", "frobenius", "sigma_1") else "%{z:.1f}"
        heat["textfont"] = {"size": 12}
    frame = _frame(selected, rows, kinds, cells)
    x = axis("module", side="bottom", showgrid=False, type="category", fixedrange=True)
    step = max(1, math.ceil(len(rows) / 16))
    y = axis("layer", showgrid=False, type="category", fixedrange=True, tickvals=rows[::step])
    height = max(280, min(560, 130 + 32 * len(rows)))
    return figure([heat], title, height, xaxis=x, yaxis=y, shapes=frame, showlegend=False)


def _lookup(values: Mapping[str, float], cells: Mapping[tuple[str, str], str], row: str, kind: str) -> float | None:
    module = cells.get((row, kind))
    return None if module is None else float(values[module])


def column_label(kind: str) -> str:
    """'q_proj' → 'q': columns are narrow."""
    return kind.removesuffix("_proj")


def _frame(
    selected: str, rows: Sequence[str], kinds: Sequence[str], cells: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    for (row, kind), module in cells.items():
        if module == selected:
            x, y = kinds.index(kind), rows.index(row)
            box = {"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
            return [{**box, "line": {"color": "#D55E00", "width": 3}}]
    return []


def describe_map(values: Mapping[str, float], measure: str = "effective_rank") -> str:
    """One sentence: where the measure is largest and smallest, and its median."""
    known = {name: float(v) for name, v in values.items() if math.isfinite(v)}
    if not known:
        return "Nothing has been learned yet."
    unit = MEASURES[measure][0].split("(")[1].rstrip(")") if "(" in MEASURES[measure][0] else MEASURES[measure][1]
    high, low = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    middle = sorted(known.values())[len(known) // 2]
    if known[high] <= 0:
        return f"The update of {counted(len(known), 'module')} is still zero."
    many = f"{unit[:1].upper() + unit[1:]} over {counted(len(known), 'module')}"
    if significant(known[high]) == significant(known[low]):
        return f"{many}: {significant(known[high])} in each."
    text = f"{many}: largest in {short_name(high)} "
    text += f"({significant(known[high])}), smallest in {short_name(low)} ({significant(known[low])}), "
    return text + f"typically {significant(middle)}."


# --------------------------------------------------------------------------------------------------------- energy


def energy_figure(
    series: Sequence[tuple[str, str, Sequence[float]]],
    kept: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Share of ‖ΔW‖_F² in the first k directions, over k; the range that a cut keeps is shaded.

    Args:
        series: (label, colour, cumulative shares from k = 1) of each run.
        kept: first and last direction kept (1-based, inclusive), or None.
    """
    title, data = "Energy kept by the first k directions", []
    for label, colour, shares in series:
        name = html.escape(shortened(label))
        line = {"x": list(range(len(shares) + 1)), "y": rounded([0.0, *map(float, shares)]), "mode": "lines+markers"}
        look = {"line": {"color": colour, "width": 2, "shape": "hv"}, "marker": {"color": colour, "size": 5}}
        hover = "first %{x} directions keep %{y:.1%}<extra>" + name + "</extra>"
        data.append({**line, **look, "name": name, "hovertemplate": hover})
    if not data:
        return empty("Tick a run to see how its energy is spread.", title)
    shapes = []
    if kept is not None and kept[1] >= kept[0]:
        box = {"type": "rect", "x0": kept[0] - 1, "x1": kept[1], "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        shapes.append({**box, "fillcolor": "#56B4E9", "opacity": 0.18, "line": {"width": 0}})
    x = axis("directions kept, k", rangemode="tozero", tickformat="d")
    if max(len(shares) for _, _, shares in series) <= 12:
        x["dtick"] = 1
    y = axis("energy kept", range=[0, 1.04], tickformat=".0%")
    return figure(data, title, 340, xaxis=x, yaxis=y, shapes=shapes, showlegend=True)
