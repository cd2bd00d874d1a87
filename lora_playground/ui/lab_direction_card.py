"""What a singular direction responds to and promotes, as HTML: words coloured by vᵢᵀx, and tokens with bars, each
beside those of a random direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.ui.words import escape, significant


def card(found: dict[str, Any]) -> str:
    """The card of what `models.direction_reader` has read."""
    top = max((abs(value) for value in found["reads"][1:]), default=0.0) or 1.0
    quiet = " is-quiet" if found["nothing"] else ""
    head = f"Direction {found['index']} of {found['of']}"
    return (
        f'<div class="lp-card lp-direction{quiet}"><h3>{head} '
        f"<small>σ {escape(significant(found['sigma']))}</small></h3>"
        f'<p class="lp-lead">{escape(found["sentence"])}</p>'
        "<h4>What it reads <small>vᵀx at every token: orange with the direction, blue against it</small></h4>"
        f"{_tokens(found['tokens'], found['reads'], top)}"
        '<h4 class="beside">A random direction of equal length, same scale</h4>'
        f"{_tokens(found['tokens'], found['reads_random'], top)}{_says(found)}</div>"
    )


def _tokens(tokens: Sequence[str], values: Sequence[float], top: float) -> str:
    spans = "".join(
        f'<span class="{"with" if value >= 0 else "against"}" style="--v:{min(1.0, abs(value) / top):.2f}" '
        f'title="{escape(repr(token))} {escape(significant(value))}">{_shown(token)}</span>'
        for token, value in zip(tokens, values)
    )
    return f'<p class="lp-reads">{spans}</p>'


def _shown(token: str) -> str:
    """A token's text, in which line breaks are shown by a sign."""
    return escape(token).replace("\n", "↵<br>") or "∅"


def _says(found: dict[str, Any]) -> str:
    says = found["says"]
    if says is None:
        return f'<h4>What it says</h4><p class="lp-note">Not to be read: {escape(found["says_not"])}</p>'
    top = max(says["strongest"], says["chance"]) or 1.0
    columns = "".join(
        f"<div><h5>{title}</h5>{_bars(says[key], top, says['chance'])}</div>"
        for title, key in (
            ("raises", "raised"),
            ("lowers", "lowered"),
            ("a random one raises", "random_raised"),
        )
    )
    share = f"{100 * says['frequency']:.0f}%"
    return (
        "<h4>What it says <small>W<sub>U</sub>·u in deviations of random directions; the line is the most that "
        f"16 random ones reach</small></h4><div class='lp-says'>{columns}</div>"
        f'<p class="lp-note">Plain token frequency explains {share} of the shifts and is taken out.</p>'
    )


def _bars(tokens: Sequence[dict[str, Any]], top: float, chance: float) -> str:
    rows = "".join(
        f'<li><code>{_shown(one["token"])}</code><i style="--w:{abs(one["z"]) / top:.3f};--c:{chance / top:.3f}"'
        f' class="{"out" if abs(one["z"]) > chance else ""}"></i><b>{one["z"]:+.1f}</b></li>'
        for one in tokens
    )
    return f"<ul>{rows}</ul>"
