"""Lab, section Merge: two to four ticked runs mixed by sliders, live; scored over the weights; saved as a run.

The chat process answers, `lab.process` scores; this process holds no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr

from lora_playground.analysis.merging import METHODS, MOST, Recipe
from lora_playground.errors import PlaygroundError
from lora_playground.lab import mixing
from lora_playground.lab.process import work
from lora_playground.lab.reading import first_prompt
from lora_playground.plots.mixtures import mixture_figure
from lora_playground.ui import cards, controls
from lora_playground.ui.controls import Slider
from lora_playground.ui.lab_answers import Said, answers, ask
from lora_playground.ui.lab_merge_words import sentence, table
from lora_playground.ui.shell import LATEST, QUIET, SETS, Shell, Shown, draw, note, picture
from lora_playground.ui.words import escape

ABOUT = "The ticked updates are put together, each with its weight: 1 as trained, 0 not at all, below 0 taken away."
EMPTY = "Tick two to four finished runs of one base model in the list, and mix them here."
Kept = dict[str, Any]
"""Answers that need not be asked again: `about` is the prompt and the runs, `said` their answers, the base's first."""


class Merge:
    """The section and its events."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def build(self, tab: gr.Tab, section: gr.Tab) -> None:
        """Makes the parts where it is called."""
        self.hint = gr.HTML(note(EMPTY), apply_default_css=False, elem_id="lp-mix-hint")
        with gr.Row(elem_classes="lp-lab-form", equal_height=False):
            self.weights = [
                Slider(-2, 2, value=1, step=0.05, label=f"Run {i + 1}", visible=False, buttons=[], min_width=170,
                       elem_id=f"lp-mix-w{i}")
                for i in range(MOST)
            ]  # fmt: skip
        with gr.Row(elem_classes="lp-lab-form", equal_height=False):
            self.method = controls.Dropdown(
                [(method.label, name) for name, method in METHODS.items()], value="sum", label="Method",
                info=METHODS["sum"].sentence, elem_id="lp-mix-method", min_width=200,
            )  # fmt: skip
            self.density = Slider(
                0.05,
                1,
                value=0.5,
                step=0.05,
                label="Entries that stay",
                info="TIES and DARE",
                visible=False,
                buttons=[],
            )
            self.rank = Slider(
                1, 64, value=8, step=1, label="Directions that stay", info="of every module", visible=False, buttons=[]
            )
        with gr.Row(elem_classes="lp-lab-ask", equal_height=False):
            self.prompt = gr.Textbox(
                "", label="Ask them all", lines=1, max_lines=4, max_length=8000, scale=8, elem_id="lp-mix-prompt"
            )
            self.mix = gr.Button("Mix and ask", variant="primary", elem_id="lp-mix-ask", min_width=120, scale=1)
        self.problem = gr.HTML("", apply_default_css=False, elem_id="lp-mix-problem")
        self.answers = gr.HTML("", apply_default_css=False, elem_id="lp-mix-answers")
        with gr.Row(elem_classes="lp-lab-ask", equal_height=False):
            self.score = gr.Button("Score over the weights", elem_id="lp-mix-score")
            self.save = gr.Button("Save the mixture as a run", elem_id="lp-mix-save")
        self.said = gr.HTML("", apply_default_css=False, elem_id="lp-mix-said")
        with gr.Column(visible=False, elem_id="lp-mix-scores") as self.scores:
            self.picture, self.words = picture("lp-mix-picture")
            self.table = gr.HTML("", apply_default_css=False, elem_id="lp-mix-table")
        self.kept = gr.State({})
        self._connect(tab, section)

    def _connect(self, tab: gr.Tab, section: gr.Tab) -> None:
        ticked = self._shell.ticked
        for trigger in (tab.select, section.select, ticked.change):
            trigger(self.offered, [ticked, self.prompt], [self.hint, self.prompt, *self.weights], **LATEST)
        self.method.input(_options, self.method, [self.method, self.density, self.rank], **QUIET)
        given = [ticked, self.method, self.density, self.rank, *self.weights]
        latest = {**SETS, "trigger_mode": "always_last"}
        gr.on(
            [self.mix.click, self.prompt.submit, self.method.input, self.density.release, self.rank.release,
             *(weight.release for weight in self.weights)],
            self.ask, [self.prompt, self.kept, *given], [self.answers, self.problem, self.kept], **latest,
        )  # fmt: skip
        self.score.click(
            self.scored, given, [self.said, self.scores, self.picture, self.words, self.table, self.score], **SETS
        )
        self.save.click(self.saved, given, self.said, **SETS)

    # --- what is offered ----------------------------------------------------------------------------------------------

    def _runs(self, ticked: Sequence[str]) -> list[Shown]:
        return [one for one in self._shell.shown(ticked) if one.run.update_path.is_file()][:MOST]

    def offered(self, ticked: list[str], prompt: str) -> tuple[Any, ...]:
        """A slider for each ticked run, and a prompt of the first one's test part."""
        shown = self._runs(ticked)
        enough = len(shown) >= mixing.LEAST
        sliders = [
            gr.update(visible=enough and i < len(shown), **({"label": shown[i].run.label} if i < len(shown) else {}))
            for i in range(MOST)
        ]
        text = gr.skip() if prompt or not enough else first_prompt(shown[0].run, self._shell.store)
        return note(ABOUT if enough else EMPTY), text, *sliders

    def _chosen(
        self, ticked: Sequence[str], method: str, density: float, rank: float, weights: Sequence[float]
    ) -> mixing.Mixed:
        """The mixture that the controls describe. Raises ConfigError or RunError."""
        shown = self._runs(ticked)
        recipe = Recipe(method, float(density), int(rank) if method == "svd" else None)
        ids = [one.run.id for one in shown]
        if len(ids) < mixing.LEAST:
            raise PlaygroundError(EMPTY)
        return mixing.mixed(self._shell.store, ids, [float(w) for w in weights[: len(ids)]], recipe)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(
        self, prompt: str, kept: Kept, ticked: list[str], method: str, density: float, rank: float,
        w1: float, w2: float, w3: float, w4: float, request: gr.Request,
    ) -> AsyncGenerator[tuple[Any, Any, Any], None]:  # fmt: skip
        """Asks the base, each run and the mixture; only the mixture if nothing else has changed."""
        client, who = self._shell.client, self._shell.identity
        assert client is not None and who is not None
        try:
            chosen = self._chosen(ticked, method, density, rank, (w1, w2, w3, w4))
            if not (prompt or "").strip():
                raise PlaygroundError("Write a question for them first.")
            ids = [run.id for run in chosen.runs]
            about = [prompt, *ids]
            fresh = kept.get("about") != about
            parts = [{"run": id, "weight": weight} for id, weight in zip(ids, chosen.weights)]
            recipe = chosen.recipe
            mixture = {"runs": parts, "method": recipe.method, "density": recipe.density, "rank": recipe.rank}
            alone: list[dict[str, Any]] = [{}, *({"run": id} for id in ids)] if fresh else []
            panes = [{"mixture": mixture}, *alone]
            beside = [""] * (len(ids) + 1) if fresh else kept["said"]
            async for said in ask(client, panes, prompt, who.of(request), detail=False):
                beside = said.texts[1:] if fresh else beside
                yield self._shown(chosen, ticked, said, beside), "", gr.skip()
            yield gr.skip(), "", {"about": about, "said": beside}
        except PlaygroundError as failure:
            yield gr.skip(), cards.error(str(failure)), gr.skip()

    def _shown(self, chosen: mixing.Mixed, ticked: Sequence[str], said: Said, beside: Sequence[str]) -> str:
        colours = {one.run.id: one.colour for one in self._runs(ticked)}
        recipe = " ".join(f"{weight:+g}" for weight in chosen.weights)
        began = "" if said.began is None else f", begins after {1000 * said.began:.0f} ms"
        rows = [
            ("The mixture", "var(--lp-accent)", said.texts[0], f"{METHODS[chosen.recipe.method].label} {recipe}{began}")
        ]
        rows += [
            (run.label, colours.get(run.id, ""), text, "alone") for run, text in zip(chosen.runs, beside[1:])
        ]  # fmt: skip
        return answers([*rows, ("Base", "", beside[0], "")])

    # --- scoring and saving -------------------------------------------------------------------------------------------

    async def scored(
        self, ticked: list[str], method: str, density: float, rank: float, *weights: float
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        """Yields progress, then figure, sentence and table."""
        skip = gr.skip()
        try:
            chosen = self._chosen(ticked, method, density, rank, weights)
            names, ids = [run.label for run in chosen.runs], [run.id for run in chosen.runs]
            colours = [one.colour for one in self._runs(ticked)]
            recipe = {"method": method, "density": chosen.recipe.density, "rank": chosen.recipe.rank}
            task = {"kind": "weights", "runs": ids, "weights": chosen.weights, "recipe": recipe, "rows": 24}
            yield note("Loading the base model …"), skip, skip, skip, skip, gr.update(interactive=False)
            steps = work(self._shell.home, task)
            while True:
                step = await asyncio.to_thread(next, steps, None)
                if step is None:
                    break
                if "found" in step:
                    found = step["found"]
                    figure = draw(mixture_figure(found, names, colours))
                    words = note(sentence(found, names))
                    yield "", gr.update(visible=True), figure, words, table(found, names), gr.update(interactive=True)
                else:
                    far = f"Score {step['done']} of {step['of']} …"
                    yield note(far), skip, skip, skip, skip, skip
        except PlaygroundError as failure:
            yield cards.error(str(failure)), skip, skip, skip, skip, gr.update(interactive=True)

    def saved(self, ticked: list[str], method: str, density: float, rank: float, *weights: float) -> str:
        """Saves the mixture as a run."""
        try:
            run = mixing.save(self._shell.store, self._chosen(ticked, method, density, rank, weights))
        except PlaygroundError as failure:
            return cards.error(str(failure))
        return f'<p class="lp-note">Saved as <b>{escape(run.label)}</b>, a plain LoRA; it stands in the list.</p>'


def _options(method: str) -> tuple[Any, Any, Any]:
    chosen = METHODS[method]
    shown = [gr.update(visible=name in chosen.options) for name in ("density", "rank")]
    return gr.update(info=chosen.sentence), *shown


def build(shell: Shell, tab: gr.Tab, section: gr.Tab) -> None:
    """Makes the section where it is called."""
    Merge(shell).build(tab, section)
