"""What every tab gets: the run store, the queue, the ticked runs, and small elements that several tabs use.

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
"""How many runs can be ticked at once. A run keeps its slot, and so its colour, while it is ticked."""

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options for events that only draw: not queued, without a spinner, in no public API."""
LATEST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
"""Like QUIET, for events that draw the ticked runs: a change during a draw is drawn afterwards instead of dropped."""
SETS: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Options for events that change something or take long: queued, any number at a time."""


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
        sweeps: queues the runs of sweeps; None without a queue.
        ticked: gr.State with `SLOTS` entries, each a run id or "".
        client, identity: client of the chat process, and what identifies visitors; None without a page.
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
        """The visitor who sent a request; '' if unknown."""
        return self.identity.of(request) if self.identity is not None else ""

    def shown(self, ticked: Sequence[str]) -> list[Shown]:
        """The ticked runs that exist and can be read, in the order of their slots."""
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

    def with_update(self, ticked: Sequence[str]) -> list[tuple[str, str]]:
        """(label, id) of the ticked runs that have a saved update."""
        return [(one.run.label, one.run.id) for one in self.shown(ticked) if one.run.update_path.is_file()]


def toggled(ticked: list[str], identity: str) -> list[str]:
    """Ticks or unticks a run. A newly ticked run gets the first free slot, or the last one if none is free."""
    if identity in ticked:
        return ["" if one == identity else one for one in ticked]
    return with_ticked(ticked, [identity])


def with_ticked(ticked: list[str], identities: list[str]) -> list[str]:
    """Ticks further runs. Those that are ticked keep their slot, and so their colour."""
    slots = list(ticked)
    fresh = [identity for identity in identities if identity not in slots][:SLOTS]
    for number, identity in enumerate(fresh):
        slots[slots.index("") if "" in slots else SLOTS - 1 - number] = identity
    return slots


def draw(figure: Mapping[str, Any]) -> PlotData:
    """A figure of `plots` as the value of a gr.Plot that has elem_classes="lp-plot" and show_label=False."""
    return PlotData(type="plotly", plot=json.dumps(figure, separators=(",", ":"), allow_nan=False))


def points(plot_id: str) -> gr.HTML:
    """An invisible element whose event `point` reports clicks in the plot with that elem_id.

    The listener takes `event: gr.EventData` with `x`, `y`, `z` and `custom` (the point's customdata).
    """
    return gr.HTML("", js_on_load=f"lp.points(trigger, '{plot_id}'); // 'point'", elem_classes="lp-hidden")


def filled(elem_id: str, **more: Any) -> gr.HTML:
    """An element that the page's script fills from the live route; Gradio never writes into it."""
    return gr.HTML("", html_template='<div class="lp-live"></div>', apply_default_css=False, elem_id=elem_id, **more)


def actions(value: str = "", **more: Any) -> gr.HTML:
    """HTML in which a click on an element with data-act fires the event `act`.

    The listener takes `event: gr.EventData` with `act`, `id` and `value`, from data-act, data-id and data-value.
    """
    return gr.HTML(value, js_on_load="lp.acts(element, trigger); // 'act'", apply_default_css=False, **more)


def note(sentence: str) -> str:
    """A sentence in small grey type, such as the one under a plot; '' for ''."""
    return f'<p class="lp-note">{escape(sentence)}</p>' if sentence else ""


def picture(elem_id: str) -> tuple[gr.Plot, gr.HTML]:
    """A plot, and the sentence under it."""
    plot = gr.Plot(show_label=False, elem_classes="lp-plot", elem_id=elem_id)
    return plot, gr.HTML("", apply_default_css=False, elem_classes="lp-words", elem_id=f"{elem_id}-words")


def heading(title: str, small: str, folded: str | None = None) -> None:
    """A section's title. `folded` makes the section closed at first: "yes", or "pair" for one that opens once two runs
    are ticked."""
    fold = f' data-fold="{folded}"' if folded else ""
    gr.HTML(f'<h2 class="lp-section"{fold}>{title} <small>{small}</small></h2>', apply_default_css=False)
