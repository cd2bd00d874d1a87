"""The tab Federated: compares strategies on the same clients and data, each as a run of its own, while they run.

It starts runs and draws their events. Strategies come from their registry, options from the schema.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import gradio as gr

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.errors import PlaygroundError
from lora_playground.federated import clients as parties
from lora_playground.federated.config import table
from lora_playground.federated.partition import Partition, remarks
from lora_playground.federated.preparation import divide
from lora_playground.plots import federated as pictures
from lora_playground.plots import run_colour
from lora_playground.plots.spectrum import short_name
from lora_playground.runs import Run
from lora_playground.ui import cards, costs
from lora_playground.ui.controls import offer
from lora_playground.ui.exports import Exports
from lora_playground.ui.federated_form import Parts, form, view
from lora_playground.ui.federated_view import (
    Progress,
    colours,
    describe_strategies,
    note,
    read_progress,
    results_table,
    told_apart,
)
from lora_playground.ui.forms import nest
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import QUIET, SETS, SLOTS, Shell, draw
from lora_playground.wording import counted

SPLIT = ("federated.clients", "federated.partition", "federated.concentration", "federated.group")
"""Options on which the split of the rows depends; a change draws it again."""
SECONDS = 1.5
TOGETHER_SECONDS = 10
"""Runs that were queued within this many seconds count as started by one click on Start."""


def build_federated(shell: Shell, tab: gr.Tab, exports: Exports) -> None:
    """Makes the tab where it is called, and connects it. `exports` offers the chosen run's global adapter as files."""
    identity = Identity(shell.home)
    compared, seen = gr.State([]), gr.State("")
    with gr.Row(elem_id="lp-federated", equal_height=False):
        with gr.Column(scale=2, min_width=300):
            left = form(shell)
        with gr.Column(scale=5, min_width=320):
            right = view(exports)
    parts = Parts(**left, **right, compared=compared, seen=seen)
    clock = gr.Timer(SECONDS)
    _connect(shell, tab, identity, parts, clock)
    exports.connect(parts.run)


build = build_federated


# --- what is connected to what ----------------------------------------------------------------------------------------


def _connect(shell: Shell, tab: gr.Tab, identity: Identity, parts: Parts, clock: gr.Timer) -> None:
    def show_split(given: dict[Any, Any]) -> tuple[Any, str]:
        return draw_split(shell, parts, given)

    def submit(given: dict[Any, Any], request: gr.Request) -> tuple[Any, ...]:
        return start_runs(shell, parts, given, identity.of(request), str(given[parts.nonce] or ""))

    def refresh(compared: list[str], ticked: list[str], seen: str, chosen: str, module: str) -> Any:
        return follow(shell, parts, in_view(shell, compared, ticked), seen, chosen, module, ticked)

    def stop(compared: list[str], ticked: list[str], request: gr.Request) -> str:
        return stop_runs(shell, in_view(shell, compared, ticked), identity.of(request))

    def resume(compared: list[str], ticked: list[str], request: gr.Request) -> str:
        return resume_runs(shell, in_view(shell, compared, ticked), identity.of(request))

    def chat(chosen: str, client: str, ticked: list[str]) -> tuple[Any, str]:
        return put_beside(shell, chosen, client, ticked)

    watched = [parts.dataset.change, *(parts.main.inputs[p].change for p in SPLIT if p in parts.main.inputs)]
    watched += [parts.more.inputs[p].change for p in SPLIT if p in parts.more.inputs]
    # A change that comes while another one is being drawn is drawn afterwards.
    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    gr.on([tab.select, *watched], show_split, parts.inputs(), [parts.split, parts.split_words], **last)
    parts.strategies.change(describe_strategies, parts.strategies, parts.cards, **last)
    looking = [parts.compared, shell.ticked, parts.seen, parts.run, parts.module]
    drawn = [parts.table, parts.body, parts.stop, parts.resume, parts.run, parts.module, parts.client, parts.seen]
    drawn.append(parts.exports)
    drawn += [*parts.plots.values(), *parts.words.values()]
    parts.start.click(None, None, parts.nonce, js="() => lp.onceNonce()").then(
        submit, parts.inputs() | {shell.ticked, parts.compared}, [parts.compared, shell.ticked, parts.problem], **SETS
    ).then(refresh, looking, drawn, **QUIET)
    runs = [parts.compared, shell.ticked]
    parts.stop.click(stop, runs, parts.problem, **QUIET)
    parts.resume.click(resume, runs, parts.problem, **QUIET).then(refresh, looking, drawn, **QUIET)
    gr.on([clock.tick, tab.select, parts.run.input, parts.module.input], refresh, looking, drawn, **QUIET)
    parts.beside.click(chat, [parts.run, parts.client, shell.ticked], [shell.ticked, parts.said], **SETS).then(
        None, parts.said, None, js="(said) => { if (!said.includes('lp-error')) lp.open('Chat'); }"
    )


# --- what happens -----------------------------------------------------------------------------------------------------


def config_of(parts: Parts, given: Mapping[Any, Any]) -> RunConfig:
    """The form as one RunConfig, with the first strategy; raises ConfigError."""
    values: dict[str, Any] = {}
    for fields in (parts.main, parts.more, parts.training):
        values |= fields.read(given)
    values["federated.ranks"] = whole_numbers(values.get("federated.ranks"))
    values["data.dataset"] = given[parts.dataset] or ""
    values["variant.name"] = given[parts.variant] or ""
    return RunConfig.parse(nest(values))


def whole_numbers(value: Any) -> Any:
    """['2', '4'] as [2, 4]. What is no whole number is returned unchanged, and the schema refuses it."""
    if not isinstance(value, list):
        return value
    return [int(part) if isinstance(part, str) and part.isdigit() else part for part in value]


def split_of(shell: Shell, config: RunConfig) -> Partition:
    """Which client would have which rows. Raises ConfigError or DataError."""
    return divide(get_dataset(config.data.dataset, shell.home), config)[0]


def draw_split(shell: Shell, parts: Parts, given: Mapping[Any, Any]) -> tuple[Any, str]:
    """(figure of the split, its sentence or the reason why there is none)."""
    try:
        partition = split_of(shell, config_of(parts, given))
    except PlaygroundError as failure:
        return draw(pictures.partition_figure(None)), costs.refused(failure, told=False)
    event = partition.bars()
    warnings = "".join(cards.warning(sentence) for sentence in remarks(partition))
    return draw(pictures.partition_figure(event)), note(pictures.describe_partition(event)) + warnings


def start_runs(
    shell: Shell, parts: Parts, given: Mapping[Any, Any], owner: str, nonce: str = ""
) -> tuple[Any, Any, str]:
    """Queues one run for each ticked strategy, or none if one of them cannot run.

    Two calls with the same `nonce`, such as of a double click, queue the runs only once.
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
            return gr.skip(), gr.skip(), costs.refused(failure, told=False)
        problem = cards.error(f"{counted(len(started), 'run')} queued; the next was refused. {failure}")
        return started, tick(given[shell.ticked], started), problem
    return started, tick(given[shell.ticked], started), ""


def tick(ticked: Sequence[str], fresh: Sequence[str]) -> list[str]:
    """Ticks the first four of these runs, so that the other tabs show them."""
    return [*fresh[:SLOTS], *([""] * (SLOTS - len(fresh[:SLOTS])))] if fresh else list(ticked)


def stop_runs(shell: Shell, compared: Sequence[str], owner: str) -> str:
    """Stops those of these runs that have not ended."""
    try:
        for run in compared:
            if not shell.supervisor.job(run).ended:
                shell.supervisor.cancel(run, owner)
    except PlaygroundError as failure:
        return cards.error(str(failure))
    return ""


def resume_runs(shell: Shell, compared: Sequence[str], owner: str) -> str:
    """Resumes those of these runs that were stopped or failed, from their last whole round."""
    try:
        for run in compared:
            if shell.supervisor.job(run).resumable:
                shell.supervisor.resume(run, owner)
    except PlaygroundError as failure:
        return cards.error(str(failure))
    return ""


def in_view(shell: Shell, compared: Sequence[str], ticked: Sequence[str]) -> list[str]:
    """The runs that the tab shows: those started on this page, until other federated runs are ticked."""
    of_ticks = federated_runs(shell, ticked)
    return of_ticks if of_ticks and not set(of_ticks) <= set(compared) else list(compared)


def federated_runs(shell: Shell, ticked: Sequence[str]) -> list[str]:
    """The ticked runs that are federated, and those started together with them, since only four can be ticked. After a
    reload the tab shows these."""
    found: list[str] = []
    for shown in shell.shown(ticked):
        try:
            if shown.run.config().federated is not None:
                found += [shown.run.id, *started_with(shell, shown.run)]
        except PlaygroundError:
            continue
    return list(dict.fromkeys(found))


def started_with(shell: Shell, run: Run) -> list[str]:
    """Runs that differ from this one only in their strategy and were queued at the same time, oldest first."""
    try:
        names = [entry.name for entry in os.scandir(shell.store.folder)]
    except OSError:
        return []
    near = sorted(name for name in names if name != run.id and abs(_second(name) - _second(run.id)) <= TOGETHER_SECONDS)
    mine = _but_strategy(run)
    found: list[str] = []
    for name in near:
        try:
            if mine is not None and _but_strategy(shell.store.get(name)) == mine:
                found.append(name)
        except PlaygroundError:
            continue
    return found


def _second(identity: str) -> float:
    """When a run was queued, by its id."""
    try:
        return datetime.strptime(identity[:15], "%Y%m%d-%H%M%S").timestamp()
    except ValueError:
        return float("-inf")


def _but_strategy(run: Run) -> RunConfig | None:
    config = run.config()
    if config.federated is None:
        return None
    return config.model_copy(update={"federated": config.federated.model_copy(update={"strategy": ""})})


def follow(
    shell: Shell, parts: Parts, compared: Sequence[str], seen: str, chosen: str, module: str,
    ticked: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Updates for everything that has changed in the compared runs."""
    found = {
        identity: progress
        for identity, colour in colours(compared, ticked).items()
        if (progress := read_progress(shell, identity, colour)) is not None
    }
    told_apart(list(found.values()))
    chosen = chosen if chosen in found else next(iter(found), "")
    last = found[chosen].rounds[-1] if chosen and found[chosen].rounds else None
    modules = list(last.get("spectra", {})) if last else []
    module = module if module in modules else modules[0] if modules else ""
    drawn = repr([(i, p.state, p.colour, len(p.rounds), len(p.messages)) for i, p in found.items()] + [chosen, module])
    signature = drawn + repr([p.now for p in found.values()])
    if signature == seen:
        return gr.skip()
    table = {parts.table: results_table(list(found.values())), parts.seen: signature}
    if seen.startswith(drawn):  # only the client that trains has changed
        return table
    return table | _pictures(shell, parts, found, chosen, last, module)


def _pictures(
    shell: Shell, parts: Parts, found: Mapping[str, Progress], chosen: str, last: dict[str, Any] | None, module: str
) -> dict[Any, Any]:
    """Updates of everything that depends on a run's state or rounds."""
    modules = list(last.get("spectra", {})) if last else []
    series = [(p.label, p.colour, p.rounds) for p in found.values()]
    kept = _kept(shell, chosen)
    active = any(progress.active for progress in found.values())
    updates: dict[Any, Any] = {
        parts.body: gr.update(visible=bool(found)),
        parts.stop: gr.update(visible=active),
        parts.resume: gr.update(visible=not active and any(progress.resumable for progress in found.values())),
        parts.exports: gr.update(visible=bool(chosen) and found[chosen].state == "done"),
        parts.run: offer([(p.label, i) for i, p in found.items()], chosen),
        parts.module: offer([(short_name(one), one) for one in modules], module),
        parts.client: offer([(one, one) for one in kept], kept[0] if kept else None),
    }
    for measure in pictures.MEASURES:
        updates[parts.plots[measure]] = draw(pictures.rounds_figure(series, measure))
        updates[parts.words[measure]] = note(pictures.describe_rounds(series, measure))
    updates[parts.plots["bytes"]] = draw(pictures.bytes_figure(series))
    updates[parts.words["bytes"]] = note(pictures.describe_bytes(series))
    colour = found[chosen].colour if chosen else run_colour(0)
    updates[parts.plots["spectrum"]] = draw(pictures.round_spectrum_figure(last, module, colour))
    updates[parts.words["spectrum"]] = note(pictures.describe_round_spectrum(last))
    ranks: list[int] = next((p.partition["ranks"] for p in found.values() if p.partition), [])
    updates[parts.plots["rank"]] = draw(pictures.rank_figure(series, ranks))
    updates[parts.words["rank"]] = note(pictures.describe_rank(series, ranks))
    return updates


def _kept(shell: Shell, identity: str) -> list[str]:
    if not identity:
        return []
    try:
        return parties.kept_clients(shell.store.get(identity))
    except PlaygroundError:
        return []


def put_beside(shell: Shell, chosen: str, client: str, ticked: Sequence[str]) -> tuple[Any, str]:
    """Makes a run of one client's own adapter, and ticks it beside the global one."""
    if not chosen or not client:
        return gr.skip(), cards.error("A client's own adapter is kept when the run is done; choose such a run first.")
    try:
        run: Run = shell.store.get(chosen)
        alone = parties.as_run(shell.store, run, client)
    except PlaygroundError as failure:
        return gr.skip(), cards.error(str(failure))
    # The global run keeps its slot, and so its colour; all others are unticked.
    slots = [one if one == run.id else "" for one in ticked]
    for identity in (run.id, alone.id):
        if identity not in slots:
            slots[slots.index("")] = identity
    return slots, note(f"Ticked: the global model and {client} alone. Chat has the base beside them.")
