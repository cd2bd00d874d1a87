"""The tab Spectrum: singular values of the ticked runs' updates, directions that two share, the update beside its base.

It connects controls to the figures of `spectrum_views`. Truncation, files and imports are in `spectrum_tools`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_playground.plots.spectrum import usual_module
from lora_playground.ui import spectrum_views as views
from lora_playground.ui.controls import Dropdown, Radio, Slider, bounds, offer
from lora_playground.ui.shell import LATEST, QUIET, Shell, draw, heading, note, picture, points
from lora_playground.ui.spectrum_cache import SpectrumCache
from lora_playground.ui.spectrum_tools import Tools
from lora_playground.ui.words import escape

FOLLOW, PLAY = 2.0, 0.6
"""Seconds between two updates while a run trains, and between two steps of a replay."""

MEASURES = [
    ("directions used (effective rank)", "effective_rank"), ("directions that carry it (stable rank)", "stable_rank"),
    ("size (‖ΔW‖_F)", "frobenius"), ("size beside W (‖ΔW‖/‖W‖)", "relative"), ("strongest direction (σ₁)", "sigma_1"),
]  # fmt: skip
SIDES = [("what it reads (right)", "right"), ("what it writes (left)", "left")]


@dataclass
class Controls:
    """What a person chooses."""

    focus: gr.Radio
    module: gr.Dropdown
    measure: gr.Dropdown
    log: gr.Radio
    step: gr.Slider
    play: gr.Button

    def inputs(self) -> list[Any]:
        """All controls but the button, in the order of the listeners' arguments."""
        return [self.focus, self.module, self.measure, self.log, self.step]


class SpectrumTab:
    """The tab; `build` makes it where it is called."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.cache = SpectrumCache()

    def build(self, tab: gr.Tab) -> None:
        """Makes the parts inside `tab` and connects them."""
        self.carried = gr.Textbox("", visible=False)
        self.hint = gr.HTML(_hint([]), apply_default_css=False, elem_id="lp-spec-hint")
        with gr.Column(elem_id="lp-spec-body") as self.body:
            self._controls()
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                with gr.Column(min_width=300):
                    self.map, self.map_words = picture("lp-spec-map")
                with gr.Column(min_width=300):
                    self.scree, self.scree_words = picture("lp-spec-scree")
            heading("Directions as pictures", "what one of them does, and how they add up", folded="yes")
            self.directions, self.directions_words = picture("lp-spec-directions")
            self._base()
            self._pair()
            self.tools = Tools(self._shell, self.cache)
            self.tools.build()
        self.clicks = points("lp-spec-map")
        self.following = gr.Timer(FOLLOW, active=False)
        self.playing = gr.Timer(PLAY, active=False)
        self._connect(tab)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _controls(self) -> None:
        with gr.Row(elem_classes="lp-spec-controls", equal_height=False):
            focus = Radio([], label="Run in the map", elem_classes="lp-chips", elem_id="lp-spec-focus")
            measure = Dropdown(
                MEASURES, value="effective_rank",
                label="The map shows", info="of every module of one run", filterable=False, elem_id="lp-spec-measure",
            )  # fmt: skip
            module = Dropdown(
                [], label="Module in the other pictures", info="or click a square of the map", elem_id="lp-spec-module",
                filterable=False,
            )  # fmt: skip
            log = Radio(
                [("log", True), ("linear", False)], value=True, label="σ axis", info="of the singular values",
                elem_classes="lp-chips", elem_id="lp-spec-log",
            )  # fmt: skip
        with gr.Row(elem_classes="lp-spec-replay", equal_height=False):
            play = gr.Button("▶ Replay training", size="sm", elem_id="lp-spec-play", min_width=150, scale=0)
            step = Slider(
                0, 1, value=0, step=1, label="Step", info="Drag to see how the spectrum grew.", elem_id="lp-spec-step",
                buttons=[],
            )  # fmt: skip
        self.controls = Controls(focus, module, measure, log, step, play)

    def _pair(self) -> None:
        heading("Beside another adapter", "do they use the same directions?", folded="pair")
        self.alone = gr.HTML(note("Tick a second run in the list to lay its directions beside this one's."),
                             apply_default_css=False, elem_id="lp-spec-alone")  # fmt: skip
        with gr.Column(elem_id="lp-spec-pair") as self.pair_body:
            self._pair_parts()

    def _pair_parts(self) -> None:
        with gr.Row(elem_classes="lp-spec-controls", equal_height=False):
            self.first = Dropdown([], label="First run", filterable=False, elem_id="lp-spec-first")
            self.second = Dropdown([], label="Second run", filterable=False, elem_id="lp-spec-second")
            self.side = Radio(SIDES, value="right", label="Directions", elem_classes="lp-chips")
            self.factor = Radio(
                [("of ΔW", False), ("of A or B alone", True)], value=False,
                label="Taken (the LoRA paper's figures take A and B)", elem_classes="lp-chips",
            )  # fmt: skip
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=300):
                self.square, self.square_words = picture("lp-spec-square")
            with gr.Column(min_width=300):
                self.overlap, self.overlap_words = picture("lp-spec-overlap")

    def _base(self) -> None:
        heading("The update and its base", "what it makes louder, and what is new", folded="yes")
        with gr.Row(elem_classes="lp-spec-controls", equal_height=False):
            self.base_side = Radio(
                [(label.replace("it", "ΔW", 1), side) for label, side in reversed(SIDES)], value="left",
                label="Directions", elem_classes="lp-chips",
            )  # fmt: skip
            self.leading = Slider(
                1, 32, value=10, step=1, label="Directions of W + ΔW looked at", buttons=[], elem_id="lp-spec-leading"
            )
            self.epsilon = Slider(
                0, 1, value=0.5, step=0.05, label="Threshold ε of an intruder", buttons=[], elem_id="lp-spec-epsilon"
            )
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=260):
                self.amplified, self.amplified_words = picture("lp-spec-amplified")
            with gr.Column(min_width=260):
                self.aligned, self.aligned_words = picture("lp-spec-aligned")
            with gr.Column(min_width=260):
                self.intruders, self.intruders_words = picture("lp-spec-intruders")

    # --- what is connected to what -----------------------------------------------------------------------------------

    def _connect(self, tab: gr.Tab) -> None:
        ticked, own = self._shell.ticked, self.controls
        top_out = [self.map, self.map_words, self.scree, self.scree_words]
        pair_in = [ticked, own.module, self.first, self.second, self.side, self.factor]
        pair_out = [self.square, self.square_words, self.overlap, self.overlap_words]
        base_in = [ticked, own.focus, own.module, self.leading, self.epsilon, self.base_side]
        base_out = [
            self.amplified, self.amplified_words, self.aligned, self.aligned_words, self.intruders,
            self.intruders_words, self.directions, self.directions_words,
        ]  # fmt: skip
        choose_in = [
            ticked, own.focus, own.module, own.step, self.first, self.second, self.carried,
            *self.tools.cut_inputs(),
        ]  # fmt: skip
        choose_out = [
            self.hint, self.body, own.focus, own.module, own.step, self.first, self.second, self.following,
            self.alone, self.pair_body, own.play, *self.tools.outputs(),
        ]  # fmt: skip

        def draw_all(event: Any) -> Any:
            """Draws all figures after `event`, one after the other."""
            step = event.then(self.top, [ticked, *own.inputs()], top_out, **QUIET)
            step = step.then(self.pair, pair_in, pair_out, **QUIET)
            return step.then(self.base, base_in, base_out, **QUIET)

        # The page's script gets the values of inputs and outputs, and passes on those of inputs to the server.
        place, many = choose_in.index(self.carried), len(choose_in)
        carry = f"(...given) => {{ given[{place}] = lp.live.carried(); return given.slice(0, {many}); }}"
        draw_all(gr.on([ticked.change, tab.select], self.choose, choose_in, choose_out, js=carry, **LATEST))
        draw_all(self.following.tick(self.choose, choose_in, choose_out, **QUIET))
        draw_all(own.focus.input(self.choose, choose_in, choose_out, **QUIET))
        draw_all(own.module.input(lambda: None, None, None, js="() => lp.live.settle()", **QUIET))
        draw_all(self.clicks.point(self.pick, [ticked], own.module, **QUIET))
        gr.on([own.measure.input, own.log.input, own.step.input], self.top, [ticked, *own.inputs()], top_out, **QUIET)
        gr.on(
            [self.first.input, self.second.input, self.side.input, self.factor.input], self.pair, pair_in, pair_out,
            **QUIET,
        )  # fmt: skip
        gr.on([self.base_side.input, self.leading.release, self.epsilon.input], self.base, base_in, base_out, **QUIET)
        own.play.click(self.start, [ticked, own.focus, own.step], [own.step, self.playing, own.play], **QUIET)
        self.playing.tick(
            self.advance, [ticked, own.focus, own.step], [own.step, self.playing, own.play], **QUIET
        ).then(self.top, [ticked, *own.inputs()], top_out, **QUIET)
        self.tools.connect(self._subjects, own.focus, [ticked, *own.inputs()], self._views)

    # --- events ------------------------------------------------------------------------------------------------------

    def _subjects(self, ticked: Sequence[str]) -> list[views.Subject]:
        return views.subjects(self.cache, self._shell.shown(ticked))

    def choose(
        self, ticked: list[str], focus: str | None, module: str | None, step: float, first: str, second: str,
        carried: str, *cut: Any,
    ) -> Any:  # fmt: skip
        """Updates every control for the ticked runs. Choices are kept if they are still possible.

        Args:
            carried: the module that was chosen in the tab Fine-tune, until one is chosen here. It is an argument
                because several calls can run at the same time.
        """
        found = self._subjects(ticked)
        runs = [(one.label, one.shown.run.id) for one in found]
        ids = [identity for _, identity in runs]
        focus = focus if focus in ids else (ids[0] if ids else None)
        modules = views.module_choices(found)
        names = [name for _, name in modules]
        module = next((one for one in (carried, module) if one in names), usual_module(names) or None)
        subject = _focused(found, focus)
        steps = subject.frames.steps if subject else []
        # If the newest step is shown, or none was chosen, the newest one is shown while the run trains.
        if not steps:
            step, ends = 0, (0, 1)
        else:
            ends = (steps[0], steps[-1])
            if not step or not steps[0] <= step < steps[-min(3, len(steps))]:
                step = steps[-1]
        first = first if first in ids else (ids[0] if ids else "")
        others = [identity for identity in ids if identity != first]
        second = second if second in others else (others[0] if others else "")
        busy = any(one.shown.run.alive() for one in found)
        return [
            _hint(found), gr.update(visible=bool(found)), offer(runs, focus, visible=len(runs) > 1),
            offer(modules, module), bounds(*ends, step, interactive=len(steps) > 1),
            offer(runs, first), offer(runs, second),
            gr.Timer(active=busy), gr.update(visible=len(found) == 1), gr.update(visible=len(found) > 1),
            gr.update(visible=len(steps) > 1),
            *self.tools.refreshed(subject, *cut),
        ]  # fmt: skip

    def top(
        self, ticked: list[str], focus: str, module: str | None, measure: str, log: bool, step: float
    ) -> tuple[Any, ...]:
        """Map and scree."""
        (map_, map_words), (scree, scree_words) = self._top(ticked, focus, module, measure, log, step)
        return draw(map_), note(map_words), draw(scree), _folded(scree_words)

    def _top(
        self, ticked: list[str], focus: str, module: str | None, measure: str, log: bool, step: float
    ) -> tuple[views.View, views.View]:
        found = self._subjects(ticked)
        subject = _focused(found, focus)
        at = None if subject is None or not subject.frames.steps or step >= subject.frames.steps[-1] else int(step)
        return (
            views.map_view(self.cache, subject, module or "", measure, at),
            views.scree_view(self.cache, found, module or "", log, at),
        )

    def pair(
        self, ticked: list[str], module: str | None, first: str, second: str, side: Any, factor: bool
    ) -> tuple[Any, ...]:
        """The square of two adapters, and what they share."""
        by_id = {one.shown.run.id: one for one in self._subjects(ticked)}
        chosen = [by_id[identity] for identity in (first, second) if identity in by_id]
        (square, words), (overlap, angles) = views.pair_views(self.cache, chosen, module or "", side, factor)
        return draw(square), note(words), draw(overlap), note(angles)

    def base(
        self, ticked: list[str], focus: str, module: str | None, leading: float, epsilon: float, side: str
    ) -> list[Any]:
        """Amplification, alignment, intruders, and the directions themselves."""
        subject = _focused(self._subjects(ticked), focus)
        found = views.base_views(self.cache, subject, module or "", int(leading), float(epsilon), side)
        found.append(views.directions_view(self.cache, subject, module or ""))
        return [part for figure, words in found for part in (draw(figure), note(words))]

    def _views(
        self, ticked: list[str], focus: str, module: str | None, measure: str, log: bool, step: float
    ) -> list[views.View]:
        """All figures with the present choices, for the page that is saved."""
        found = self._subjects(ticked)
        shown = [*self._top(ticked, focus, module, measure, log, step)]
        if len(found) > 1:
            shown += views.pair_views(self.cache, found[:2], module or "", "right", False)
        return shown + views.base_views(self.cache, _focused(found, focus), module or "", 10, 0.5, "left")

    def pick(self, ticked: list[str], event: gr.EventData) -> Any:
        """A click on a square of the map chooses its module."""
        names = [name for _, name in views.module_choices(self._subjects(ticked))]
        return event.custom if event.custom in names else gr.skip()

    def start(self, ticked: list[str], focus: str, step: float) -> tuple[Any, Any, Any]:
        """Begins the replay at the step that is shown, or at the first one if the last is shown."""
        subject = _focused(self._subjects(ticked), focus)
        steps = subject.frames.steps if subject else []
        if len(steps) < 2:
            return gr.skip(), gr.Timer(active=False), gr.skip()
        begin = steps[0] if step >= steps[-1] else step
        return begin, gr.Timer(active=True), gr.update(value="▶ Replaying …", interactive=False)

    def advance(self, ticked: list[str], focus: str, step: float) -> tuple[Any, Any, Any]:
        """The next step of the replay."""
        subject = _focused(self._subjects(ticked), focus)
        later = [one for one in (subject.frames.steps if subject else []) if one > step]
        if not later:
            return gr.skip(), gr.Timer(active=False), gr.update(value="▶ Replay training", interactive=True)
        # A long training is replayed in about thirty steps.
        return later[min(len(later) - 1, max(0, len(later) // 30))], gr.skip(), gr.skip()


def _folded(words: str) -> str:
    """Sentences, one line a run, with their details folded behind "more"."""
    first, _, rest = words.partition(views.MORE)
    fold = f'<details class="lp-note"><summary>more</summary>{_lines(rest)}</details>' if rest else ""
    return _lines(first) + fold


def _lines(words: str) -> str:
    return "".join(map(note, words.splitlines()))


def _focused(found: Sequence[views.Subject], focus: str | None) -> views.Subject | None:
    return next((one for one in found if one.shown.run.id == focus), found[0] if found else None)


def _hint(found: Sequence[views.Subject]) -> str:
    if not found:
        return (
            '<div class="lp-card lp-idle"><h2>What did it learn?</h2><p>Train a run, then tick up to four runs in the '
            "list. Here you see how many directions each learned, where in the network, and how they "
            "relate to one another and to the base.</p></div>"
        )
    keys = "".join(
        f'<span class="lp-key"><i style="background:{one.colour}"></i>{escape(one.label)}</span>' for one in found
    )
    return f'<div class="lp-keys" aria-label="Runs shown">{keys}</div>'


def build(shell: Shell, tab: gr.Tab) -> SpectrumTab:
    """Makes the tab where it is called."""
    made = SpectrumTab(shell)
    made.build(tab)
    return made
