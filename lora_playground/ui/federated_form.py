"""The inputs and outputs of the tab Federated and their layout. It connects nothing and starts nothing.

Options come from the schema, strategies from their registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_playground.config import FederatedConfig, LowRankConfig, RunConfig, options
from lora_playground.data.catalogue import list_datasets
from lora_playground.federated.config import VARIANTS as TAKEN
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.plots import federated as pictures
from lora_playground.ui.controls import CheckboxGroup, Dropdown
from lora_playground.ui.exports import Exports
from lora_playground.ui.federated_view import describe_strategies
from lora_playground.ui.forms import Fields
from lora_playground.ui.shell import Shell, draw
from lora_playground.ui.words import count
from lora_playground.variants import VARIANTS
from lora_playground.wording import counted

FIRST = ("fedit", "fedex", "flexlora", "ffa")
PLACED = ("federated.strategy",)
MAIN = ("clients", "rounds", "local_steps", "ranks", "partition", "concentration", "drop_out")
TRAINED = ("model.source", "data.rehearsal", "training.batch_tokens", "training.learning_rate", "training.seed")
DELIMITERS: list[dict[str, str | bool]] = [{"left": "$$", "right": "$$", "display": True}]


@dataclass
class Parts:
    """The tab's inputs and outputs."""

    dataset: gr.Dropdown
    strategies: gr.CheckboxGroup
    variant: gr.Dropdown
    main: Fields
    more: Fields
    training: Fields
    start: gr.Button
    stop: gr.Button
    resume: gr.Button
    problem: gr.HTML
    cards: gr.Markdown
    split: gr.Plot
    split_words: gr.HTML
    table: gr.HTML
    body: gr.Column
    plots: dict[str, gr.Plot]
    words: dict[str, gr.HTML]
    run: gr.Dropdown
    module: gr.Dropdown
    client: gr.Dropdown
    beside: gr.Button
    said: gr.HTML
    exports: gr.Row
    nonce: gr.Textbox
    compared: gr.State
    seen: gr.State

    def inputs(self) -> set[Any]:
        own = {self.dataset, self.strategies, self.variant, self.nonce}
        return own | {part for fields in (self.main, self.more, self.training) for part in fields.inputs.values()}


def form(shell: Shell) -> dict[str, Any]:
    """The left side: data, strategies, clients and rounds, Start."""
    gr.HTML(
        '<p class="lp-note">Several parties train the same model on rows that they keep. Only small factors travel, '
        "and a server puts them together. Tick several ways to do that and see what each gets right, and what it "
        "costs.</p>",
        apply_default_css=False,
    )
    return _what(shell) | _how() | _go()


def _what(shell: Shell) -> dict[str, Any]:
    """Dataset and strategies, with the strategies' cards."""
    datasets = [
        (f"{card.label} · {counted(card.train, 'row', count(card.train))}", card.name)
        for card in list_datasets(shell.home)
    ]
    names = [name for _, name in datasets]
    dataset = Dropdown(
        datasets,
        value="sentiment" if "sentiment" in names else next(iter(names), None),
        label="Data",
        filterable=False,
        elem_id="lp-fed-dataset",
    )
    strategies = CheckboxGroup(
        [(strategy.label, name) for name, strategy in STRATEGIES.items()],
        value=list(FIRST),
        label="Strategies to compare, one run each",
        elem_id="lp-fed-strategies",
        elem_classes="lp-chips",
    )
    with gr.Accordion("What these strategies do", open=False, elem_classes="lp-fold"):
        about = gr.Markdown(describe_strategies(FIRST), latex_delimiters=DELIMITERS, elem_id="lp-fed-cards")
    return {"dataset": dataset, "strategies": strategies, "cards": about}


def _how() -> dict[str, Any]:
    """Clients, ranks, split and rounds; the rest of the options under Advanced."""
    known = {option.path: option for option in options(FederatedConfig, "federated.")}
    main = [known[f"federated.{name}"] for name in MAIN]
    rest = [option for option in known.values() if option not in main and option.path not in PLACED]
    trained = [option for option in options(RunConfig) if option.path in TRAINED]
    trained += list(options(LowRankConfig, "variant."))
    fields = Fields(main)
    fields.inputs["federated.partition"].value = "dirichlet"  # with an uneven split strategies differ
    with gr.Accordion("Advanced", open=False, elem_classes="lp-fold"):
        variant = Dropdown(
            [(VARIANTS[name].label, name) for name in TAKEN if name in VARIANTS], value="lora", label="Variant",
            info="Those whose update is a product B·A that starts at zero.", filterable=False, elem_id="lp-fed-variant",
        )  # fmt: skip
        more, training = Fields(rest), Fields(trained)
    for path, part in training.inputs.items():  # the tab Fine-tune has inputs of the same options
        part.elem_id = "lp-fed-" + path.replace(".", "-").replace("_", "-")
    return {"main": fields, "variant": variant, "more": more, "training": training}


def _go() -> dict[str, Any]:
    """The form's error message, and the buttons."""
    problem = gr.HTML("", apply_default_css=False, elem_id="lp-fed-problem")
    with gr.Row(elem_id="lp-fed-go"):
        start = gr.Button("▶  Start", variant="primary", elem_id="lp-fed-start", min_width=140)
        stop = gr.Button("Stop (Esc)", variant="stop", elem_id="lp-fed-stop", min_width=110, visible=False)
        resume = gr.Button("Resume", elem_id="lp-fed-resume", min_width=110, visible=False)
    nonce = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="nonce", elem_id="lp-fed-nonce")
    return {"problem": problem, "start": start, "stop": stop, "resume": resume, "nonce": nonce}


def view(exports: Exports) -> dict[str, Any]:
    """The right side: the split, the table, and the plots with a sentence under each."""
    split_plot, split_words = _plot("split", draw(pictures.partition_figure(None)))
    listing = gr.HTML("", apply_default_css=False, elem_id="lp-fed-table")
    plots, words = {}, {}
    with gr.Column(visible=False, elem_id="lp-fed-body") as body:
        for pair in (("score", "error"), ("loss", "bytes")):
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                for name in pair:
                    with gr.Column(min_width=280):
                        empty = pictures.bytes_figure([]) if name == "bytes" else pictures.rounds_figure([], name)
                        plots[name], words[name] = _plot(name, draw(empty))
        with gr.Row():
            run = Dropdown([], label="Run", filterable=False, elem_id="lp-fed-run")
            module = Dropdown([], label="Module", filterable=False, elem_id="lp-fed-module")
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=280):
                plots["spectrum"], words["spectrum"] = _plot("spectrum", draw(pictures.round_spectrum_figure(None)))
            with gr.Column(min_width=280):
                plots["rank"], words["rank"] = _plot("rank", draw(pictures.rank_figure([])))
        with gr.Row(elem_id="lp-fed-alone"):
            client = Dropdown(
                [], label="One client alone", info="kept when a run is done", filterable=False, elem_id="lp-fed-client"
            )
            beside = gr.Button("Chat: base, this client, global", elem_id="lp-fed-beside", min_width=220)
        said = gr.HTML("", apply_default_css=False, elem_id="lp-fed-said")
        files = exports.build()
    return {
        "exports": files,
        "body": body,
        "split": split_plot,
        "split_words": split_words,
        "table": listing,
        "plots": plots,
        "words": words,
        "run": run,
        "module": module,
        "client": client,
        "beside": beside,
        "said": said,
    }


def _plot(name: str, value: Any) -> tuple[gr.Plot, gr.HTML]:
    plot = gr.Plot(value, show_label=False, elem_classes="lp-plot", elem_id=f"lp-fed-{name}")
    return plot, gr.HTML("", apply_default_css=False, elem_id=f"lp-fed-{name}-words")
