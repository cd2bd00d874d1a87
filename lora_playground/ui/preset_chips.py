"""The presets of the form's budget: a chip for each, and the measured results of the one that the form holds.

The presets' options and results are in `lora_playground.presets`.
"""

from __future__ import annotations

from lora_playground.config import RunConfig
from lora_playground.presets import PURPOSES, measured, preset_of
from lora_playground.ui.words import escape


def preset_chips(config: RunConfig | None) -> str:
    """The chips as HTML, the config's preset pressed, and under them what that preset reached; `config` is None while
    the form holds something that is refused."""
    name = config and preset_of(config)
    chips = "".join(
        f'<button class="lp-preset" data-act="preset" data-id="{preset}" aria-pressed="{str(preset == name).lower()}" '
        f'title="{escape(purpose)}">{preset.capitalize()}</button>'
        for preset, purpose in PURPOSES.items()
    )
    said = _reached(config) or f"{escape(PURPOSES[name])}." if config and name else "Settings of your own."
    return f'<div class="lp-presets" role="group" aria-label="Presets">{chips}</div><p class="lp-note">{said}</p>'


def _reached(config: RunConfig) -> str:
    """What was measured with just these settings, as HTML; '' if nothing was."""
    found = measured(config)
    if not found:
        return ""
    seeds = "one seed" if len(found) == 1 else f"{len(found)} seeds"
    score, kept = (_range([one[key] for one in found]) for key in ("score", "kept"))
    return f"Measured with these settings: score <b>{score}</b>, base skills kept <b>{kept}</b> ({seeds}, float32)."


def _range(shares: list[float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{low}%" if low == high else f"{low} to {high}%"
