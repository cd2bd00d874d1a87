"""Lab, section Sweep: many runs that differ in a few options, as one thing."""

from __future__ import annotations

import gradio as gr

from lora_playground.ui.shell import Shell, note


def build(shell: Shell, tab: gr.Tab, section: gr.Tab) -> None:
    """Makes the section where it is called."""
    gr.HTML(
        note("A sweep is started under Fine-tune, in 'Sweep: several runs with one click'."), apply_default_css=False
    )
