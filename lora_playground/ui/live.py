"""The right side of the tab Fine-tune: elements that the page's script fills from the live route, and buttons for what
people do with a run. It starts no run and draws nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from lora_playground.ui.exports import Exports
from lora_playground.ui.shell import filled

WAYS = (("chat", "Chat with it", "primary"), ("spectrum", "See its spectrum", "secondary"),
        ("compare", "Compare runs", "secondary"))  # fmt: skip
"""Buttons below a finished run that open other tabs: (tab, label, Gradio's variant of the button)."""


@dataclass
class Live:
    """The parts that the frame connects."""

    stop: gr.Button
    resume: gr.Button
    fresh: gr.Button
    problem: gr.HTML


def build(exports: Exports) -> Live:
    """Makes the elements where it is called; `exports` offers a finished run as files.

    The page's script writes the run's state on #lp-view, by which the style sheet shows or hides elements.
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
    """Path, relative to the page, of a script that ships with Gradio: 'PlotlyPlot' sets window.Plotly, 'katex' exports
    KaTeX. '' if this version of Gradio has no such script."""
    folder = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    return next((f"assets/{path.name}" for path in sorted(folder.glob(f"{name}-*.js"))), "")
