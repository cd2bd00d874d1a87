"""Small inline pictures as SVG or HTML text: matrices to scale, a spark of a loss, chat bubbles. Everything that comes
from a person, a file or a model is escaped here; it knows no Gradio and no run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lora_playground.ui.words import escape
from lora_playground.variants.base import Part

ROLES = {"system": "Instruction", "user": "Person", "assistant": "Model"}


SIDE, LINE, SLOT = 118.0, 330.0, 34.0
"""In pixels: W's longer side; the width at which a line is broken; the least width of a matrix with its label."""


def factors(parts: Sequence[Part]) -> str:
    """The matrices of an adapted layer, frozen and trained, to the scale of W, with the signs between them."""
    scale = SIDE / max(max(part.rows, part.columns) for part in parts if part.name == "W")
    drawn: list[str] = []
    top, widest = 22.0, 0.0
    for line in _lines(parts, scale):
        tallest, x = max(part.rows * scale for part in line), 0.0
        for part in line:
            width, height, slot = max(1.5, part.columns * scale), max(1.5, part.rows * scale), _slot(part, scale)
            if part.before:
                drawn.append(_sign(part.before, x + _sign_width(part.before) / 2, top + tallest / 2))
                x += _sign_width(part.before)
            left = x + (slot - width) / 2
            drawn.append(_box(part, left, top + (tallest - height) / 2, width, height, top + tallest + 15))
            x += slot
            if part.after:
                drawn.append(_sign(part.after, x + _sign_width(part.after) / 2, top + tallest / 2))
                x += _sign_width(part.after)
        top, widest = top + tallest + 50, max(widest, x)
    sizes = "; ".join(
        f"{part.name} is {part.rows} by {part.columns}, "
        + (f"{part.count:,} trained numbers" if part.trained else "frozen")
        for part in parts
    )
    return (
        f'<svg class="lp-matrices" viewBox="-4 0 {widest + 8:.0f} {top - 24:.0f}" role="img" '
        f'style="--wide:{widest + 8:.0f}px" aria-label="{escape(f"To scale: {sizes}.")}">{"".join(drawn)}</svg>'
    )


def _lines(parts: Sequence[Part], scale: float) -> list[list[Part]]:
    """The parts in lines of at most `LINE` pixels, except for single parts that are wider."""
    lines: list[list[Part]] = []
    x = 0.0
    for part in parts:
        needed = _sign_width(part.before) + _slot(part, scale) + _sign_width(part.after)
        if not lines or part.again or x + needed > LINE:
            lines.append([])
            x = 0.0
        lines[-1].append(part)
        x += needed
    return lines


def _slot(part: Part, scale: float) -> float:
    return max(part.columns * scale, SLOT, 7.5 * len(_under(part)))


def _sign_width(sign: str) -> float:
    return 10.0 * len(sign) + 8 if sign else 0.0


def _under(part: Part) -> str:
    """The label of a part: its shape, or how many scattered entries it has."""
    return f"{part.count:,} numbers" if part.pattern == "scattered" else f"{part.rows} × {part.columns}"


def _box(part: Part, x: float, y: float, width: float, height: float, under: float) -> str:
    middle, kind = x + width / 2, "trained" if part.trained else "frozen"
    whole = part.pattern in ("", "grid")
    return (
        f'<text class="name" x="{middle:.1f}" y="{y - 7:.1f}">{escape(part.name)}</text>'
        f'<rect class="{kind if whole else "void"}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="1.5"/>{_pattern(part, kind, x, y, width, height)}'
        f'<text class="shape" x="{middle:.1f}" y="{under:.1f}">{_under(part)}</text>'
    )


def _pattern(part: Part, kind: str, x: float, y: float, width: float, height: float) -> str:
    """The marks of a part that is no dense matrix: its diagonal, its blocks and the lines between them, or entries."""
    if part.pattern == "diagonal":
        return f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{x + width:.1f}" y2="{y + height:.1f}"/>'
    shown = min(part.blocks, 64)
    if part.pattern == "blocks":
        w, h = width / shown, height / shown
        return "".join(_tile(kind, x + i * w, y + i * h, w, h) for i in range(shown))
    if part.pattern == "grid":
        shares = [number / shown for number in range(1, shown)]
        if height >= width:
            return "".join(_cut(x, y + height * share, x + width, y + height * share) for share in shares)
        return "".join(_cut(x + width * share, y, x + width * share, y + height) for share in shares)
    if part.pattern == "scattered":
        # Dots, at most 160, cover the same share of the area as the entries do; their places are always the same.
        area = width * height * min(1.0, part.count / (part.rows * part.columns))
        dots = max(1, min(160, round(area / 4)))
        side = (area / dots) ** 0.5
        places = [((i * 0.7548777) % 1, (i * 0.5698403) % 1) for i in range(1, dots + 1)]
        return "".join(_tile(kind, x + u * (width - side), y + v * (height - side), side, side) for u, v in places)
    return ""


def _cut(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="cut" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _tile(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.2f}"/>'


def _sign(sign: str, x: float, y: float) -> str:
    return f'<text class="sign" x="{x:.1f}" y="{y + 5:.1f}">{escape(sign)}</text>'


def spark(values: Sequence[float], width: int = 56, height: int = 18) -> str:
    """A loss curve as small as a word; '' for fewer than two points."""
    finite = [value for value in values if value == value and abs(value) < 1e30]
    if len(finite) < 2:
        return f'<svg class="lp-spark" width="{width}" height="{height}" aria-hidden="true"></svg>'
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    step = (width - 2) / (len(finite) - 1)
    path = " ".join(
        f"{1 + i * step:.0f},{1 + (height - 2) * (1 - (value - low) / span):.0f}" for i, value in enumerate(finite)
    )
    return (
        f'<svg class="lp-spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<polyline points="{path}"/></svg>'
    )


def bubbles(rows: Iterable[Mapping], limit: int = 3, characters: int = 220) -> str:
    """The first rows of a dataset as short chats, those with different answers first; long texts are cut with an
    ellipsis."""
    chats, first, others = [], dict[str, list[Any]](), list[list[Any]]()
    for row in itertools.islice(rows, 50):
        messages = list(row.get("messages") or [{"role": "assistant", "content": row.get("text", "")}])
        answer = str(messages[-1].get("content", ""))
        if answer in first:
            others.append(messages)
        else:
            first[answer] = messages
    for messages in [*first.values(), *others][:limit]:
        lines = []
        for message in messages:
            role = str(message.get("role", ""))
            text = str(message.get("content", ""))
            cut = text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
            lines.append(
                f'<div class="lp-bubble {"by-model" if role == "assistant" else "by-person"}">'
                f'<span class="lp-sr">{escape(ROLES.get(role, role))}: </span>{escape(cut)}</div>'
            )
        chats.append(f'<li class="lp-chat">{"".join(lines)}</li>')
    return f'<ul class="lp-bubbles" aria-label="Examples from the dataset">{"".join(chats)}</ul>' if chats else ""


def bar(part: float, whole: float, label: str) -> str:
    """A thin bar for the share `part / whole`, with a label for screen readers."""
    value = 0.0 if whole <= 0 else min(1.0, max(0.0, part / whole))
    width = max(0.4, 100 * value)
    return f'<div class="lp-bar" role="img" aria-label="{escape(label)}"><i style="width:{width:.2f}%"></i></div>'
