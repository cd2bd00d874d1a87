"""Figures as plain Plotly dictionaries, and a sentence for each; made of numbers and events, without Gradio or files.

Every builder returns {"data", "layout", "config"}; every picture has a `describe_*` that says in words what it shows.
"""

from lora_playground.plots.spectrum import (
    MEASURES,
    cell_of,
    describe_map,
    describe_scree,
    energy_figure,
    map_figure,
    module_grid,
    scree_figure,
)
from lora_playground.plots.style import CSS, RUN_COLOURS, run_colour, significant
from lora_playground.plots.training import (
    LossSeries,
    describe_loss,
    loss_figure,
    loss_series,
    losses_figure,
    sparkline,
)

__all__ = [
    "CSS",
    "MEASURES",
    "RUN_COLOURS",
    "LossSeries",
    "cell_of",
    "describe_loss",
    "describe_map",
    "describe_scree",
    "energy_figure",
    "loss_figure",
    "loss_series",
    "losses_figure",
    "map_figure",
    "module_grid",
    "run_colour",
    "scree_figure",
    "significant",
    "sparkline",
]
