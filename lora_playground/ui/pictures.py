"""Small inline pictures as SVG or HTML text: matrices to scale, a spark of a loss, chat bubbles. Everything that comes
from a person, a file or a model is escaped here; it knows no Gradio and no run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lora_playground.ui.words import escape

ROLES = {"system": "Instruction", "user": "Person", "assistant": "Model"}


def matrices(out: int, into: int, rank: int | None) -> str:
    """W, and beside it B and A drawn to the same scale; without a rank, a second full matrix.

    Args:
        out, into: shape of W as (out, in). rank: r, or None where the update has no factors.
    """
    scale = 118 / max(out, into)
    height, width = out * scale, into * scale
    top = 22.0
    parts = [_box("W", "frozen", 0, top, width, height, f"{out} × {into}")]
    x = width + 30
    parts.append(_sign("+", width + 15, top + height / 2))
    if rank is None:
        parts.append(_box("ΔW", "trained", x, top, width, height, f"{out} × {into}"))
        words = f"W is {out} by {into}, and the update has just as many numbers."
        total = x + width
    else:
        shown = min(rank, out, into)
        thin = max(1.5, shown * scale)
        parts.append(_box("B", "trained", x, top, thin, height, f"{out} × {rank}"))
        # A stands to the right of B, its top edge level with B's: the product's shape reads off the outer edges.
        ax = x + max(thin, 34) + 26
        parts.append(_sign("·", ax - 13, top + height / 2))
        parts.append(_box("A", "trained", ax, top + (height - thin) / 2, width, thin, f"{rank} × {into}"))
        words = f"To scale: W is {out} by {into}; B is {out} by {rank} and A is {rank} by {into}."
        total = ax + width
    return (
        f'<svg class="lp-matrices" viewBox="-4 0 {total + 8:.0f} {top + height + 24:.0f}" role="img" '
        f'aria-label="{escape(words)}">{"".join(parts)}</svg>'
    )


def _box(name: str, kind: str, x: float, y: float, width: float, height: float, shape: str) -> str:
    middle = x + width / 2
    return (
        f'<text class="name" x="{middle:.1f}" y="{y - 7:.1f}">{name}</text>'
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'
        f'<text class="shape" x="{middle:.1f}" y="{y + height + 15:.1f}">{shape}</text>'
    )


def _sign(sign: str, x: float, y: float) -> str:
    return f'<text class="sign" x="{x:.1f}" y="{y + 5:.1f}">{sign}</text>'


def spark(values: Sequence[float], width: int = 56, height: int = 18) -> str:
    """A loss curve as small as a word; empty where there are fewer than two points."""
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
    """The first rows of a dataset as short chats; long texts are cut with an ellipsis."""
    chats = []
    for row in list(rows)[:limit]:
        lines = []
        messages = row.get("messages") or [{"role": "assistant", "content": row.get("text", "")}]
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
    """A thin bar of a share, from 0 to 1, with its words for a screen reader."""
    value = 0.0 if whole <= 0 else min(1.0, max(0.0, part / whole))
    width = max(0.4, 100 * value)
    return f'<div class="lp-bar" role="img" aria-label="{escape(label)}"><i style="width:{width:.2f}%"></i></div>'
