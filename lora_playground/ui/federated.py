"""The tab Federated: several strategies side by side on the same clients and data, live, each as a run of its own.

It starts runs and draws their events; what a strategy is comes from the registry, what may be set from the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_playground.config import FederatedConfig, RunConfig, options
from lora_playground.data.catalogue import get_dataset, list_datasets
from lora_playground.errors import PlaygroundError
from lora_playground.federated import clients as parties
from lora_playground.federated.config import table
from lora_playground.federated.partition import Partition, remarks
from lora_playground.federated.preparation import divide
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.plots import federated as pictures
from lora_playground.plots import run_colour
from lora_playground.runs import Run
from lora_playground.ui import cards
from lora_playground.ui.federated_view import colours, describe_strategies, note, read_progress, results_table
from lora_playground.ui.forms import Fields, nest
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import SLOTS, Shell, draw
from lora_playground.ui.words import count

FIRST = ("fedit", "fedex", "flexlora", "ffa")
PLACED = ("federated.strategy",)
SPLIT = ("federated.clients", "federated.partition", "federated.concentration", "federated.group")
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
SETS: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""For events that tick runs: only the queue tells the page that a State has changed."""
SECONDS = 1.5


@dataclass
class _Parts:
    """The tab's inputs and outputs."""

    dataset: gr.Dropdown
    strategies: gr.CheckboxGroup
    main: Fields
    more: Fields
    training: Fields
    start: gr.Button
    stop: gr.Button
    problem: gr.HTML
    cards: gr.HTML
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
    nonce: gr.Textbox
    compared: gr.State
    seen: gr.State

    def inputs(self) -> set[Any]:
        own = {self.dataset, self.strategies, self.nonce}
        return own | {part for fields in (self.main, self.more, self.training) for part in fields.inputs.values()}


def build_federated(shell: Shell, tab: gr.Tab) -> None:
    """Makes the tab where it is called and connects it."""
    identity = Identity(shell.home)
    compared, seen = gr.State([]), gr.State("")
    with gr.Row(elem_id="lp-federated", equal_height=False):
        with gr.Column(scale=2, min_width=300):
            form = _form(shell)
        with gr.Column(scale=5, min_width=320):
            view = _view()
    parts = _Parts(**form, **view, compared=compared, seen=seen)
    clock = gr.Timer(SECONDS)
    _connect(shell, tab, identity, parts, clock)


build = build_federated


def _form(shell: Shell) -> dict[str, Any]:
    """The left side: data, strategies, clients and rounds, Start."""
    datasets = [(f"{card.label} · {count(card.train)} rows", card.name) for card in list_datasets(shell.home)]
    known = {option.path: option for option in options(FederatedConfig, "federated.")}
    first = ("clients", "rounds", "local_steps", "ranks", "partition", "concentration", "drop_out")
    main = [known[f"federated.{name}"] for name in first]
    rest = [option for option in known.values() if option not in main and option.path not in PLACED]
    trained = [option for option in options(RunConfig) if option.path in TRAINED]
    gr.HTML(
        '<p class="lp-note">Several parties train the same model on rows that they keep. Only small factors travel, '
        "and a server puts them together. Tick several ways to do that and see what each gets right, and what it "
        "costs.</p>",
        apply_default_css=False,
    )
    names = [name for _, name in datasets]
    dataset = gr.Dropdown(
        datasets,
        value="sentiment" if "sentiment" in names else next(iter(names), None),
        label="Data",
        filterable=False,
        elem_id="lp-fed-dataset",
    )
    strategies = gr.CheckboxGroup(
        [(strategy.label, name) for name, strategy in STRATEGIES.items()],
        value=list(FIRST),
        label="Strategies to compare, one run each",
        elem_id="lp-fed-strategies",
        elem_classes="lp-chips",
    )
    with gr.Accordion("What these strategies do", open=False, elem_classes="lp-fold"):
        about = gr.HTML(describe_strategies(FIRST), apply_default_css=False, elem_id="lp-fed-cards")
    fields = Fields(main)
    fields.inputs["federated.partition"].value = "dirichlet"  # an uneven split is what there is to see
    with gr.Accordion("Advanced", open=False, elem_classes="lp-fold"):
        more, training = Fields(rest), Fields(trained)
    for path, part in training.inputs.items():  # the tab Fine-tune has inputs of the same options
        part.elem_id = "lp-fed-" + path.replace(".", "-").replace("_", "-")
    problem = gr.HTML("", apply_default_css=False, elem_id="lp-fed-problem")
    with gr.Row(elem_id="lp-fed-go"):
        start = gr.Button("▶  Start", variant="primary", elem_id="lp-fed-start", min_width=140)
        stop = gr.Button("Stop (Esc)", variant="stop", elem_id="lp-fed-stop", min_width=110, visible=False)
    nonce = gr.Textbox("", visible="hidden", elem_classes="lp-hidden", label="nonce", elem_id="lp-fed-nonce")
    return {
        "nonce": nonce,
        "dataset": dataset,
        "strategies": strategies,
        "cards": about,
        "main": fields,
        "more": more,
        "training": training,
        "problem": problem,
        "start": start,
        "stop": stop,
    }


TRAINED = ("model.source", "data.rehearsal", "training.batch_tokens", "training.learning_rate", "training.seed")


def _view() -> dict[str, Any]:
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
            run = gr.Dropdown([], label="Run", filterable=False, elem_id="lp-fed-run")
            module = gr.Dropdown([], label="Module", filterable=False, elem_id="lp-fed-module")
        plots["spectrum"], words["spectrum"] = _plot("spectrum", draw(pictures.round_spectrum_figure(None)))
        with gr.Row(elem_id="lp-fed-alone"):
            client = gr.Dropdown(
                [], label="One client alone", info="kept when a run is done", filterable=False, elem_id="lp-fed-client"
            )
            beside = gr.Button("Chat: base, this client, global", elem_id="lp-fed-beside", min_width=220)
        said = gr.HTML("", apply_default_css=False, elem_id="lp-fed-said")
    return {
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


# --- what is connected to what ----------------------------------------------------------------------------------------


def _connect(shell: Shell, tab: gr.Tab, identity: Identity, parts: _Parts, clock: gr.Timer) -> None:
    def show_split(given: dict[Any, Any]) -> tuple[Any, str]:
        return draw_split(shell, parts, given)

    def submit(given: dict[Any, Any], request: gr.Request) -> tuple[Any, ...]:
        return start_runs(shell, parts, given, identity.of(request), str(given[parts.nonce] or ""))

    def refresh(compared: list[str], ticked: list[str], seen: str, chosen: str, module: str) -> Any:
        return follow(shell, parts, compared or federated_runs(shell, ticked), seen, chosen, module, ticked)

    def stop(compared: list[str], request: gr.Request) -> str:
        return stop_runs(shell, compared, identity.of(request))

    def chat(chosen: str, client: str, ticked: list[str]) -> tuple[Any, str]:
        return put_beside(shell, chosen, client, ticked)

    watched = [parts.dataset.change, *(parts.main.inputs[p].change for p in SPLIT if p in parts.main.inputs)]
    watched += [parts.more.inputs[p].change for p in SPLIT if p in parts.more.inputs]
    gr.on([tab.select, *watched], show_split, parts.inputs(), [parts.split, parts.split_words], **QUIET)
    parts.strategies.change(describe_strategies, parts.strategies, parts.cards, **QUIET)
    looking = [parts.compared, shell.ticked, parts.seen, parts.run, parts.module]
    drawn = [parts.table, parts.body, parts.stop, parts.run, parts.module, parts.client, parts.seen]
    drawn += [*parts.plots.values(), *parts.words.values()]
    parts.start.click(None, None, parts.nonce, js="() => lp.onceNonce()").then(
        submit, parts.inputs() | {shell.ticked, parts.compared}, [parts.compared, shell.ticked, parts.problem], **SETS
    ).then(refresh, looking, drawn, **QUIET)
    parts.stop.click(stop, parts.compared, parts.problem, **QUIET)
    gr.on([clock.tick, tab.select, parts.run.input, parts.module.input], refresh, looking, drawn, **QUIET)
    parts.beside.click(chat, [parts.run, parts.client, shell.ticked], [shell.ticked, parts.said], **SETS).then(
        None, parts.said, None, js="(said) => { if (!said.includes('lp-error')) lp.open('Chat'); }"
    )


# --- what happens -----------------------------------------------------------------------------------------------------


def config_of(parts: _Parts, given: Mapping[Any, Any]) -> RunConfig:
    """The form as one RunConfig, with the first strategy; raises ConfigError."""
    values: dict[str, Any] = {}
    for fields in (parts.main, parts.more, parts.training):
        values |= fields.read(given)
    values["federated.ranks"] = whole_numbers(values.get("federated.ranks"))
    values["data.dataset"] = given[parts.dataset] or ""
    return RunConfig.parse(nest(values))


def whole_numbers(value: Any) -> Any:
    """['2', '4'] as [2, 4]; what is no whole number is left for the schema to refuse."""
    if not isinstance(value, list):
        return value
    return [int(part) if isinstance(part, str) and part.isdigit() else part for part in value]


def split_of(shell: Shell, config: RunConfig) -> Partition:
    """Who would hold which rows; raises ConfigError or DataError."""
    return divide(get_dataset(config.data.dataset, shell.home), config)[0]


def draw_split(shell: Shell, parts: _Parts, given: Mapping[Any, Any]) -> tuple[Any, str]:
    """The stacked bar and its sentence, or why there is none."""
    try:
        partition = split_of(shell, config_of(parts, given))
    except PlaygroundError as failure:
        return draw(pictures.partition_figure(None)), cards.error(str(failure))
    event = partition.bars()
    warnings = "".join(cards.warning(sentence) for sentence in remarks(partition))
    return draw(pictures.partition_figure(event)), note(pictures.describe_partition(event)) + warnings


def start_runs(
    shell: Shell, parts: _Parts, given: Mapping[Any, Any], owner: str, nonce: str = ""
) -> tuple[Any, Any, str]:
    """Queues one run for each ticked strategy; nothing is queued where one of them cannot be run.

    Two calls with the same `nonce`, as of a double click, queue the runs once.
    """
    started: list[str] = []
    try:
        config = config_of(parts, given)
        made = table(config, given[parts.strategies] or [])
        split_of(shell, config)
        for number, one in enumerate(made):
            once = f"{nonce}-federated-{number}" if nonce else None
            started.append(shell.supervisor.submit(one, owner, once).id)
    except PlaygroundError as failure:
        if not started:
            return gr.skip(), gr.skip(), cards.error(str(failure))
        problem = cards.error(f"{len(started)} runs were queued; the next was refused. {failure}")
        return started, tick(given[shell.ticked], started), problem
    return started, tick(given[shell.ticked], started), ""


def tick(ticked: Sequence[str], fresh: Sequence[str]) -> list[str]:
    """The first four of these runs ticked, so that the other tabs show them."""
    return [*fresh[:SLOTS], *([""] * (SLOTS - len(fresh[:SLOTS])))] if fresh else list(ticked)


def stop_runs(shell: Shell, compared: Sequence[str], owner: str) -> str:
    """Stops those of these runs that have not ended."""
    try:
        for run in compared:
            if not shell.supervisor.job(run).ended:
                shell.supervisor.cancel(run, owner if shell.supervisor.job(run).owner else None)
    except PlaygroundError as failure:
        return cards.error(str(failure))
    return ""


def federated_runs(shell: Shell, ticked: Sequence[str]) -> list[str]:
    """Those of the ticked runs that are federated; after a reload they are what the tab shows."""
    found = []
    for shown in shell.shown(ticked):
        try:
            if shown.run.config().federated is not None:
                found.append(shown.run.id)
        except PlaygroundError:
            continue
    return found


def follow(
    shell: Shell, parts: _Parts, compared: Sequence[str], seen: str, chosen: str, module: str,
    ticked: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Everything that is new in the compared runs; nothing is sent where nothing is."""
    found = {
        identity: progress
        for identity, colour in colours(compared, ticked).items()
        if (progress := read_progress(shell, identity, colour)) is not None
    }
    chosen = chosen if chosen in found else next(iter(found), "")
    last = found[chosen].rounds[-1] if chosen and found[chosen].rounds else None
    modules = list(last.get("spectra", {})) if last else []
    module = module if module in modules else modules[0] if modules else ""
    signature = repr(
        [(i, p.state, p.colour, len(p.rounds), len(p.messages)) for i, p in found.items()] + [chosen, module]
    )
    if signature == seen:
        return gr.skip()
    series = [(p.label, p.colour, p.rounds) for p in found.values()]
    kept = _kept(shell, chosen)
    updates: dict[Any, Any] = {
        parts.table: results_table(list(found.values())),
        parts.body: gr.update(visible=bool(found)),
        parts.stop: gr.update(visible=any(progress.active for progress in found.values())),
        parts.run: gr.update(choices=[(p.label, i) for i, p in found.items()], value=chosen or None),
        parts.module: gr.update(choices=modules, value=module or None),
        parts.client: gr.update(choices=kept, value=kept[0] if kept else None),
        parts.seen: signature,
    }
    for measure in pictures.MEASURES:
        updates[parts.plots[measure]] = draw(pictures.rounds_figure(series, measure))
        updates[parts.words[measure]] = note(pictures.describe_rounds(series, measure))
    updates[parts.plots["bytes"]] = draw(pictures.bytes_figure(series))
    updates[parts.words["bytes"]] = note(pictures.describe_bytes(series))
    colour = found[chosen].colour if chosen else run_colour(0)
    updates[parts.plots["spectrum"]] = draw(pictures.round_spectrum_figure(last, module, colour))
    updates[parts.words["spectrum"]] = note(pictures.describe_round_spectrum(last))
    return updates


def _kept(shell: Shell, identity: str) -> list[str]:
    if not identity:
        return []
    try:
        return parties.kept_clients(shell.store.get(identity))
    except PlaygroundError:
        return []


def put_beside(shell: Shell, chosen: str, client: str, ticked: Sequence[str]) -> tuple[Any, str]:
    """Makes a run of one client's own adapter and ticks it with the global one; Chat has the base first anyway."""
    if not chosen or not client:
        return gr.skip(), cards.error("A client's own adapter is kept when the run is done; choose such a run first.")
    try:
        run: Run = shell.store.get(chosen)
        alone = parties.as_run(shell.store, run, client)
    except PlaygroundError as failure:
        return gr.skip(), cards.error(str(failure))
    # The global run keeps its place, and so its colour; the others make room.
    slots = [one if one == run.id else "" for one in ticked]
    for identity in (run.id, alone.id):
        if identity not in slots:
            slots[slots.index("")] = identity
    return slots, note(f"Ticked: the global model and {client} alone. Chat has the base beside them.")
