"""The tab Lab: which rank, which direction, which mixture. Each section is a module of its own.

A section's module has `build(shell, tab, section)`, where `tab` is this tab and `section` the one inside it. The first
section, the sweep, also gets the form of Fine-tune and what identifies visitors.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from lora_playground.ui import lab_dials, lab_directions, lab_forecast, lab_merge, lab_sweep
from lora_playground.ui.finetune import Steps
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import Shell

SECTIONS: tuple[tuple[str, str, Callable[[Shell, gr.Tab, gr.Tab], None]], ...] = (
    ("directions", "Directions", lab_directions.build),
    ("merge", "Merge", lab_merge.build),
    ("dials", "Dials", lab_dials.build),
    ("forecast", "Forecast", lab_forecast.build),
)  # fmt: skip
"""(id, title, function that builds it) in the order of the page, after the sweep."""


def build(shell: Shell, tab: gr.Tab, steps: Steps, identity: Identity) -> None:
    """Makes the sections where it is called, inside `with tab:`."""
    with gr.Tabs(elem_id="lp-lab-tabs"):
        with gr.Tab("Sweep", id="sweep", elem_id="lp-lab-sweep"):
            lab_sweep.build(shell, tab, steps, identity)
        for name, title, make in SECTIONS:
            with gr.Tab(title, id=name, elem_id=f"lp-lab-{name}") as section:
                make(shell, tab, section)
