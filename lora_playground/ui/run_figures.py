"""The figures of a run with their sentences, as plain data that the page's script draws. No Gradio."""

from __future__ import annotations

from typing import Any

from lora_playground import plots
from lora_playground.plots.spectrum import short_name, usual_module
from lora_playground.plots.style import RUN_COLOURS, empty
from lora_playground.runs.history import RunProgress

COLOUR = RUN_COLOURS[0]
"""Colour of the figures as they are sent. The page gives them the colour that the run has there."""


def curve(progress: RunProgress, since: int) -> dict[str, Any]:
    """The points of the loss since version `since`, its sentence and, for a page without points, the figure."""
    points = progress.curve(since)
    points["words"] = plots.describe_loss(progress)
    if points["kept"] == [0, 0]:
        points["figure"] = plots.loss_figure(progress, COLOUR)
    return points


def pictures(progress: RunProgress, module: str, rank: int | None, ended: str = "") -> dict[str, Any]:
    """The map of all modules and the scree of one, with their sentences.

    A run that has ended without spectra is `bare`: in place of both pictures a sentence says why. `ended`: the state in
    which it ended, '' while it has not.
    """
    spectra = progress.spectra.get("spectra", {})
    names = list(spectra) or [entry[0] for entry in progress.plan.get("modules", [])]
    if module not in names:
        module = usual_module(names)
    shown = {"module": module, "modules": [[short_name(name), name] for name in names]}
    if not progress.spectra:
        why = "The first spectrum comes soon after training begins."
        none = "No spectra were taken while it trained. Those of its end are in the tab Spectrum."
        said = {"": "", "done": none}.get(ended, "It ended before its first spectrum was taken.")
        return shown | {
            "bare": bool(ended),
            "map": empty(why, plots.MEASURES["effective_rank"][0], 360),
            "map_words": said,
            "scree": empty(why, "Singular values of ΔW", 354),
            "scree_words": "",
        }
    ranks, values = progress.spectra.get("effective_rank", {}), spectra.get(module, [])
    if rank and sum(value > 1e-6 * values[0] for value in values) > rank:
        rank = None  # an update with more directions than its factors have, such as DoRA's, has no such budget
    shape = next((entry[1:] for entry in progress.plan.get("modules", []) if entry[0] == module), [0])
    words = plots.describe_scree("", values, rank=rank)
    if rank is None and values and values[-1] > 0 and len(values) < min(shape):
        words = f"At least {words}"  # events hold the strongest values alone
    return shown | {
        "map": plots.map_figure(ranks, selected=module),
        "map_words": plots.describe_map(ranks),
        "scree": plots.scree_figure([("", COLOUR, values)], rank=rank, module=module),
        "scree_words": words,
    }
