"""Lab, section Sweep: what is swept, what that costs, and an element in which the page draws the sweep in view.

All options that are not swept are those of the form of Fine-tune. `sweeps` runs it, `sweep_routes` has what is drawn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import gradio as gr

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.machine.device import device
from lora_playground.sweeps import MAX_RUNS, Grid, SweepScheduler, cost
from lora_playground.sweeps.grid import Point
from lora_playground.ui import cards, controls, costs
from lora_playground.ui.controls import CheckboxGroup, Radio
from lora_playground.ui.finetune import RANKS, Steps
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import LATEST, SETS, Shell, filled, heading
from lora_playground.ui.words import count, escape, expected
from lora_playground.variants import VARIANTS
from lora_playground.wording import counted

SEEDS = (1, 2, 3, 5)
_REMEMBERED = 200
"""Number of clicks that are remembered, so that a double click starts only one sweep."""


class SweepForm:
    """The inputs and their events."""

    def __init__(self, shell: Shell, steps: Steps, identity: Identity) -> None:
        assert shell.sweeps is not None
        self._shell, self._steps, self._identity = shell, steps, identity
        self._scheduler: SweepScheduler = shell.sweeps
        self._begun: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def build(self) -> None:
        """Makes the inputs where it is called."""
        heading("Which rank do I need?", "many runs that differ in a few options, as one thing")
        self.base = gr.HTML("", apply_default_css=False, elem_id="lp-sweep-base")
        ranks = [(str(rank), rank) for rank in RANKS]
        self.ranks = CheckboxGroup(ranks, value=[1, 2, 4, 8, 16], label="Ranks", elem_id="lp-sweep-ranks",
                                   elem_classes="lp-chips")  # fmt: skip
        self.seeds = Radio([(str(one), one) for one in SEEDS], value=1, label="Seeds of each", elem_id="lp-sweep-seeds",
                           elem_classes="lp-chips")  # fmt: skip
        with gr.Accordion("Methods and learning rates", open=False, elem_classes="lp-fold", elem_id="lp-sweep-more"):
            listed = [(variant.label, variant.name) for variant in VARIANTS.values()]
            self.variants = controls.Dropdown(
                listed, value=[], multiselect=True, label="Methods", elem_id="lp-sweep-variants",
                info="None ticked: the one in Fine-tune. Others have their own defaults.",
            )  # fmt: skip
            self.rates = gr.Textbox(
                "", label="Learning rates", elem_id="lp-sweep-rates", placeholder="0.001, 0.003, 0.01",
                info="With commas between them; empty takes Fine-tune's.",
            )  # fmt: skip
        self.race = gr.Checkbox(
            False, label="Race", elem_id="lp-sweep-race",
            info="At a quarter and at half of the steps the worse half stops, by validation loss.",
        )  # fmt: skip
        self.cost = gr.HTML("", apply_default_css=False, elem_id="lp-sweep-cost")
        self.problem = gr.HTML("", apply_default_css=False, elem_id="lp-sweep-problem")
        self.start = gr.Button("▶  Start the sweep", variant="primary", elem_id="lp-sweep-start", size="lg")
        self.nonce = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="nonce")
        self.made = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="made")

    def connect(self, tab: gr.Tab) -> None:
        """Connects the inputs."""
        own = {self.ranks, self.seeds, self.variants, self.rates, self.race}
        given = self._steps.inputs() | own
        changes = [tab.select, *(part.change for part in own)]
        gr.on(changes, self.tell, given, [self.base, self.cost, self.problem], **LATEST)
        self.start.click(None, None, self.nonce, js="() => lp.onceNonce()").then(
            self.begin, given | {self.nonce}, [self.made, self.problem], **SETS
        ).success(None, self.made, None, js="(id) => { if (id) lp.sweep.open(id); }")

    def points(self, given: Mapping[Any, Any]) -> tuple[RunConfig, Grid, list[Point]]:
        """(base config, grid, runs) that the inputs describe. Raises ConfigError."""
        base = _named_after_its_data(self._steps.config(given))
        first = base.training.seed
        grid = Grid(
            tuple(sorted(int(rank) for rank in given[self.ranks] or ())),
            tuple(given[self.variants] or ()),
            _rates(given[self.rates]),
            tuple(range(first, first + int(given[self.seeds] or 1))),
        )
        return base, grid, grid.points(base)

    def tell(self, given: dict[Any, Any]) -> tuple[str, str, str]:
        """What all runs share, and what the sweep costs; or an error."""
        try:
            base, grid, points = self.points(given)
            machine = device()
            found = cost.cost(points, bool(given[self.race]), self._shell.store, self._shell.supervisor.slots,
                              machine.kind == "cuda")  # fmt: skip
        except PlaygroundError as failure:
            return "", "", costs.refused(failure)
        return _same(base, grid), _price(found, bool(given[self.race]), base), ""

    def begin(self, given: dict[Any, Any], request: gr.Request) -> tuple[Any, str]:
        """Starts the sweep; in case of an error nothing is started, and the message is shown above the button."""
        click = self._identity.of(request), str(given[self.nonce] or "")
        try:
            with self._lock:
                if click[1] and click in self._begun:
                    return self._begun[click], ""
                base, grid, points = self.points(given)
                sweep = self._scheduler.create(points, grid.label(base), bool(given[self.race]), click[0])
                self._begun[click] = sweep.id
                while len(self._begun) > _REMEMBERED:
                    self._begun.popitem(last=False)
        except PlaygroundError as failure:
            return gr.skip(), costs.refused(failure)
        return sweep.id, ""

    def act(self, event: gr.EventData, request: gr.Request) -> str:
        """Pauses, continues or stops a sweep, if the visitor may."""
        try:
            if event.what in ("run", "pause", "stop"):
                self._scheduler.ask(str(event.id), event.what, self._identity.of(request))
        except PlaygroundError as failure:
            return cards.error(str(failure))
        return ""


def _named_after_its_data(base: RunConfig) -> RunConfig:
    """The config with a title that leaves out method and rank, in which the sweep's runs differ."""
    rank = getattr(base.variant, "rank", None)
    method = f" · {base.variant.name}" + (f" r{rank}" if rank else "")
    return base.model_copy(update={"title": base.title.removesuffix(method)})


def _rates(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in (text or "").replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise ConfigError("learning rates", text, "give numbers with commas, such as 0.001, 0.003") from None


def _same(base: RunConfig, grid: Grid) -> str:
    """What all runs share: Fine-tune's run without the method or the rank where these are swept."""
    name, rank = base.variant.name, getattr(base.variant, "rank", None)
    method = "" if grid.variants else f" · {name}" if grid.ranks else None
    told = f" · {name}" + (f" r{rank}" if rank else "")
    label = base.label if method is None else base.label.replace(told, method, 1)
    return f'<p class="lp-note">Everything else is as in Fine-tune: {escape(label)}.</p>'


def _price(found: cost.Cost, race: bool, base: RunConfig) -> str:
    runs = counted(found.runs, "run", many=f"of at most {MAX_RUNS} runs")
    steps = "" if base.training.seconds is not None else f", {counted(found.steps, 'step', count(found.steps))} in all"
    at_once = f", {found.at_once} at a time" if found.at_once > 1 else ""
    said = f"<b>{runs}</b>{steps}{at_once}. "
    if found.seconds is None:
        said += "How long it takes is known after the first run on this machine."
    else:
        took = expected(*found.seconds)
        grounds = {"runs": "going by runs like these here", "method": "going by runs with another method here",
                   "model": "going by another model here", "processor": "going by this processor's speed"}  # fmt: skip
        said += f"It takes {took}, {grounds[found.source]}" + (" (with the race)." if race else ".")
    return f'<p class="lp-note">{said}</p>'


def build(shell: Shell, tab: gr.Tab, steps: Steps, identity: Identity) -> None:
    """Makes the section where it is called."""
    if shell.sweeps is None:
        return  # a page without a queue
    form = SweepForm(shell, steps, identity)
    with gr.Row(elem_id="lp-sweep-row", equal_height=False):
        with gr.Column(elem_id="lp-sweep-form", min_width=0):
            form.build()
        with gr.Column(elem_id="lp-sweep-view", min_width=0):
            told = gr.HTML("", apply_default_css=False, elem_id="lp-sweep-told")
            filled("lp-sweep")
            asked = gr.HTML("", js_on_load="lp.sweep.start(trigger); // 'act'", html_template=" ",
                            elem_classes="lp-hidden")  # fmt: skip
    form.connect(tab)
    asked.act(form.act, None, told, trigger_mode="multiple", **SETS).then(None, None, None, js="() => lp.sweep.ask()")
