"""The description of a method: one sentence, its equation, how many numbers it trains, and its matrices drawn to scale.

All of it comes from the variant's declaration and the headers of the model's files. No weights are loaded.
"""

from __future__ import annotations

from typing import Any

from lora_playground.config import RunConfig, options
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.estimates.parameters import modules_of
from lora_playground.ui import cards, pictures
from lora_playground.ui.words import count, escape, share
from lora_playground.variants import VARIANTS
from lora_playground.variants.targets import select

_NOT_DRAWN = '<p class="lp-note">There is no such update to draw; under Budget stands why.</p>'
"""In place of a picture. The error message is shown in one place only, near the fields that may be wrong."""

DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]


def has_rank(name: str | None) -> bool:
    """Whether a variant has the option rank."""
    return name in VARIANTS and any(option.path == "rank" for option in options(VARIANTS[name].config))


def equation(name: str | None) -> str:
    """The adapted layer, and how many numbers train in it, as LaTeX in Markdown; conditions get lines of their own,
    since the form is narrow."""
    if name not in VARIANTS:
        return ""
    card = VARIANTS[name].card
    lines = card.equation.split(r",\quad ")
    layer = lines[0] if len(lines) == 1 else r"\begin{gathered} " + r" \\ ".join(lines) + r" \end{gathered}"
    return f"$$\n{layer}\n$$\n\nTrained in an $m \\times n$ module: ${card.parameters}$"


def card(name: str | None) -> str:
    """The method in words: one sentence, what is frozen, the paper, notes."""
    if name not in VARIANTS:
        return cards.error("No variant is installed.")
    card = VARIANTS[name].card
    notes = f"<dt>Note</dt><dd>{escape(card.notes)}</dd>" if card.notes else ""
    return (
        f'<div class="lp-method"><p>{escape(card.sentence)}</p><dl><dt>Frozen</dt><dd>{escape(card.frozen)}</dd>'
        f'<dt>Paper</dt><dd><a href="{escape(card.url)}" target="_blank" rel="noopener noreferrer">'
        f"{escape(card.paper)}</a></dd>{notes}</dl></div>"
    )


def picture(data: dict[str, Any], source: str) -> str:
    """The method's factors to scale in this model's commonest module, and how many numbers train in all.

    Args:
        data: the variant's options with its name; source: the base model.
    """
    variant = VARIANTS.get(data["name"])
    if variant is None:
        return ""
    try:
        modules = modules_of(source)
        if not modules:
            return '<p class="lp-note">The model is not on this disk yet; its sizes are known after it was fetched.</p>'
        config: Any = RunConfig.parse({"variant": data}).variant
        # A variant that cannot be told which modules to adapt trains all parameters, not only linear modules.
        targets = getattr(config, "target_modules", None)
        adapted = select(modules.linear, targets) if targets else modules.linear
        variant.check(config, modules.linear, max(variant.bits))
        shapes: Any = adapted.values() if targets else modules.tensors
        trained = variant.count(shapes, config)
    except ConfigError as failure:
        return "" if failure.field == "model.source" else _NOT_DRAWN  # the model's step says it
    except PlaygroundError:
        return _NOT_DRAWN
    sizes = list(adapted.values())
    typical = max(dict.fromkeys(sizes), key=sizes.count)
    parts = variant.parts(typical, config)
    one = sum(part.count for part in parts)
    line = f"{count(trained)} of {count(modules.total)} numbers are trained ({share(trained, modules.total)})"
    exact = f"{one:,} in a module of {typical[0]} × {typical[1]}, {trained:,} in all {len(sizes)} modules"
    if not targets:
        exact += ", embeddings and norms"
    head = f"Rank r = {data['rank']}" if "rank" in data else "No rank to choose"
    return (
        f'<div class="lp-rank"><div class="big" aria-live="polite">{head}</div>{pictures.factors(parts)}'
        f"{pictures.bar(trained, modules.total, line)}<p class='lp-note'>{line}: {exact}.</p></div>"
    )
