"""Fills the form of Fine-tune: with its values from before a reload of the page, with the values in a link, or with the
settings of a run. It starts nothing; the schema checks the values when a run is started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import list_datasets
from lora_playground.errors import PlaygroundError
from lora_playground.presets import preset_options
from lora_playground.runs import RunStore
from lora_playground.ui import method_card
from lora_playground.ui.controls import offer
from lora_playground.ui.finetune import RANKS, Steps, dataset_choices, variants_of
from lora_playground.ui.shell import QUIET
from lora_playground.variants import VARIANTS

PRESETS = {"dataset": "data.dataset", "model": "model.source", "variant": "variant.name", "rank": "variant.rank",
           "steps": "training.steps", "seconds": "training.seconds"}  # fmt: skip
"""{parameter of a link: the option that it sets}."""

Values = dict[Any, Any]
"""{input: value}."""


class FormMemory:
    """Connects the form with the browser's storage. `store` has the runs whose settings can be taken over."""

    def __init__(self, steps: Steps, store: RunStore) -> None:
        self._steps, self._store = steps, store
        fields = [*steps.advanced.inputs.values(), *steps.variant_fields.components()]
        self._kept = [
            steps.dataset, steps.source, steps.variant, steps.rank, steps.exact, steps.unit, steps.steps, steps.seconds,
            *fields,
        ]  # fmt: skip
        self._filled = [*self._kept, steps.family, steps.card, steps.equation, steps.knob, steps.shown]

    def connect(self, page: gr.Blocks) -> None:
        """Stores changes in the browser; fills the form when the page is loaded, or a run's settings are taken over."""
        memory = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="memory")
        take = gr.HTML(
            "", js_on_load="lp.live.whenTaken(trigger); // 'act'", html_template=" ", elem_classes="lp-hidden"
        )
        page.load(self.recall, memory, self._filled, js="() => lp.form.kept()", **QUIET)
        gr.on([part.change for part in self._kept], None, self._kept, None, js="(...values) => lp.form.keep(values)")
        take.act(self.take, None, self._filled, **QUIET)
        self._steps.presets.act(self.preset, None, self._filled, **QUIET)

    def recall(self, memory: str) -> Any:
        """Updates from the browser's storage, a JSON object of `values` (in the order of the inputs) and `query` (of
        the address)."""
        stored = json.loads(memory or "{}")
        kept, query = stored.get("values") or [], stored.get("query") or {}
        values = dict(zip(self._kept, kept, strict=True)) if len(kept) == len(self._kept) else {}
        options = {path: query[name] for name, path in PRESETS.items() if query.get(name)}
        return self.updates(values | self._inputs(options)) or gr.skip()

    def take(self, event: gr.EventData) -> Any:
        """Updates that put the settings of a run into the form."""
        try:
            return self.updates(self._inputs(_flat(self._store.get(str(event.id)).config())))
        except PlaygroundError:
            return gr.skip()

    def preset(self, event: gr.EventData) -> Any:
        """Updates to the options of the preset that was pressed."""
        return self.updates(self._inputs(preset_options(str(event.id))))

    def _inputs(self, options: Mapping[str, Any]) -> Values:
        """{input: value} of options by their paths."""
        steps, found = self._steps, {}
        places = {"data.dataset": steps.dataset, "model.source": steps.source, "variant.name": steps.variant}
        places |= steps.advanced.inputs
        found = {places[path]: value for path, value in options.items() if path in places}
        for path, part, unit in (("steps", steps.steps, "steps"), ("seconds", steps.seconds, "seconds")):
            value = options.get(f"training.{path}")
            if value is not None:
                found |= {part: value, steps.unit: unit}
        rank = str(options.get("variant.rank") or "")
        if rank.isdecimal():
            listed = int(rank) in RANKS
            found |= {steps.rank: RANKS.index(int(rank))} if listed else {}
            found[steps.exact] = "" if listed else rank
        if name := options.get("variant.name"):
            found |= steps.variant_fields.place(str(name), options)
        return found

    def updates(self, values: Values) -> Values:
        """Gradio's updates for these values, without those that their input cannot hold."""
        steps = self._steps
        made: Values = {part: gr.update(value=_held(part, value)) for part, value in values.items()}
        listed = dataset_choices(list_datasets(steps.home))
        if made.pop(steps.dataset, None) and values[steps.dataset] in [name for _, name in listed]:
            made[steps.dataset] = offer(listed, values[steps.dataset])
        if (unit := values.get(steps.unit)) is not None:
            made |= {steps.steps: made.get(steps.steps, {}) | gr.update(visible=unit == "steps"),
                     steps.seconds: made.get(steps.seconds, {}) | gr.update(visible=unit == "seconds")}  # fmt: skip
        name = values.get(steps.variant)
        if name not in VARIANTS:
            made.pop(steps.variant, None)
            return made
        family, ranked = VARIANTS[name].family, gr.update(visible=method_card.has_rank(name))
        shown = dict(zip(steps.variant_fields.components(), steps.variant_fields.show(name), strict=True))
        for part, update in shown.items():
            made[part] = update | (made.get(part, {}) if update.get("visible") else {})
        return made | {
            steps.family: gr.update(value=family), steps.variant: offer(variants_of(family), name), steps.shown: name,
            steps.card: method_card.card(name), steps.equation: method_card.equation(name), steps.knob: ranked,
            steps.exact: made.get(steps.exact, {}) | ranked,
        }  # fmt: skip


def _held(part: Any, value: Any) -> Any:
    """A value in the type of its input: text for a text field, a number for a number field if it is one."""
    if isinstance(part, gr.Textbox):
        return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(part, gr.Number | gr.Slider) and isinstance(value, str):
        return float(value) if value.replace(".", "", 1).isdecimal() else None
    return value


def _flat(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, values in config.model_dump().items():
        if isinstance(values, dict):
            found |= {f"{section}.{name}": value for name, value in values.items()}
    return found
