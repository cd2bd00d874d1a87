"""Places names beside marks in a picture, so that they cover neither each other nor a mark. It knows no run."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, low, right and high end in parts of the picture's width and height."""

LETTER, DOT = (0.0175, 0.075), (0.03, 0.03)
"""About how much of the picture's width and height a letter takes, and half of a run's mark, on a laptop's screen."""
BAR = 0.012
"""Half of the width of an interval's ends."""


def beside(
    at: Sequence[float],
    up: Sequence[float],
    names: Sequence[str],
    order: Sequence[int],
    bars: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """Plotly's `textposition` of each name, "" if there is no free place; the name then only appears on hovering.

    A name is kept off other names, marks and, where that can be, intervals. It is tried towards the middle first, where
    neither end cuts it.

    Args:
        at, up: places of the marks in parts of the picture's width and height.
        names: text beside each; "" for none.
        order: which mark chooses first. bars: low and high end of each mark's interval.
    """
    dots = [(a - DOT[0], u - DOT[1], a + DOT[0], u + DOT[1]) for a, u in zip(at, up)]
    lines = [(a - BAR, low, a + BAR, high) for a, (low, high) in zip(at, bars)]
    found, taken = [""] * len(names), list[Box]()
    for i in (i for i in order if names[i]):
        others = [
            *taken,
            *(dot for j, dot in enumerate(dots) if not (abs(at[j] - at[i]) < DOT[0] and abs(up[j] - up[i]) < DOT[1])),
        ]
        intervals = [line for j, line in enumerate(lines) if j != i]
        for avoided in ([*others, *intervals], others):
            place = next(
                (p for p in _around(at[i], up[i], names[i]) if not any(_meet(p[1], one) for one in avoided)), None
            )
            if place is not None:
                found[i] = place[0]
                taken.append(place[1])
                break
    return found


def _around(at: float, up: float, name: str) -> list[tuple[str, Box]]:
    """The places beside a mark in which its name is not cut, the best first."""
    wide, found = LETTER[0] * len(name), []
    for side in ("left", "right") if at > 0.55 else ("right", "left"):
        left = at - DOT[0] - wide if side == "left" else at + DOT[0]
        for over, low in (("top", up + DOT[1]), ("bottom", up - DOT[1] - LETTER[1])):
            if left >= 0 and left + wide <= 1.05 and low >= 0:  # below stand the axis's numbers
                found.append((f"{over} {side}", (left, low, left + wide, low + LETTER[1])))
    return found


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
