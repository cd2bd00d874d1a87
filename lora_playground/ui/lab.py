"""The tab Lab: which rank, which direction, which mixture. A thin frame; each section is a module of its own.

A section's module has `build(shell, tab, section)`: `tab` is this tab and `section` the one inside it, to whose
`select` it may listen.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from lora_playground.ui import lab_sweep
from lora_playground.ui.shell import Shell

SECTIONS: tuple[tuple[str, str, Callable[[Shell, gr.Tab, gr.Tab], None]], ...] = (
    ("sweep", "Sweep", lab_sweep.build),
)  # fmt: skip
"""(id, title, what builds it), in the order of the page."""


def build(shell: Shell, tab: gr.Tab) -> None:
    """Makes the sections where it is called, inside `with tab:`."""
    with gr.Tabs(elem_id="lp-lab-tabs"):
        for name, title, make in SECTIONS:
            with gr.Tab(title, id=name, elem_id=f"lp-lab-{name}") as section:
                make(shell, tab, section)
