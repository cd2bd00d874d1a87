"""Lab, section Directions: what one singular direction of a run reads and says, and the answer with and without it.

The chat process reads and answers; this process holds no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr

from lora_playground.analysis.directions import WRITERS
from lora_playground.analysis.update import matrix_ranks
from lora_playground.chat.protocol import Reading
from lora_playground.errors import PlaygroundError
from lora_playground.lab.reading import first_prompt
from lora_playground.plots.spectrum import short_name
from lora_playground.ui import cards, controls
from lora_playground.ui.controls import Slider, bounds, offer
from lora_playground.ui.lab_answers import PATIENCE, answers, ask
from lora_playground.ui.lab_direction_card import card
from lora_playground.ui.shell import LATEST, SETS, Shell, note

MOST = 64
"""The most directions of a module that can be chosen."""
ROWS = (("Base", None), ("Whole run", "whole"), ("This direction alone", "alone"), ("All but this", "without"),
        ("A random one alone", "random"))  # fmt: skip


class Directions:
    """The section and its events."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def build(self, tab: gr.Tab, section: gr.Tab) -> None:
        """Makes the parts where it is called."""
        gr.HTML(
            note(
                "One direction of an update alone: which words of a text it reads, which words it makes likelier, and "
                "what the model then says, beside a random direction. ΔW = Σ σᵢ·uᵢvᵢᵀ: it reads by vᵢ, writes by uᵢ."
            ),
            apply_default_css=False,
        )
        with gr.Row(elem_classes="lp-lab-form", equal_height=False):
            self.run = controls.Dropdown(
                [], label="Run", info="finished, and ticked in the list", elem_id="lp-dir-run", min_width=180
            )
            self.module = controls.Dropdown(
                [], label="Module", info="down_proj and o_proj can be read as words", elem_id="lp-dir-module",
                filterable=True, min_width=220,
            )  # fmt: skip
            self.index = Slider(
                1, 8, value=1, step=1, label="Direction", info="1 is the strongest", buttons=[], elem_id="lp-dir-index"
            )
            self.strength = Slider(
                -2, 2, value=1, step=0.1, label="Strength of it alone", info="and of the random one", buttons=[],
                elem_id="lp-dir-strength",
            )  # fmt: skip
        with gr.Row(elem_classes="lp-lab-ask", equal_height=False):
            self.prompt = gr.Textbox(
                "", label="A text to read and answer", lines=1, max_lines=4, max_length=8000, scale=8,
                elem_id="lp-dir-prompt",
            )  # fmt: skip
            self.read_button = gr.Button("Read it", variant="primary", elem_id="lp-dir-read", min_width=110, scale=1)
        self.problem = gr.HTML("", apply_default_css=False, elem_id="lp-dir-problem")
        self.card = gr.HTML("", apply_default_css=False, elem_id="lp-dir-card")
        self.answers = gr.HTML("", apply_default_css=False, elem_id="lp-dir-answers")
        self._connect(tab, section)

    def _connect(self, tab: gr.Tab, section: gr.Tab) -> None:
        chosen = [self.run, self.module, self.index]
        ticked = self._shell.ticked
        for trigger in (tab.select, section.select, ticked.change):
            trigger(self.offered, [ticked, self.run, self.module], [*chosen, self.prompt], **LATEST)
        self.run.input(self.offered, [ticked, self.run, self.module], [*chosen, self.prompt], **LATEST)
        self.module.input(self.sized, [self.run, self.module], self.index, **LATEST)
        asks, shows = [*chosen, self.strength, self.prompt], [self.card, self.answers, self.problem]
        gr.on(
            [self.read_button.click, self.prompt.submit, self.index.release, self.strength.release],
            self.read, asks, shows, **{**SETS, "trigger_mode": "always_last"},
        )  # fmt: skip

    # --- what is offered ----------------------------------------------------------------------------------------------

    def offered(self, ticked: list[str], run: str | None, module: str | None) -> tuple[Any, ...]:
        """Updates of the lists: ticked runs, modules of the chosen one, its directions, and a prompt from its test
        part."""
        runs = self._shell.with_update(ticked)
        ids = [id for _, id in runs]
        if not ids:
            return offer([], None), offer([], None), gr.skip(), gr.skip()
        chosen = run if run in ids else ids[0]
        names = list(self._ranks(chosen))
        writers = [name for name in names if name.rpartition(".")[2] in WRITERS]
        writers.sort(key=lambda name: "attn" not in name and "attention" not in name)  # attention first
        # If none was chosen, the last layer's MLP, or whatever is last of these.
        module = module if module in names else next(iter([*writers[::-1], *names]), None)
        prompt = gr.skip() if chosen == run else first_prompt(self._shell.store.get(chosen), self._shell.store)
        shown = [(short_name(name), name) for name in names]
        return offer(runs, chosen), offer(shown, module), self.sized(chosen, module), prompt

    def sized(self, run: str | None, module: str | None) -> Any:
        """The bounds of the slider of directions."""
        ranks = self._ranks(run) if run else {}
        return bounds(1, ranks.get(module or "", 1), 1)

    def _ranks(self, run: str) -> dict[str, int]:
        """{module: the most directions of its update} of a run."""
        try:
            found = matrix_ranks(self._shell.store.get(run).update_path)
        except (PlaygroundError, OSError):
            return {}
        return {name: min(size, MOST) for name, size in found.items()}

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(
        self, run: str | None, module: str | None, index: float, strength: float, prompt: str, request: gr.Request
    ) -> AsyncGenerator[tuple[Any, Any, Any], None]:
        """Yields the card, then the answers in progress."""
        if not run or not module or not (prompt or "").strip():
            what = "Tick a finished run in the list first." if not run else "Write a text for it to read."
            yield gr.skip(), gr.skip(), cards.error(what)
            return
        client, who = self._shell.client, self._shell.identity
        assert client is not None and who is not None
        direction = {"module": module, "index": int(index)}
        try:
            given = {"run": run, "prompt": prompt, **direction}
            reading = asyncio.ensure_future(client.read(Reading.parse(given)))
            if not (await asyncio.wait({reading}, timeout=PATIENCE))[0]:
                yield gr.skip(), gr.skip(), note("Loading the base model and the run …")
            found = await reading
            yield card(found), gr.skip(), ""
            panes = [_pane(run, keep, direction, strength) for _, keep in ROWS]
            async for said in ask(client, panes, prompt, who.of(request)):
                yield gr.skip(), _answers(said.texts, said.kl), gr.skip()
        except PlaygroundError as failure:
            yield gr.skip(), gr.skip(), cards.error(str(failure))


def _pane(run: str, keep: str | None, direction: dict[str, Any], strength: float) -> dict[str, Any]:
    if keep is None:
        return {}
    if keep == "whole":
        return {"run": run}
    factor = 1.0 if keep == "without" else float(strength)
    return {"run": run, "direction": {**direction, "keep": keep}, "strength": factor}


def _answers(texts: Sequence[str], kl: Sequence[float | None]) -> str:
    rows = []
    for (title, keep), text, far in zip(ROWS, texts, kl):
        remark = "" if keep is None or far is None else f"KL to base {far:.2g} nats"
        rows.append((title, "var(--lp-accent)" if keep == "alone" else "", text, remark))
    return answers(rows)


def build(shell: Shell, tab: gr.Tab, section: gr.Tab) -> None:
    """Makes the section where it is called."""
    Directions(shell).build(tab, section)
