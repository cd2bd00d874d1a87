"""The tab Federated: several strategies side by side on the same clients and data, live, each as a run of its own.

It starts runs and draws their events; what a strategy is comes from the registry, what may be set from the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lora_playground.config import FederatedConfig, RunConfig, options
from lora_playground.data.catalogue import get_dataset, list_datasets
from lora_playground.errors import PlaygroundError
from lora_playground.federated import clients as parties
from lora_playground.federated.config import client_ranks, table
from lora_playground.federated.partition import Partition, remarks
from lora_playground.federated.preparation import divide
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.plots import federated as pictures
from lora_playground.plots import run_colour
from lora_playground.runs import Run
from lora_playground.ui import cards
from lora_playground.ui.forms import Fields, nest
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import SLOTS, Shell, draw
from lora_playground.ui.words import count, duration, escape, percent, significant, size

FIRST = ("fedit", "fedex", "flexlora", "ffa")
PLACED = ("federated.strategy",)
SPLIT = ("federated.clients", "federated.partition", "federated.concentration", "federated.group")
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
SETS: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""For events that tick runs: only the queue tells the page that a State has changed."""
SECONDS = 1.5


@dataclass
class Progress:
    """What the events of one federated run say."""

    label: str
    colour: str
    state: str
    rounds: list[dict[str, Any]] = field(default_factory=list)
    partition: dict[str, Any] = field(default_factory=dict)
    planned: int = 0
    seconds: float = 0.0
    problem: str = ""
    messages: list[str] = field(default_factory=list)


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
    plots: dict[str, gr.Plot]
    words: dict[str, gr.HTML]
    run: gr.Dropdown
    module: gr.Dropdown
    client: gr.Dropdown
    beside: gr.Button
    said: gr.HTML
    compared: gr.State
    seen: gr.State

    def inputs(self) -> set[Any]:
        own = {self.dataset, self.strategies}
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
    with gr.Row():
        start = gr.Button("▶  Start", variant="primary", elem_id="lp-fed-start")
        stop = gr.Button("Stop", elem_id="lp-fed-stop")
    return {
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
    with gr.Row(equal_height=False):
        for name in ("score", "error"):
            with gr.Column(min_width=280):
                plots[name], words[name] = _plot(name, draw(pictures.rounds_figure([], name)))
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            plots["loss"], words["loss"] = _plot("loss", draw(pictures.rounds_figure([], "loss")))
        with gr.Column(min_width=280):
            plots["bytes"], words["bytes"] = _plot("bytes", draw(pictures.bytes_figure([])))
    with gr.Row():
        run = gr.Dropdown([], label="Run", filterable=False, elem_id="lp-fed-run")
        module = gr.Dropdown([], label="Module", filterable=False, elem_id="lp-fed-module")
    plots["spectrum"], words["spectrum"] = _plot("spectrum", draw(pictures.round_spectrum_figure(None)))
    with gr.Row():
        client = gr.Dropdown([], label="One client alone", filterable=False, elem_id="lp-fed-client")
        beside = gr.Button("Tick base, this client and global for Chat", elem_id="lp-fed-beside")
    said = gr.HTML("", apply_default_css=False, elem_id="lp-fed-said")
    return {
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
        return start_runs(shell, parts, given, identity.of(request))

    def refresh(compared: list[str], ticked: list[str], seen: str, chosen: str, module: str) -> Any:
        return follow(shell, parts, compared or federated_runs(shell, ticked), seen, chosen, module)

    def stop(compared: list[str], request: gr.Request) -> str:
        return stop_runs(shell, compared, identity.of(request))

    def chat(chosen: str, client: str, ticked: list[str]) -> tuple[Any, str]:
        return put_beside(shell, chosen, client, ticked)

    watched = [parts.dataset.change, *(parts.main.inputs[p].change for p in SPLIT if p in parts.main.inputs)]
    watched += [parts.more.inputs[p].change for p in SPLIT if p in parts.more.inputs]
    gr.on([tab.select, *watched], show_split, parts.inputs(), [parts.split, parts.split_words], **QUIET)
    parts.strategies.change(describe_strategies, parts.strategies, parts.cards, **QUIET)
    looking = [parts.compared, shell.ticked, parts.seen, parts.run, parts.module]
    drawn = [parts.table, parts.run, parts.module, parts.client, parts.seen]
    drawn += [*parts.plots.values(), *parts.words.values()]
    parts.start.click(
        submit, parts.inputs() | {shell.ticked, parts.compared}, [parts.compared, shell.ticked, parts.problem], **SETS
    ).then(refresh, looking, drawn, **QUIET)
    parts.stop.click(stop, parts.compared, parts.problem, **QUIET)
    gr.on([clock.tick, tab.select, parts.run.input, parts.module.input], refresh, looking, drawn, **QUIET)
    parts.beside.click(chat, [parts.run, parts.client, shell.ticked], [shell.ticked, parts.said], **SETS)


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
    return draw(pictures.partition_figure(event)), _note(pictures.describe_partition(event)) + warnings


def start_runs(shell: Shell, parts: _Parts, given: Mapping[Any, Any], owner: str) -> tuple[Any, Any, str]:
    """Queues one run for each ticked strategy; nothing is queued where one of them cannot be run."""
    started: list[str] = []
    try:
        config = config_of(parts, given)
        made = table(config, given[parts.strategies] or [])
        split_of(shell, config)
        for one in made:
            started.append(shell.supervisor.submit(one, owner).id)
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


def read_progress(shell: Shell, identity: str, colour: str) -> Progress | None:
    """What a run's events say; None where the run is gone."""
    try:
        run = shell.store.get(identity)
        job = shell.supervisor.job(identity)
        config = run.config()
    except PlaygroundError:
        return None
    name = config.federated.strategy if config.federated else ""
    label = STRATEGIES[name].label if name in STRATEGIES else job.label
    ranks = set(client_ranks(config)) if config.federated else set()
    if len(ranks) > 1:
        label += f", ranks {min(ranks)} to {max(ranks)}"
    progress = Progress(label, colour, job.state, planned=config.federated.rounds if config.federated else 0)
    progress.problem = job.error_message or ""
    for event in run.history():
        if event["type"] == "round":
            progress.rounds.append(event)
        elif event["type"] == "partition":
            progress.partition = event
        elif event["type"] == "message" and event.get("level") == "warning":
            progress.messages.append(event["text"])
        progress.seconds = float(event.get("t", progress.seconds))
    return progress


def follow(shell: Shell, parts: _Parts, compared: Sequence[str], seen: str, chosen: str, module: str) -> Any:
    """Everything that is new in the compared runs; nothing is sent where nothing is."""
    found = {
        identity: progress
        for slot, identity in enumerate(compared)
        if (progress := read_progress(shell, identity, run_colour(slot))) is not None
    }
    chosen = chosen if chosen in found else next(iter(found), "")
    last = found[chosen].rounds[-1] if chosen and found[chosen].rounds else None
    modules = list(last.get("spectra", {})) if last else []
    module = module if module in modules else modules[0] if modules else ""
    signature = repr([(i, p.state, len(p.rounds), len(p.messages)) for i, p in found.items()] + [chosen, module])
    if signature == seen:
        return gr.skip()
    series = [(p.label, p.colour, p.rounds) for p in found.values()]
    kept = _kept(shell, chosen)
    updates: dict[Any, Any] = {
        parts.table: results_table(list(found.values())),
        parts.run: gr.update(choices=[(p.label, i) for i, p in found.items()], value=chosen or None),
        parts.module: gr.update(choices=modules, value=module or None),
        parts.client: gr.update(choices=kept, value=kept[0] if kept else None),
        parts.seen: signature,
    }
    for measure in pictures.MEASURES:
        updates[parts.plots[measure]] = draw(pictures.rounds_figure(series, measure))
        updates[parts.words[measure]] = _note(pictures.describe_rounds(series, measure))
    updates[parts.plots["bytes"]] = draw(pictures.bytes_figure(series))
    updates[parts.words["bytes"]] = _note(pictures.describe_bytes(series))
    colour = found[chosen].colour if chosen else run_colour(0)
    updates[parts.plots["spectrum"]] = draw(pictures.round_spectrum_figure(last, module, colour))
    updates[parts.words["spectrum"]] = _note(pictures.describe_round_spectrum(last))
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
    slots = tick(ticked, [run.id, alone.id])
    return slots, _note(f"Ticked: the global model and {client} alone. Open Chat: the base stands beside them.")


# --- words ------------------------------------------------------------------------------------------------------------


def describe_strategies(names: Sequence[str]) -> str:
    """What each of these strategies does, sends, and whether it is exact."""
    if not names:
        return cards.warning("Tick at least one strategy.")
    items = []
    for name in names:
        strategy = STRATEGIES[name]
        card = strategy.card
        mixed = "yes" if strategy.heterogeneous else f"no, {strategy.why_equal}"
        note = f"<dt>Note</dt><dd>{escape(card.notes)}</dd>" if card.notes else ""
        items.append(
            f'<div class="lp-method"><h3>{escape(strategy.label)}</h3><p>{escape(card.sentence)}</p><dl>'
            f"<dt>Up</dt><dd>{escape(card.up)}</dd><dt>Down</dt><dd>{escape(card.down)}</dd>"
            f"<dt>Exact</dt><dd>{escape(card.exact)}</dd><dt>Unequal ranks</dt><dd>{escape(mixed)}</dd>"
            f'<dt>Paper</dt><dd><a href="{escape(card.url)}" target="_blank" rel="noopener noreferrer">'
            f"{escape(card.paper)}</a></dd>{note}</dl></div>"
        )
    return "".join(items)


def results_table(found: Sequence[Progress]) -> str:
    """One line a run: state, score, loss, error, what travelled, time."""
    if not found:
        return _note("Press Start: each strategy becomes a run, and its rounds appear here.")
    head = ("strategy", "round", "score", "loss", "aggregation error", "up", "down", "time")
    lines = "".join(_line(progress) for progress in found)
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    said = "".join(cards.error(f"{p.label}: {p.problem}") for p in found if p.problem)
    said += "".join(cards.warning(f"{p.label}: {text}") for p in found for text in p.messages[-3:])
    return f'<div class="lp-table-wrap"><table class="lp-table"><tr>{cells}</tr>{lines}</table></div>{said}'


def _line(progress: Progress) -> str:
    last = progress.rounds[-1] if progress.rounds else {}
    score, error, sent = last.get("score"), last.get("error"), last.get("bytes", {})
    cells = (
        f"{last.get('round', 0)} of {progress.planned}" + ("" if progress.state == "done" else f" ({progress.state})"),
        "–" if score is None else percent(score),
        "–" if last.get("loss") is None else significant(last["loss"]),
        "–" if error is None else "exact" if error < 1e-5 else percent(error),
        size(sent.get("up_total", 0)),
        size(sent.get("down_total", 0)),
        duration(progress.seconds),
    )
    mark = f'<i style="display:inline-block;width:.8em;height:.8em;background:{progress.colour}"></i> '
    return (
        f'<tr><th scope="row">{mark}{escape(progress.label)}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'
    )


def _note(sentence: str) -> str:
    return f'<p class="lp-note" aria-live="polite">{escape(sentence)}</p>'
