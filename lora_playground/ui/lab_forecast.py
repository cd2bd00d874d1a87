"""Lab, section Forecast: what the gradient before the first step foretells of what a run learned, over its steps.

`lab.process` takes the gradient; this process holds no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr

from lora_playground.analysis.update import layer_order
from lora_playground.errors import PlaygroundError
from lora_playground.lab.process import work
from lora_playground.plots.forecast import describe_forecast, foretold_figure, over_steps_figure, scree_figure
from lora_playground.plots.spectrum import short_name
from lora_playground.runs import history
from lora_playground.ui import cards, controls
from lora_playground.ui.controls import Slider, bounds, offer, offer_one
from lora_playground.ui.shell import LATEST, QUIET, SETS, Shell, draw, note, picture

ABOUT = (
    "Did the first step foretell what the whole training learned? The gradient before anything is learned (G₀ = ∂L/∂W, "
    "on the first training rows) is laid beside the run's update: the more directions they share, the more it did."
)
Found = dict[str, Any]
PLAY = 0.6
"""Seconds between two moments of a replay."""
REPLAY = "▶ Replay training"
UNFOLLOWED = "Only this run's singular values were kept over its steps, so what was foretold is shown for its end."


class Forecast:
    """The section and its events."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def build(self, tab: gr.Tab, section: gr.Tab) -> None:
        """Makes the parts where it is called."""
        gr.HTML(note(ABOUT), apply_default_css=False)
        with gr.Row(elem_classes="lp-lab-ask", equal_height=False):
            self.run = controls.Dropdown(
                [], label="Run", info="finished, and ticked in the list", elem_id="lp-cast-run", scale=5
            )
            self.take = gr.Button("Take the first gradient", variant="primary", elem_id="lp-cast-take", scale=2)
        self.said = gr.HTML("", apply_default_css=False, elem_id="lp-cast-said")
        with gr.Column(visible=False, elem_id="lp-cast-found") as self.shown:
            with gr.Row(elem_classes="lp-lab-form", equal_height=False):
                self.module = controls.Dropdown([], label="Module", elem_id="lp-cast-module", filterable=True)
            with gr.Row(elem_classes="lp-spec-replay", equal_height=False):
                self.play = gr.Button(REPLAY, size="sm", elem_id="lp-cast-play", min_width=150, scale=0)
                self.step = Slider(0, 1, value=1, step=1, label="Moment of the run", buttons=[], elem_id="lp-cast-step")
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                with gr.Column(min_width=300):
                    self.scree, _ = picture("lp-cast-scree")
                with gr.Column(min_width=300):
                    self.bars, _ = picture("lp-cast-bars")
            with gr.Column(visible=False, elem_classes="lp-plots") as self.followed:
                self.over, _ = picture("lp-cast-over")
            self.words = gr.HTML("", apply_default_css=False, elem_classes="lp-words", elem_id="lp-cast-words")
        self.found = gr.State({})
        self.playing = gr.Timer(PLAY, active=False)
        for trigger in (tab.select, section.select, self._shell.ticked.change):
            trigger(self.offered, [self._shell.ticked, self.run], self.run, **LATEST)
        shows = [self.scree, self.bars, self.over, self.words]
        self.take.click(
            self.taken, self.run,
            [self.said, self.shown, self.module, self.step, self.found, self.take, self.followed, *shows], **SETS,
        )  # fmt: skip
        self.module.input(_pictures, [self.found, self.module, self.step], shows, **LATEST)
        self.step.change(_pictures, [self.found, self.module, self.step], shows, **LATEST)
        replayed = [self.step, self.playing, self.play]
        self.play.click(_begin, [self.found, self.step], replayed, **QUIET)
        self.playing.tick(_advance, [self.found, self.step], replayed, **QUIET)

    def offered(self, ticked: list[str], run: str | None) -> Any:
        """The ticked runs that have an update; the first is chosen if `run` is none of them."""
        return offer_one(self._shell.with_update(ticked), run)

    async def taken(self, run: str | None) -> AsyncGenerator[tuple[Any, ...], None]:
        """Yields progress, then the figures of the module whose right directions the gradient predicted best."""
        skip = gr.skip()
        if not run:
            yield cards.error("Tick a finished run in the list first."), *[skip] * 10
            return
        yield note("Loading the base model …"), *[skip] * 4, gr.update(interactive=False), *[skip] * 5
        try:
            steps = work(self._shell.home, {"kind": "forecast", "run": run})
            while (told := await asyncio.to_thread(next, steps, None)) is not None:
                if "found" not in told:
                    yield note(f"Batch {told['done']} of {told['of']} …"), *[skip] * 10
                    continue
                found = told["found"] | {"steps": _steps(told["found"], self._spectra(run))}
                name = max(found["modules"], key=lambda one: max(found["modules"][one]["reads"]))
                last = len(found["steps"]) - 1
                names = [(short_name(one), one) for one in sorted(found["modules"], key=layer_order)]
                sized = bounds(0, max(1, last), max(0, last), info=None if found["moments"] else UNFOLLOWED)
                followed = gr.update(visible=bool(found["moments"]))
                parts = (followed, *_pictures(found, name, last))
                yield "", gr.update(visible=True), offer(names, name), sized, found, gr.update(interactive=True), *parts
        except PlaygroundError as failure:
            yield cards.error(str(failure)), *[skip] * 4, gr.update(interactive=True), *[skip] * 5

    def _spectra(self, run: str) -> list[dict[str, Any]]:
        """The events with a run's singular values over its steps."""
        events, _ = history.read_events(self._shell.store.get(run).events_path)
        return [event for event in history.history(events) if event["type"] == "spectra"]


def _steps(found: Found, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The moments of a run; the last one is its end. Each is what `lab.forecast` found there. If the run's directions
    were not kept while it trained, a moment has only the step and the modules' singular values, from `told`."""
    if not found["moments"] or not told:
        return [{"step": event["step"], "spectra": event["spectra"]} for event in told]
    last = told[-1]["step"]
    end = {key: found[key] for key in ("modules", "foretold", "of", "reads", "writes")}
    return [one for one in found["moments"] if one["step"] < last] + [{"step": last, **end}]


def _moment(found: Found, index: float) -> tuple[Found, str]:
    """(one of the moments, which one it is in words). If directions were kept only at the run's end, it is the end."""
    steps = found["steps"]
    if not steps or "modules" not in steps[-1]:
        return found, "at the end"
    chosen = min(max(0, int(index)), len(steps) - 1)
    step = steps[chosen]["step"]
    return steps[chosen], f"at the end, step {step}" if chosen == len(steps) - 1 else f"after step {step}"


def _values(found: Found, module: str, index: float) -> tuple[list[float], str]:
    """(σ of ΔW at one of the moments, divided by the largest σ at the end; the moment's step in words)."""
    steps = found["steps"]
    if not steps:
        return list(found["modules"][module]["learned"]), "at the end"
    chosen = steps[min(max(0, int(index)), len(steps) - 1)]
    label = f"at step {chosen['step']}"
    if "modules" in chosen:
        return list(chosen["modules"].get(module, {}).get("learned", [])), label
    values: Sequence[float] = chosen["spectra"].get(module, [])
    top = max(steps[-1]["spectra"].get(module, [0.0]), default=0.0) or 1.0
    return [value / top for value in values], label


def _begin(found: Found, index: float) -> tuple[Any, Any, Any]:
    """Begins the replay at the moment that is shown, or at the first one if the last is shown."""
    last = len(found.get("steps", [])) - 1
    if last < 1:
        return gr.skip(), gr.Timer(active=False), gr.skip()
    return 0 if index >= last else gr.skip(), gr.Timer(active=True), gr.update(value="▶ Replaying …", interactive=False)


def _advance(found: Found, index: float) -> tuple[Any, Any, Any]:
    """The next moment of the replay; of a long training about thirty moments are shown."""
    last = len(found.get("steps", [])) - 1
    if index >= last:
        return gr.skip(), gr.Timer(active=False), gr.update(value=REPLAY, interactive=True)
    return min(last, int(index) + 1 + last // 30), gr.skip(), gr.skip()


def _pictures(found: Found, module: str | None, index: float) -> tuple[Any, Any, Any, Any]:
    """Scree, shares of each direction, shares over the moments, and the words beside them."""
    if not found or module is None or module not in found["modules"]:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()
    scree = draw(scree_figure(found["modules"][module], *_values(found, module, index)))
    moment, at = _moment(found, index)
    shares = moment["modules"].get(module, {"reads": [], "writes": []})
    bars = draw(foretold_figure(found["modules"][module], shares, at))
    over: Any = gr.skip()
    if found["moments"]:
        over = draw(over_steps_figure(found, found["steps"], min(max(0, int(index)), len(found["steps"]) - 1)))
    return scree, bars, over, note(describe_forecast(found, module, moment, at))


def build(shell: Shell, tab: gr.Tab, section: gr.Tab) -> None:
    """Makes the section where it is called."""
    Forecast(shell).build(tab, section)
