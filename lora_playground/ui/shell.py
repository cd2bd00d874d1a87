"""What every tab gets: the run store, the queue, which runs are ticked, and small parts that tabs are made of.

It knows no tab.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.plot import PlotData

from lora_playground.errors import PlaygroundError
from lora_playground.plots import run_colour
from lora_playground.ui.words import escape

if TYPE_CHECKING:
    from lora_playground.chat.client import ChatClient
    from lora_playground.jobs.supervisor import Supervisor
    from lora_playground.runs import Run, RunStore
    from lora_playground.sweeps import SweepScheduler
    from lora_playground.ui.identity import Identity

SLOTS = 4
"""How many runs can be ticked at once; a run keeps its slot, and so its colour, while it is ticked."""

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""How an event is connected that only draws: at once, beside the queue, without a spinner, in no public API."""
LATEST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
"""As QUIET, for what draws the ticked runs: a change that comes while one is being drawn is drawn next, not dropped."""
SETS: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""How an event is connected that changes something or takes long: in the queue, as many at once as there are."""


@dataclass(frozen=True)
class Shown:
    """A ticked run with the colour it has everywhere."""

    run: Run
    colour: str
    slot: int


@dataclass(frozen=True)
class Shell:
    """The app around the tabs.

    A tab is a module with `build(shell, tab)`, called inside `with tab:`; it listens to `ticked.change`, `tab.select`.

    Attributes:
        home: folder of runs and uploads.
        store, supervisor: runs on disk, and the queue.
        sweeps: the home's sweeps; None where there is no queue.
        ticked: gr.State holding `SLOTS` entries, each a run id or "".
        client, identity: the chat process's side here, and who visitors are; None where there is no page.
        tuning: gr.State of {run id: {'strength', 'keep', 'cut'}}, shared with Chat; `cut` is [lo, hi) or None.
    """

    home: Path
    store: RunStore
    supervisor: Supervisor
    ticked: gr.State
    sweeps: SweepScheduler | None = None
    tuning: gr.State = field(default_factory=lambda: gr.State({}))
    client: ChatClient | None = None
    identity: Identity | None = None

    def visitor(self, request: gr.Request | None) -> str:
        """Who sent a request, '' where that is not known."""
        return self.identity.of(request) if self.identity is not None else ""

    def shown(self, ticked: Sequence[str]) -> list[Shown]:
        """The ticked runs that still exist and can be read, in the order of their slots."""
        found = []
        for slot, identity in enumerate(ticked[:SLOTS]):
            if identity:
                try:
                    run = self.store.get(identity)
                    run.config()
                    found.append(Shown(run, run_colour(slot), slot))
                except PlaygroundError:
                    continue
        return found


def toggled(ticked: list[str], identity: str) -> list[str]:
    """Ticks or unticks a run; a new one takes the first free slot, or the last where none is free."""
    if identity in ticked:
        return ["" if one == identity else one for one in ticked]
    return with_ticked(ticked, [identity])


def with_ticked(ticked: list[str], identities: list[str]) -> list[str]:
    """Ticks runs; those ticked already keep their slot, and so their colour."""
    slots = list(ticked)
    fresh = [identity for identity in identities if identity not in slots][:SLOTS]
    for number, identity in enumerate(fresh):
        slots[slots.index("") if "" in slots else SLOTS - 1 - number] = identity
    return slots


def draw(figure: Mapping[str, Any]) -> PlotData:
    """A figure of `plots` as the value of a gr.Plot; make that one with elem_classes="lp-plot" and show_label=False."""
    return PlotData(type="plotly", plot=json.dumps(figure, separators=(",", ":"), allow_nan=False))


def points(plot_id: str) -> gr.HTML:
    """An invisible part whose event `point` tells of clicks in the plot with that elem_id.

    The listener takes `event: gr.EventData` with `x`, `y`, `z` and `custom` (the point's customdata).
    """
    return gr.HTML("", js_on_load=f"lp.points(trigger, '{plot_id}'); // 'point'", elem_classes="lp-hidden")


def filled(elem_id: str, **more: Any) -> gr.HTML:
    """A place that the page's script fills from the live route. Gradio never writes into it."""
    return gr.HTML("", html_template='<div class="lp-live"></div>', apply_default_css=False, elem_id=elem_id, **more)


def actions(value: str = "", **more: Any) -> gr.HTML:
    """HTML of ours in which a click on an element with data-act fires the event `act`.

    The listener takes `event: gr.EventData` with `act`, `id` and `value`, from data-act, data-id and data-value.
    """
    return gr.HTML(value, js_on_load="lp.acts(element, trigger); // 'act'", apply_default_css=False, **more)


def note(sentence: str) -> str:
    """A sentence in quiet type, such as the one under a picture; '' stays ''."""
    return f'<p class="lp-note">{escape(sentence)}</p>' if sentence else ""


def picture(elem_id: str) -> tuple[gr.Plot, gr.HTML]:
    """A plot, and the sentence under it."""
    plot = gr.Plot(show_label=False, elem_classes="lp-plot", elem_id=elem_id)
    return plot, gr.HTML("", apply_default_css=False, elem_classes="lp-words", elem_id=f"{elem_id}-words")


def heading(title: str, small: str, folded: str | None = None) -> None:
    """A section's title. In a tab whose sections open and close, those with `folded` are closed at first: "yes", or
    "pair" where they open once two runs are ticked."""
    fold = f' data-fold="{folded}"' if folded else ""
    gr.HTML(f'<h2 class="lp-section"{fold}>{title} <small>{small}</small></h2>', apply_default_css=False)
