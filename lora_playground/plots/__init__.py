"""Figures as plain Plotly dictionaries, and a sentence for each; made of numbers and events, without Gradio or files.

Every builder returns {"data", "layout", "config"}; every picture has a `describe_*` that says in words what it shows.
"""

from lora_playground.plots.adapter_map import adapter_map_figure, describe_adapter_map
from lora_playground.plots.compare import (
    Point,
    cut_figure,
    describe_cut,
    describe_scatter,
    pareto,
    scatter_figure,
)
from lora_playground.plots.directions import describe_directions, directions_figure
from lora_playground.plots.relations import (
    alignment_figure,
    amplification_figure,
    describe_alignment,
    describe_amplification,
    describe_intruders,
    describe_similarity,
    intruder_figure,
    overlap_figure,
    square_figure,
)
from lora_playground.plots.spectrum import (
    MEASURES,
    cell_of,
    describe_map,
    describe_ranks,
    describe_scree,
    energy_figure,
    map_figure,
    module_grid,
    scree_figure,
)
from lora_playground.plots.style import RUN_COLOURS, run_colour, significant
from lora_playground.plots.training import (
    describe_loss,
    loss_figure,
    losses_figure,
)

__all__ = [
    "MEASURES",
    "RUN_COLOURS",
    "Point",
    "adapter_map_figure",
    "alignment_figure",
    "amplification_figure",
    "cell_of",
    "cut_figure",
    "describe_adapter_map",
    "describe_alignment",
    "describe_amplification",
    "describe_cut",
    "describe_directions",
    "describe_intruders",
    "describe_loss",
    "describe_map",
    "describe_ranks",
    "describe_scatter",
    "describe_scree",
    "describe_similarity",
    "directions_figure",
    "energy_figure",
    "intruder_figure",
    "loss_figure",
    "losses_figure",
    "map_figure",
    "module_grid",
    "overlap_figure",
    "pareto",
    "run_colour",
    "scatter_figure",
    "scree_figure",
    "significant",
    "square_figure",
]
