"""Lab, section Dials: a run's score and what it forgot over the strength of its update, or of its intruders.

`lab.process` scores; this process holds no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from lora_playground.errors import PlaygroundError
from lora_playground.lab.process import work
from lora_playground.lab.slices import over_position
from lora_playground.plots.dials import describe_dial, dial_figure
from lora_playground.ui import cards, controls
from lora_playground.ui.controls import offer_one
from lora_playground.ui.shell import LATEST, SETS, Shell, draw, note, picture

WAYS = (("Strength of the update, −2 to 2", "strength"), ("Strength of its intruders, 0 to 2", "intruders"),
        ("Slice of W from which runs like it started", "slice"))  # fmt: skip
ABOUT = (
    "Turn one thing of a run up and down, and see score and forgetting at every place. Below 0 an update is taken away "
    "from W (task negation). Intruders are leading directions of W + ΔW that resemble none of W's; λ scales their "
    "singular values in W + ΔW."
)


class Dials:
    """The section and its events."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def build(self, tab: gr.Tab, section: gr.Tab) -> None:
        """Makes the parts where it is called."""
        gr.HTML(note(ABOUT), apply_default_css=False)
        with gr.Row(elem_classes="lp-lab-form", equal_height=False):
            self.run = controls.Dropdown(
                [], label="Run", info="finished, and ticked in the list", elem_id="lp-dial-run", min_width=220
            )
            self.way = controls.Radio(
                list(WAYS), value="strength", label="Dial", elem_classes="lp-chips", elem_id="lp-dial-way"
            )
        self.turn = gr.Button("Turn it and score", variant="primary", elem_id="lp-dial-turn")
        self.said = gr.HTML("", apply_default_css=False, elem_id="lp-dial-said")
        with gr.Column(visible=False, elem_id="lp-dial-found") as self.found:
            self.picture, self.words = picture("lp-dial-picture")
        for trigger in (tab.select, section.select, self._shell.ticked.change):
            trigger(self.offered, [self._shell.ticked, self.run], self.run, **LATEST)
        shows = [self.said, self.found, self.picture, self.words, self.turn]
        self.turn.click(self.turned, [self.run, self.way], shows, **SETS)

    def offered(self, ticked: list[str], run: str | None) -> Any:
        """The ticked runs that have an update; the first is chosen if `run` is none of them."""
        return offer_one(self._shell.with_update(ticked), run)

    async def turned(self, run: str | None, way: str) -> AsyncGenerator[tuple[Any, ...], None]:
        """Yields progress, then the figure."""
        skip = gr.skip()
        if not run:
            yield cards.error("Tick a finished run in the list first."), skip, skip, skip, skip
            return
        try:
            if way == "slice":
                found = over_position(self._shell.store, run)
                figure, words = draw(dial_figure(found)), note(describe_dial(found))
                yield "", gr.update(visible=True), figure, words, skip
                return
            yield note("Loading the base model …"), skip, skip, skip, gr.update(interactive=False)
            steps = work(self._shell.home, {"kind": "dial", "run": run, "of": way, "rows": 24})
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                if "found" in step:
                    figure, words = draw(dial_figure(step["found"])), note(describe_dial(step["found"]))
                    yield "", gr.update(visible=True), figure, words, gr.update(interactive=True)
                else:
                    yield note(f"Place {step['done']} of {step['of']} …"), skip, skip, skip, skip
        except PlaygroundError as failure:
            # The picture of another dial would be taken for this one's.
            yield cards.error(str(failure)), gr.update(visible=False), skip, skip, gr.update(interactive=True)


def build(shell: Shell, tab: gr.Tab, section: gr.Tab) -> None:
    """Makes the section where it is called."""
    Dials(shell).build(tab, section)
