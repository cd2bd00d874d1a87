"""The right side of Fine-tune: the places that the page's script fills from the live route, and buttons for what a
person does with a run. It starts no run and draws nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from lora_playground.ui.exports import Exports
from lora_playground.ui.shell import filled

WAYS = (("chat", "Chat with it", "primary"), ("spectrum", "See its spectrum", "secondary"),
        ("compare", "Compare runs", "secondary"))  # fmt: skip
"""Tabs that a finished run opens: (tab, label, look of the button)."""


@dataclass
class Live:
    """The parts that the frame connects."""

    stop: gr.Button
    resume: gr.Button
    fresh: gr.Button
    problem: gr.HTML


def build(exports: Exports) -> Live:
    """Makes the parts where it is called; `exports` offers a finished run as files.

    The style sheet shows what suits the state of the run, which the page writes on #lp-view.
    """
    filled("lp-status")
    with gr.Row(elem_id="lp-stops"):
        stop = gr.Button("Stop (Esc)", variant="stop", elem_id="lp-stop")
    with gr.Row(elem_id="lp-ways"):
        for tab, label, look in WAYS:
            button = gr.Button(label, variant=look, elem_id=f"lp-way-{tab}")  # type: ignore[arg-type]
            button.click(None, None, None, js=f"() => lp.live.show('{tab}')")
        resume = gr.Button("Resume", variant="primary", elem_id="lp-resume")
        fresh = gr.Button("Train it anyway", elem_id="lp-fresh")
    exports.build(visible=True)
    problem = gr.HTML("", apply_default_css=False, elem_id="lp-view-problem")
    filled("lp-probes")
    with gr.Column(elem_id="lp-pictures"):
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            for name in ("loss", "map"):
                with gr.Column(min_width=320):
                    filled(f"lp-{name}", elem_classes="lp-plot")
                    filled(f"lp-{name}-words", elem_classes="lp-words")
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=320):
                filled("lp-scree", elem_classes="lp-plot")
                filled("lp-scree-words", elem_classes="lp-words")
            with gr.Column(min_width=200, elem_id="lp-module-column"):
                filled("lp-module")
    return Live(stop, resume, fresh, problem)


def shipped_script(name: str) -> str:
    """Path, below the page's own, of a script that comes with Gradio: 'PlotlyPlot' sets window.Plotly, 'katex' exports
    what sets formulas. '' where this version of Gradio has none."""
    folder = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    return next((f"assets/{path.name}" for path in sorted(folder.glob(f"{name}-*.js"))), "")
