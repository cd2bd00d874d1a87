"""What all figures share: colours, axes, layout, the format of numbers. It knows no particular figure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow, in the order in which runs get them (a run's slot)."""

SCALE = "Cividis"
"""The colour scale for magnitudes: even in lightness, readable with colour blindness, on light and dark pages."""

INK = {"text": "#1f2937", "quiet": "#6b7280", "grid": "#e2e5ea"}
"""Colours of text, quiet text and grid. On a dark page the style sheet replaces them."""

FONT = '"Atkinson Hyperlegible Next", system-ui, sans-serif'


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def run_colour(slot: int) -> str:
    """The colour of the run in this slot (0, 1, ...), the same in every figure, table and pane."""
    return RUN_COLOURS[slot % len(RUN_COLOURS)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title (unit in it), quiet grid and no frame."""
    return {
        "title": {"text": title, "font": {"size": 13}, "standoff": 8},
        "gridcolor": INK["grid"],
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        **more,
    }


def figure(data: list[dict[str, Any]], title: str, height: int = 320, **layout: Any) -> dict[str, Any]:
    """Traces in the shared layout, which stays the same between updates, so that zoom is kept (`uirevision`).

    Args:
        data: Plotly traces.
        title: says what is shown.
        layout: further layout fields, which replace the shared ones.
    """
    base: dict[str, Any] = {
        "title": {
            "text": title,
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 15},
            "pad": {"l": 8, "t": 13},
        },
        "font": {"family": FONT, "size": 13, "color": INK["text"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 44, "b": 48},
        "height": height,
        "uirevision": "keep",
        "hoverlabel": {"font": {"family": FONT, "size": 13}},
        # At the figure's lower edge, so that it never meets the axis's title, however many lines it takes.
        "legend": {
            "orientation": "h",
            "x": 0,
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "dragmode": False,
    }
    config = {
        "displaylogo": False,
        "responsive": True,
        "scrollZoom": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "lora-playground"},
    }
    return {"data": data, "layout": {**base, **layout}, "config": config}


def empty(text: str, title: str, height: int = 320) -> dict[str, Any]:
    """A figure without axes that shows a text, such as why there is nothing to draw yet."""
    note = {"text": text, "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    note["font"] = {"size": 14, "color": INK["quiet"]}  # type: ignore[assignment]
    hidden = {"visible": False}
    even = {"l": 16, "r": 16, "t": 44, "b": 44}
    return figure([], title, height, annotations=[note], xaxis=hidden, yaxis=hidden, margin=even)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis at 1, 2 and 5 of every decade, written in full; powers of ten over many decades.

    Plotly itself writes only the digit between powers of ten, so that 0.5 and 50 000 both read 5.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if math.log10(high / low) <= 2.3 else (1,)
    ticks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
    return {"tickvals": ticks, "ticktext": [significant(tick) if tick >= 1e-3 else _power(tick) for tick in ticks]}


def _power(value: float) -> str:
    """A small round number as 10⁻⁴ or 2·10⁻⁵."""
    digit, power = f"{value:.0e}".split("e")
    return ("" if digit == "1" else f"{digit}·") + "10" + str(int(power)).translate(_RAISED)


def rounded(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    """Numbers with `digits` significant digits, so that an event is small. None and non-finite values become gaps."""
    kept: list[float | None] = []
    for value in values:
        if value is None or not math.isfinite(value):
            kept.append(None)
        else:
            kept.append(float(f"{float(value):.{digits}g}"))
    return kept


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, 1.2M for millions, without an exponent from 0.0001 to 10⁹."""
    if not math.isfinite(value):
        return "not finite"
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            return f"{value / (1e3 if letter == 'k' else bound):.{digits}g}{letter}"
    if value and abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def shortened(name: str, characters: int = 40) -> str:
    """A name that is no longer than this, so that a legend or an axis has room for it."""
    return name if len(name) <= characters else name[: characters - 1].rstrip() + "…"


def percent(share: float) -> str:
    """A share of 1 in whole percent; '>99%' and '<1%' rather than a rounded 100% or 0%."""
    if 0.99 < share < 0.99995:
        return f"{100 * share:.2g}%" if share < 0.995 else ">99%"
    if 0 < share < 0.01:
        return "<1%"
    return f"{100 * share:.0f}%"
