"""The form of the tab Fine-tune: model, data, method, budget, Train. It makes a RunConfig of the inputs and starts
nothing.

Datasets, variants and options come from the catalogue, the registry and the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.config import Option, RunConfig, options
from lora_playground.data.catalogue import DatasetCard, get_dataset, list_datasets
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.estimates.arithmetic import step_flops
from lora_playground.estimates.epochs import epochs
from lora_playground.estimates.memory import seen_overhead
from lora_playground.estimates.time import estimate_time
from lora_playground.machine.device import device
from lora_playground.ui import cards, costs, empty, method_card, model_step, options_file, pictures, upload
from lora_playground.ui.controls import Dropdown, Radio, Slider, offer
from lora_playground.ui.forms import Fields, VariantFields, field, help_text, nest, plain
from lora_playground.ui.preset_chips import preset_chips
from lora_playground.ui.preview import Preview
from lora_playground.ui.shell import QUIET, Shell, actions
from lora_playground.ui.words import count, escape
from lora_playground.variants import VARIANTS
from lora_playground.wording import counted

RANKS = (1, 2, 4, 8, 16, 32, 64)
"""The ranks of the slider. The field beside it and the command line accept any rank."""

PLACED = ("data.dataset", "model.source", "training.steps", "training.seconds", "variant.rank")
"""Options with a place of their own in the form; all others are listed under Advanced."""

_TO_THE_LAB = (
    '<p class="lp-note lp-live">Which rank is enough? <button class="lp-link" data-act="sweep">Sweep over ranks, '
    "methods, rates or seeds</button> with these settings.</p>"
)

_DEFAULTS: dict[str, Option] = {option.path: option for option in options(RunConfig)}
RANK = Option("rank", "int", None, "Any other rank; empty takes the slider's.", optional=True)


@dataclass
class Steps:
    """The inputs of the form.

    Attributes:
        presets: chips that fill the budget in; `form_memory` listens to them.
        advanced, variant_fields: inputs derived from the schema.
        exact: field for any rank; if it is empty the slider's rank holds. file: a config that replaces the form's.
        home: has the uploads.
        shown: the variant whose options the form shows. It follows `variant` once the server has answered.
        nonce: set by the page at a click on Train; the same for two clicks within two seconds.
        ended: its event `act` says that a run has ended.
    """

    dataset: gr.Dropdown
    examples: gr.HTML
    family: gr.Dropdown
    variant: gr.Radio
    card: gr.HTML
    equation: gr.Markdown
    knob: gr.Column
    rank: gr.Slider
    picture: gr.HTML
    presets: gr.HTML
    unit: gr.Radio
    steps: gr.Number
    seconds: gr.Number
    forecast: gr.HTML
    source: gr.Dropdown
    advanced: Fields
    variant_fields: VariantFields
    exact: gr.Textbox
    file: gr.File
    problem: gr.HTML
    train: gr.Button
    shown: gr.Textbox
    nonce: gr.Textbox
    ended: gr.HTML
    home: Path

    def inputs(self) -> set[Any]:
        """All inputs that Train needs, as a set, so that Gradio gives the listener one dict."""
        own = {self.dataset, self.variant, self.rank, self.unit, self.steps, self.seconds, self.source, self.nonce}
        own |= {self.exact, self.file}
        return own | set(self.advanced.inputs.values()) | set(self.variant_fields.components())

    def config(self, given: Mapping[Any, Any]) -> RunConfig:
        """The run that the form asks for. Raises ConfigError."""
        if given[self.file]:
            return options_file.read(given[self.file])
        name = given[self.variant]
        if name not in VARIANTS:  # possible for a moment, while the list of another family is loaded
            raise ConfigError("", name, "choose a method")
        return self._config(given, name, self.chosen_rank(given) if method_card.has_rank(name) else None)

    def chosen_rank(self, given: Mapping[Any, Any]) -> Any:
        """The rank in the field, unchecked, or that of the slider if the field is empty."""
        typed = plain(RANK, given[self.exact])
        return RANKS[int(given[self.rank])] if typed is None else typed

    def _config(self, given: Mapping[Any, Any], name: str, rank: Any) -> RunConfig:
        values = self.advanced.read(given)
        values |= {"data.dataset": given[self.dataset] or "", "model.source": given[self.source] or ""}
        timed = given[self.unit] == "seconds"
        values["training.seconds"] = given[self.seconds] if timed else None
        values["training.steps"] = _whole(given[self.steps]) if not timed else _DEFAULTS["training.steps"].default
        data = nest(values) | {"variant": {"name": name, **self.variant_fields.read(name, given)}}
        if rank is not None:
            data["variant"]["rank"] = rank
        config = RunConfig.parse(data)
        uploads = {card.name: card.label for card in list_datasets(self.home) if card.uploaded}
        if config.data.dataset in uploads and not config.title:
            # An upload's name is a number, so the run is named after its file.
            file, rest = uploads[config.data.dataset][:50], config.label.removeprefix(config.data.dataset)
            config = RunConfig.parse(data | {"title": (file + rest)[:80]})
        return config


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def build(shell: Shell, page: gr.Blocks) -> Steps:
    """Makes the form where it is called, and connects its inputs to each other and to the loading of the page."""
    name = _first(list(VARIANTS), RunConfig.model_fields["variant"].get_default(call_default_factory=True).name)
    with gr.Column(elem_classes="lp-step"):
        _heading(1, "Model", "choose, or write a folder or hub id")
        source, _ = model_step.build()
    with gr.Column(elem_classes="lp-step"):
        dataset, examples, uploaded = _data_step(shell)
        seen = Preview(shell.home)
        seen.build()
    with gr.Column(elem_classes="lp-step"):
        method = _method_step(name)
    with gr.Column(elem_classes="lp-step"):
        budget = _budget_step()
        memory = gr.HTML(elem_id="lp-cost", apply_default_css=False)
        with gr.Accordion("Memory by cause", open=False, elem_classes="lp-fold", elem_id="lp-causes"):
            causes = gr.HTML(apply_default_css=False)
        gr.HTML(_TO_THE_LAB, apply_default_css=False, elem_id="lp-to-sweep")
        with gr.Accordion("Advanced", open=False, elem_classes="lp-fold", elem_id="lp-advanced"):
            exact = field(RANK, elem_id="lp-rank-exact")
            variant_fields = VariantFields(("rank",), name)
            advanced = Fields(option for option in _DEFAULTS.values() if option.path not in PLACED)
            file = options_file.build()
    with gr.Column(elem_id="lp-train-bar"):
        problem = gr.HTML("", apply_default_css=False, elem_id="lp-problem")
        train = gr.Button("▶  Train", variant="primary", elem_id="lp-train", size="lg")
    shown = gr.Textbox(name or "", visible="hidden", elem_classes="lp-hidden", label="shown", elem_id="lp-shown")
    nonce = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="nonce", elem_id="lp-nonce")
    ended = gr.HTML("", js_on_load="lp.live.whenEnded(trigger); // 'act'", html_template=" ", elem_classes="lp-hidden")
    parts = [dataset, examples, *method, *budget, source, advanced, variant_fields, exact, file]
    made = Steps(*[*parts, problem, train, shown, nonce, ended, shell.home])
    _connect(shell, page, made, uploaded)
    _connect_costs(shell, page, made, memory, causes)
    seen.connect(dataset, source, advanced.inputs["data.max_length"])
    return made


def _connect_costs(shell: Shell, page: gr.Blocks, made: Steps, memory: gr.HTML, causes: gr.HTML) -> None:
    """Draws estimates of time and memory, and the plan on the empty page, whenever something changes on which they
    depend. That includes the end of a run, from whose time later estimates are made."""

    plan = empty.build()

    def draw(given: dict[Any, Any]) -> tuple[Any, ...]:
        try:
            config, machine = made.config(given), device()
            costs.check(config)
            known = estimate_time(shell.store, config, machine.kind == "cuda")
            timed = config.training.seconds is not None
            steps = known.steps[1] if timed and known else None
            passes = None if timed and steps is None else epochs(config, shell.home, steps)
            clock = costs.time_line([known], timed) + costs.budget_line(config, passes, step_flops(config))
            line, causes_ = costs.panel(config, machine, seen_overhead(shell.store, config.model.source))
            return clock, line, causes_, preset_chips(config), empty.plan(config, shell.home)
        except PlaygroundError as failure:
            return costs.refused(failure), "", "", preset_chips(None), gr.skip()

    paths = (
        "model.quantisation", "data.max_length", "data.train_rows", "data.rehearsal",
        "training.batch_tokens", "training.accumulation",
        "training.gradient_checkpointing", "training.precision", "training.validate_every", "training.early_stop",
    )  # fmt: skip
    typed = [component.change for component in (made.exact, *made.variant_fields.components())]
    changes = [made.file.change, *(made.advanced.inputs[path].change for path in paths)]
    parts = [made.dataset, made.source, made.unit, made.steps, made.seconds, made.shown]
    changes += [part.change for part in parts]
    shown = [made.forecast, memory, causes, made.presets, plan]
    last: dict[str, Any] = QUIET | {"trigger_mode": "always_last"}
    gr.on([page.load, made.rank.change, *typed, *changes], draw, made.inputs(), shown, **last)
    made.ended.act(draw, made.inputs(), shown, **last)


def _data_step(shell: Shell) -> tuple[gr.Dropdown, gr.HTML, upload.Upload]:
    _heading(2, "Data", "what it learns from")
    datasets = list_datasets(shell.home)
    first = _first([card.name for card in datasets], _DEFAULTS["data.dataset"].default)
    dataset = Dropdown(
        dataset_choices(datasets),
        value=first,
        label="Dataset",
        show_label=False,
        filterable=False,
        elem_id="lp-dataset",
    )
    examples = gr.HTML(show_examples(shell, first), apply_default_css=False, elem_id="lp-examples")
    return dataset, examples, upload.build(shell)


def _method_step(name: str | None) -> list[Any]:
    """The inputs and outputs of the step, in the order of the attributes of `Steps`."""
    _heading(3, "Method", "how the update is written")
    mine = VARIANTS[name].family if name else None
    families = sorted({variant.family for variant in VARIANTS.values()}, key=lambda one: (one != mine, one))
    family = Dropdown(families, value=mine, label="Family", show_label=False, filterable=False, elem_id="lp-family")
    variant = Radio(
        variants_of(mine), value=name, label="Variant", show_label=False, elem_classes="lp-chips", elem_id="lp-variant"
    )
    with gr.Column(visible=method_card.has_rank(name)) as knob:
        gr.HTML('<h3 class="lp-sub">Rank <small>how many directions it may use</small></h3>', apply_default_css=False)
        rank = Slider(
            0, len(RANKS) - 1, value=RANKS.index(8), step=1, label="Rank r", show_label=False,
            elem_id="lp-rank-slider", buttons=[],
        )  # fmt: skip
        ticks = "".join(f"<span>{rank}</span>" for rank in RANKS)
        gr.HTML(f'<div class="lp-ticks" aria-hidden="true">{ticks}</div>', apply_default_css=False)
    picture = gr.HTML(elem_id="lp-picture", apply_default_css=False)
    equation = gr.Markdown(method_card.equation(name), elem_id="lp-equation", latex_delimiters=method_card.DELIMITERS)
    card = gr.HTML(method_card.card(name), apply_default_css=False, elem_id="lp-card")
    return [family, variant, card, equation, knob, rank, picture]


def _budget_step() -> tuple[gr.HTML, gr.Radio, gr.Number, gr.Number, gr.HTML]:
    _heading(4, "Budget", "how long it may train")
    presets = actions(preset_chips(RunConfig()), elem_id="lp-presets")
    unit = Radio(
        ["steps", "seconds"], value="steps", show_label=False, label="Unit", elem_classes="lp-chips", elem_id="lp-unit"
    )
    counted, timed = _DEFAULTS["training.steps"], _DEFAULTS["training.seconds"]
    steps = gr.Number(
        counted.default, label="Steps", show_label=False, info=help_text(counted), elem_id="lp-steps-number"
    )
    seconds = gr.Number(
        30, label="Seconds", show_label=False, info=help_text(timed), visible=False, elem_id="lp-seconds"
    )
    return presets, unit, steps, seconds, gr.HTML(elem_id="lp-forecast", apply_default_css=False)


def _first(names: list[str], wanted: str) -> str | None:
    return wanted if wanted in names else names[0] if names else None


def _heading(number: int, title: str, small: str) -> None:
    gr.HTML(
        f'<h2 class="lp-step-head"><span class="no" aria-hidden="true">{number}</span>{title} '
        f"<small>{small}</small></h2>",
        apply_default_css=False,
    )


def dataset_choices(datasets: list[DatasetCard]) -> list[tuple[str, str]]:
    return [(f"{card.label} · {counted(card.train, 'row', count(card.train))}", card.name) for card in datasets]


def variants_of(family: str | None) -> list[tuple[str, str]]:
    return [(variant.label, variant.name) for variant in VARIANTS.values() if variant.family == family]


def show_examples(shell: Shell, name: str | None) -> str:
    """The first rows of a dataset as chat bubbles, or the reason why there are none."""
    if not name:
        return cards.error("No dataset is installed; upload a file.")
    try:
        dataset = get_dataset(name, shell.home)
    except PlaygroundError as failure:
        return cards.error(str(failure))
    about = f'<p class="lp-note">{escape(dataset.card.description)}</p>' if dataset.card.description else ""
    return about + pictures.bubbles(dataset.train)


def _connect(shell: Shell, page: gr.Blocks, made: Steps, uploaded: upload.Upload) -> None:
    """Connects the form's inputs to each other. Nothing here starts a run."""
    sized = {made.variant, made.rank, made.exact, made.source, *made.variant_fields.components()}

    def draw_rank(given: dict[Any, Any]) -> str:
        name = given[made.variant]
        chosen = {"name": name, **made.variant_fields.read(name, given)}
        ranked = {"rank": made.chosen_rank(given)} if method_card.has_rank(name) else {}
        return method_card.picture(chosen | ranked, given[made.source] or "")

    def choose_family(family: str, shown: str) -> list[Any]:
        choices = variants_of(family)
        if shown in dict(choices).values():
            return [gr.skip()] * (1 + len(fields))
        return [offer(choices, choices[0][1]), *choose_variant(choices[0][1], shown)]

    def choose_variant(name: str, shown: str) -> list[Any]:
        if name == shown:
            return [gr.skip()] * len(fields)
        return [
            name,
            method_card.card(name),
            method_card.equation(name),
            gr.update(visible=method_card.has_rank(name)),
            gr.update(visible=method_card.has_rank(name)),
            *made.variant_fields.show(name),
        ]

    def choose_unit(unit: str) -> tuple[Any, Any]:
        return gr.update(visible=unit == "steps"), gr.update(visible=unit == "seconds")

    def add_dataset(name: str) -> Any:
        return offer(dataset_choices(list_datasets(shell.home)), name) if name else gr.skip()

    made.dataset.change(lambda name: show_examples(shell, name), made.dataset, made.examples, **QUIET)
    uploaded.stored.change(add_dataset, uploaded.stored, made.dataset, **QUIET)
    # Listeners that set options use `input`, not `change`: that also fires, late and repeatedly, after the server has
    # set a value, and would overwrite what a person has typed meanwhile. They ignore an `input` that fires twice.
    fields = [made.shown, made.card, made.equation, made.knob, made.exact, *made.variant_fields.components()]
    last: dict[str, Any] = QUIET | {"trigger_mode": "always_last"}
    made.family.input(choose_family, [made.family, made.shown], [made.variant, *fields], **last)
    made.variant.input(choose_variant, [made.variant, made.shown], fields, **last)
    typed = [component.change for component in (made.exact, *made.variant_fields.components())]
    gr.on([page.load, made.rank.change, made.shown.change, made.source.change, *typed], draw_rank, sized, made.picture,
          **last)  # fmt: skip
    made.unit.input(choose_unit, made.unit, [made.steps, made.seconds], **QUIET)
