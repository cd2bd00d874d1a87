"""Curves of singular values as a PNG, for programs and models that take pictures: Pillow alone, no browser.

It draws numbers on a logarithmic axis and knows no run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lora_playground.plots.style import INK, run_colour

SIZE = (900, 520)
_LEFT, _TOP, _RIGHT, _BOTTOM = 92, 64, 24, 64
_LEAST = 1e-4
"""Values below this share of the largest are not drawn; they would flatten all others."""
_MOST = 64
"""The most values of a run that are drawn."""


def scree_png(title: str, series: Sequence[tuple[str, Sequence[float]]]) -> bytes:
    """Singular values in descending order, one line for each of `series`: (label, σ).

    Returns:
        A PNG of 900 × 520 pixels; if all values are zero it says so.
    """
    image = Image.new("RGB", SIZE, "#ffffff")
    pen = ImageDraw.Draw(image)
    pen.text((20, 18), title, fill=INK["text"], font=_font(20))
    drawn = [(label, [float(value) for value in values[:_MOST]]) for label, values in series]
    largest = max((value for _, values in drawn for value in values), default=0.0)
    if largest <= 0:
        said = "The update is zero: nothing has been learned yet."
        pen.text((SIZE[0] / 2, SIZE[1] / 2), said, fill=INK["quiet"], font=_font(16), anchor="mm")
    else:
        _draw(pen, drawn, largest)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def _draw(pen: ImageDraw.ImageDraw, drawn: Sequence[tuple[str, list[float]]], largest: float) -> None:
    shown = [value for _, values in drawn for value in values if value >= _LEAST * largest]
    low, high = math.floor(math.log10(min(shown)) * 4) / 4, math.ceil(math.log10(largest) * 4) / 4
    high = max(high, low + 0.25)
    length = max(len(values) for _, values in drawn)
    width, height = SIZE[0] - _LEFT - _RIGHT, SIZE[1] - _TOP - _BOTTOM

    def place(number: int, value: float) -> tuple[float, float]:
        across = (number + 0.5) / length
        up = (math.log10(max(value, 10**low)) - low) / (high - low)
        return _LEFT + across * width, _TOP + (1 - up) * height

    small = _font(14)
    for value in _ticks(low, high):
        _, y = place(0, value)
        pen.line([(_LEFT, y), (SIZE[0] - _RIGHT, y)], fill=INK["grid"])
        pen.text((_LEFT - 8, y), f"{value:g}", fill=INK["quiet"], font=small, anchor="rm")
    every = max(1, math.ceil(length / 16))
    for number in range(0, length, every):
        x, _ = place(number, 10**low)
        pen.text((x, SIZE[1] - _BOTTOM + 8), str(number + 1), fill=INK["quiet"], font=small, anchor="mt")
    middle = (_LEFT + width / 2, SIZE[1] - 14)
    pen.text(middle, "direction, strongest first", fill=INK["text"], font=small, anchor="mb")
    pen.text((20, _TOP - 14), "singular value (log)", fill=INK["text"], font=small, anchor="lm")
    right = SIZE[0] - _RIGHT
    for slot, (label, values) in enumerate(drawn):
        kept = [place(number, value) for number, value in enumerate(values) if value >= _LEAST * largest]
        colour = run_colour(slot)
        if len(kept) > 1:
            pen.line(kept, fill=colour, width=3, joint="curve")
        for x, y in kept:
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        pen.text((right, _TOP + 6 + 20 * slot), label[:60], fill=colour, font=_font(15), anchor="rt")


def _ticks(low: float, high: float) -> list[float]:
    """Round values between 10^low and 10^high: 1, 2 and 5 of each power of ten, or powers alone over a wide range."""
    steps = (1.0,) if high - low > 3 else (1.0, 2.0, 5.0)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [(math.log10(step) + power, step * 10.0**power) for power in powers for step in steps]
    return [value for place, value in found if low - 1e-9 <= place <= high + 1e-9]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
