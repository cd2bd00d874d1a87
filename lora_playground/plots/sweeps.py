"""Figures of a sweep: loss curves by rank, score over rank, capacity, utilisation, a heat map of two options.

It takes numbers, no run. Ranks have the same colour scale in all figures.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.plots.style import (
    INK,
    SCALE,
    axis,
    empty,
    figure,
    log_ticks,
    percent,
    rounded,
    run_colour,
    significant,
)
from lora_playground.wording import counted

_SCALE = ("#2a4f9c", "#4568a0", "#5f7a9a", "#7c8789", "#988c6b", "#b4903f", "#d2961e")
"""Blue to yellow, the middle of the colour scale for magnitudes, which is visible on light and dark pages."""
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
BAND = (0.23, 0.30)
"""Slopes of log stable rank over log rank that were reported for LoRA (arXiv 2506.03133)."""


def rank_colours(ranks: Sequence[int]) -> dict[int, str]:
    """A colour for each rank, blue for the smallest."""
    order = sorted(set(ranks))
    last = len(_SCALE) - 1
    return {rank: _SCALE[round(place * last / max(1, len(order) - 1))] for place, rank in enumerate(order)}


Line = tuple[int, Sequence[int], Sequence[float], "int | None"]
"""(rank, steps, validation losses, the step at which it separates from the lowest curve or None)."""


def fan_figure(lines: Sequence[Line], steps: int) -> dict[str, Any]:
    """Validation loss by rank, with a ring where a curve separates from the lowest one."""
    title = "Rank fan: where the curves part"
    if not any(xs for _, xs, _, _ in lines):
        return empty("The fan opens with the first validation.", title)
    colours, data = rank_colours([rank for rank, _, _, _ in lines]), []
    for rank, xs, ys, parts in lines:
        name = f"r = {rank}"
        data.append({
            "x": list(xs), "y": rounded(ys), "mode": "lines+markers", "name": name,
            "line": {"color": colours[rank], "width": 2.5}, "marker": {"size": 5},
            "hovertemplate": "step %{x}: %{y:.3f}<extra>" + name + "</extra>",
        })  # fmt: skip
        if parts is not None:
            data.append({
                "x": [parts], "y": rounded([list(ys)[list(xs).index(parts)]]), "mode": "markers", "showlegend": False,
                "marker": {"symbol": "circle-open", "size": 14, "color": colours[rank], "line": {"width": 2.5}},
                "hovertemplate": f"{name} parts here<extra></extra>",
            })  # fmt: skip
    across = axis("step", range=[0, steps * 1.04])
    return figure(data, title, xaxis=across, yaxis=axis("validation loss (nats)"))


def describe_fan(lines: Sequence[Line], margin: float) -> str:
    """Sentences on which ranks separate from the lowest curve, at which step, and which do not, of those that have
    reached the last step."""
    last = max((list(xs)[-1] for _, xs, _, _ in lines if xs), default=0)
    known = [(rank, parts) for rank, xs, _, parts in lines if len(xs) > 1 and list(xs)[-1] == last]
    short = [f"r = {rank} has come to step {list(xs)[-1]}" for rank, xs, _, _ in lines if xs and list(xs)[-1] < last]
    behind = f" {'; '.join(short)}." if short else ""
    if len(known) < 2:
        return behind.strip()
    apart = [(rank, parts) for rank, parts in known if parts is not None]
    together = _listed([str(rank) for rank, parts in known if parts is None])
    if not apart:
        return f"The curves do not part: r = {together} end within {percent(margin)} of the lowest loss.{behind}"
    ends = "end" if len(known) - len(apart) > 1 else "ends"
    gone = "; ".join(f"r = {rank} lies above it from step {parts} on" for rank, parts in apart)
    return f"r = {together} {ends} within {percent(margin)} of the lowest loss; {gone}.{behind}"


Row = tuple[str, int, float, float, float, Sequence[float]]
"""(variant, rank, mean score, low, high, scores of the seeds)."""


def score_figure(rows: Sequence[Row], base: float | None = None) -> dict[str, Any]:
    """Score over rank with 95% intervals: a line for each variant, seeds as small points, the base dotted."""
    title = "Score over rank"
    if not rows:
        return empty("Scores come when the first run is done.", title)
    data: list[dict[str, Any]] = []
    names = list(dict.fromkeys(row[0] for row in rows))
    for place, name in enumerate(names):
        mine, colour = [row for row in rows if row[0] == name], run_colour(place)
        xs = [row[1] for row in mine]
        data.append({
            "x": xs, "y": rounded(row[2] for row in mine), "mode": "lines+markers", "name": html.escape(name),
            "line": {"color": colour, "width": 2, "dash": _DASHES[place % len(_DASHES)]}, "marker": {"size": 9},
            "error_y": {
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": colour,
                "array": rounded(row[4] - row[2] for row in mine),
                "arrayminus": rounded(row[2] - row[3] for row in mine),
            },
            "hovertemplate": "r = %{x}: %{y:.1%}<extra>" + html.escape(name) + "</extra>",
        })  # fmt: skip
        seeds = [(row[1], score) for row in mine if len(row[5]) > 1 for score in row[5]]
        if seeds:
            data.append({
                "x": [rank for rank, _ in seeds], "y": rounded(score for _, score in seeds), "mode": "markers",
                "showlegend": False, "marker": {"size": 5, "color": colour, "opacity": 0.5}, "hoverinfo": "skip",
            })  # fmt: skip
    ranks = sorted({row[1] for row in rows})
    across = axis("rank r (log)", type="log", tickvals=ranks, ticktext=[str(rank) for rank in ranks])
    shapes = []
    if base is not None:
        line = {"color": INK["quiet"], "width": 1.5, "dash": "dot"}
        shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": base, "y1": base, "line": line}]
    up = axis("score", tickformat=".0%", range=[0, 1.04])
    return figure(data, title, xaxis=across, yaxis=up, shapes=shapes, showlegend=len(names) > 1)


def describe_scores(rows: Sequence[Row], enough: Row | None, best: Row | None, n: int) -> str:
    """Sentences on the smallest rank that is as good as the best one, within the test rows' statistical error."""
    if enough is None or best is None:
        return ""
    seeds = len(best[5])
    grounds = counted(n, "test row") + (f", the mean of {seeds} seeds" if seeds > 1 else "")
    if len({row[1] for row in rows}) < 2:
        return f"r = {best[1]}: {_interval(best)}, by {grounds}."
    if enough[1] == best[1]:
        if not any(row[0] == best[0] and row[1] < best[1] for row in rows):
            return f"r = {best[1]}, the smallest, is the best too: {_interval(best)} ({grounds})."
        return (
            f"The best, r = {best[1]}, has {_interval(best)}; every smaller rank lies below that interval ({grounds})."
        )
    return (
        f"r = {enough[1]} is enough here: {_interval(enough)} against {_interval(best)} at r = {best[1]} "
        f"(intervals at 95%; {grounds})."
    )


def _interval(row: Row) -> str:
    return f"{100 * row[2]:.0f} [{100 * row[3]:.0f}, {100 * row[4]:.0f}]"


Held = Mapping[tuple[str, "int | None"], tuple[int, float]]
"""{(variant, rank): (parameters, bits)}."""


def capacity_figure(target_bits: float | None, held: Held) -> dict[str, Any]:
    """Bits that each adapter can hold as bars, and a line where the targets' bits are."""
    title = "Capacity, and what is to be learned"
    if target_bits is None or not held:
        return empty("It needs the first finished run.", title)
    several = len({name for name, _ in held}) > 1
    labels = [f"{name} r = {rank}" if rank and several else f"r = {rank}" if rank else name for name, rank in held]
    bits = [found for _, found in held.values()]
    colours = rank_colours([rank or 1 for _, rank in held])
    # The bits stand in front of the bars: behind them the line of the targets would cross them.
    named = [f"{html.escape(label)}: {significant(one)}" for label, one in zip(labels, bits)]
    bars = {
        "type": "bar", "orientation": "h", "y": named, "x": rounded(bits), "showlegend": False,
        "marker": {"color": [colours[rank or 1] for _, rank in held]}, "hovertemplate": "%{y} bits<extra></extra>",
    }  # fmt: skip
    low, high = min([*bits, target_bits]) / 3, 1.5 * max([*bits, target_bits])
    text = INK["text"]
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": target_bits, "x1": target_bits}
    shapes = [{**line, "line": {"color": text, "width": 2, "dash": "dash"}}]
    note = {
        "x": math.log10(target_bits), "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
        "text": f"targets: {significant(target_bits)} bits", "font": {"size": 12, "color": text},
    }  # fmt: skip
    across = axis("bits (log)", type="log", range=[math.log10(low), math.log10(high)], **log_ticks(low, high))
    up = axis("", type="category", autorange="reversed", showgrid=False)
    return figure([bars], title, xaxis=across, yaxis=up, shapes=shapes, annotations=[note],
                  margin={"l": 56, "r": 16, "t": 58, "b": 48})  # fmt: skip


def describe_capacity(target_bits: float | None, held: Held, bits: float) -> str:
    """Sentences on whether the adapters can hold what is to be learned."""
    if target_bits is None or not held:
        return ""
    roomy = [(key, value) for key, value in held.items() if value[1] >= target_bits]
    sentence = (
        f"To the base, the answers of the training rows are {significant(target_bits)} bits of news. At about {bits:g} "
    )
    sentence += "bits a trained number, "
    if len(roomy) == len(held):
        (_, rank), (parameters, bits_held) = next(iter(held.items()))
        least = f"even the smallest (r = {rank}, " if rank else "even the smallest ("
        sentence += f"{least}{significant(parameters)} numbers) could hold {significant(bits_held)}: "
        return sentence + "capacity is no limit here."
    if not roomy:
        return sentence + "none of these adapters could hold that much: expect the larger ones to learn more."
    (name, rank), (parameters, bits_held) = roomy[0]
    first = f"r = {rank}" if rank else name
    capacity = f"{significant(bits_held)} bits in {significant(parameters)} numbers"
    return f"{sentence}{first} is the first that could hold it all ({capacity})."


def utilisation_figure(points: Sequence[tuple[int, float]], slope: float | None) -> dict[str, Any]:
    """Stable rank over rank, both logarithmic, with the line of their slope and the diagonal of full use."""
    title = "Utilisation of the rank"
    if not points:
        return empty("It needs the spectra of a finished run.", title)
    xs, ys = [rank for rank, _ in points], [value for _, value in points]
    quiet = INK["quiet"]
    data: list[dict[str, Any]] = [
        {"x": xs, "y": xs, "mode": "lines", "name": "all used evenly", "line": {"color": quiet, "dash": "dot"}},
        {"x": xs, "y": rounded(ys), "mode": "lines+markers", "name": "stable rank", "marker": {"size": 9},
         "line": {"color": run_colour(0), "width": 2.5},
         "hovertemplate": "r = %{x}: %{y:.2f} directions<extra></extra>"},
    ]  # fmt: skip
    across = axis("rank r (log)", type="log", tickvals=xs, ticktext=[str(x) for x in xs])
    low, high = 0.9, max(*xs, *ys) * 1.15
    up = axis("stable rank ‖ΔW‖²F/σ₁² (log)", type="log", range=[math.log10(low), math.log10(high)],
              **log_ticks(low, high))  # fmt: skip
    name = title if slope is None else f"{title} (slope {slope:.2f})"
    return figure(data, name, xaxis=across, yaxis=up)


def describe_utilisation(points: Sequence[tuple[int, float]], slope: float | None) -> str:
    """Sentences on how many directions are used, and how that grows with the rank."""
    if not points:
        return ""
    rank, value = points[-1]
    sentence = (
        f"At r = {rank} the update weighs as much as {value:.1f} equal directions (stable rank, mean of the modules)"
    )
    if slope is None:
        return sentence + "."
    grown = (
        f"twice the rank gives {2**slope:.2f} times as many" if slope > 0.02 else "more rank does not give more of them"
    )
    where = "inside" if BAND[0] <= slope <= BAND[1] else "below" if slope < BAND[0] else "above"
    band = f"the {BAND[0]:.2f} to {BAND[1]:.2f} that was reported for LoRA"
    return f"{sentence}; {grown} (slope {slope:.2f}, {where} {band})."


_NAMES = {"rank": "rank r", "learning_rate": "learning rate", "variant": "method"}


def heat_figure(
    x: str, y: str, xs: Sequence[Any], ys: Sequence[Any], cells: Sequence[Sequence[float | None]], measure: str,
) -> dict[str, Any]:  # fmt: skip
    """A heat map: one number for each pair of values of two options, a gap where no run is done."""
    title = f"{'Score' if measure == 'score' else 'Validation loss'} over {_NAMES[x]} and {_NAMES[y]}"
    if not any(cell is not None for row in cells for cell in row):
        return empty("It fills when the first run is done.", title)
    score = measure == "score"
    heat: dict[str, Any] = {
        "type": "heatmap", "x": [_value(one) for one in xs], "y": [_value(one) for one in ys],
        "z": [rounded(row) for row in cells], "colorscale": SCALE, "reversescale": not score, "xgap": 2, "ygap": 2,
        "hoverongaps": False, "texttemplate": "%{z:.0%}" if score else "%{z:.3f}", "textfont": {"size": 13},
        "hovertemplate": f"{_NAMES[x]} %{{x}}, {_NAMES[y]} %{{y}}: %{{z:.3f}}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0, "tickformat": ".0%" if score else ".3~g"},
    }  # fmt: skip
    if score:
        heat |= {"zmin": 0, "zmax": 1}
    fixed = {"type": "category", "showgrid": False, "fixedrange": True}
    return figure([heat], title, xaxis=axis(_NAMES[x], **fixed), yaxis=axis(_NAMES[y], **fixed))


def describe_heat(
    x: str, y: str, xs: Sequence[Any], ys: Sequence[Any], cells: Sequence[Sequence[float | None]], measure: str
) -> str:
    """Sentences on where it is best, and which of the two options matters more."""
    known = {(i, j): value for j, row in enumerate(cells) for i, value in enumerate(row) if value is not None}
    if not known:
        return ""
    pick = max if measure == "score" else min
    i, j = pick(known, key=lambda place: known[place])
    shown = percent(known[i, j]) if measure == "score" else significant(known[i, j])
    sentence = f"Best at {_NAMES[x]} {_value(xs[i])} and {_NAMES[y]} {_value(ys[j])}: {shown}."
    along = _span([known.get((a, j)) for a in range(len(xs))])
    across = _span([known.get((i, b)) for b in range(len(ys))])
    if along is None or across is None:
        return sentence
    unit = (lambda v: counted(100 * v, "point", f"{100 * v:.0f}")) if measure == "score" else significant
    return f"{sentence} From there, {_NAMES[x]} changes it by up to {unit(along)}, {_NAMES[y]} by up to {unit(across)}."


def _span(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else None


def _value(value: Any) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else html.escape(str(value))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
