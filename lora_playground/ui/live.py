"""The right side of Fine-tune: idle, running or done, drawn from a run's folder and its job. It starts no run.

Every part has a signature of what it shows; a part whose signature is unchanged is not sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lora_playground import plots
from lora_playground.errors import PlaygroundError
from lora_playground.jobs.supervisor import Job
from lora_playground.plots.spectrum import short_name
from lora_playground.runs import Run
from lora_playground.runs.history import RunProgress
from lora_playground.ui import cards
from lora_playground.ui.controls import Dropdown, offer
from lora_playground.ui.exports import Exports
from lora_playground.ui.shell import Shell, actions, draw, note, points

UNTICKED = "#7d8f96"
"""Colour of a run that is looked at without being ticked."""


@dataclass
class Changes:
    """Collects what is new for one browser: component → update, for parts whose signature differs from the last one."""

    seen: dict[str, Any]
    updates: dict[Any, Any] = field(default_factory=dict)

    def put(self, name: str, component: Any, signature: Any, make: Callable[[], Any]) -> None:
        """Adds the update that `make` gives, unless this browser has that signature already."""
        if self.seen.get(name, self) != signature:
            self.seen = {**self.seen, name: signature}
            self.updates[component] = make()


@dataclass
class Live:
    """The parts of the view, in the order in which they stand."""

    status: gr.HTML
    stops: gr.Row
    stop: gr.Button
    ways: gr.Row
    resume: gr.Button
    chat: gr.Button
    spectrum: gr.Button
    compare: gr.Button
    exports: gr.Row
    probes: gr.HTML
    pictures: gr.Column
    loss: gr.Plot
    loss_words: gr.HTML
    map: gr.Plot
    map_words: gr.HTML
    scree: gr.Plot
    scree_words: gr.HTML
    module: gr.Dropdown
    clicks: gr.HTML
    problem: gr.HTML

    def outputs(self) -> list[Any]:
        """All parts that `render` may update."""
        return [
            self.status, self.stops, self.stop, self.ways, self.resume, self.probes, self.pictures, self.loss,
            self.loss_words, self.map, self.map_words, self.scree, self.scree_words, self.module, self.chat,
            self.spectrum, self.compare, self.exports,
        ]  # fmt: skip


def build(exports: Exports) -> Live:
    """Makes the parts where it is called; `exports` offers a finished run as files."""
    status = actions("", elem_id="lp-status")
    with gr.Row(visible=False, elem_id="lp-stops") as stops:
        stop = gr.Button("Stop (Esc)", variant="stop", elem_id="lp-stop")
    with gr.Row(visible=False, elem_id="lp-ways") as ways:
        chat = gr.Button("Chat with it", variant="primary", elem_id="lp-way-chat")
        spectrum = gr.Button("See its spectrum", elem_id="lp-way-spectrum")
        compare = gr.Button("Compare runs", elem_id="lp-way-compare")
        resume = gr.Button("Resume", variant="primary", elem_id="lp-resume", visible=False)
    files = exports.build()
    problem = gr.HTML("", apply_default_css=False, elem_id="lp-view-problem")
    probes = gr.HTML("", apply_default_css=False, elem_id="lp-probes")
    with gr.Column(visible=False, elem_id="lp-pictures") as pictures:
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=300):
                loss = gr.Plot(show_label=False, elem_classes="lp-plot", elem_id="lp-loss")
                loss_words = gr.HTML("", apply_default_css=False, elem_classes="lp-words")
            with gr.Column(min_width=300):
                map_ = gr.Plot(show_label=False, elem_classes="lp-plot", elem_id="lp-map")
                map_words = gr.HTML("", apply_default_css=False, elem_classes="lp-words")
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=300):
                scree = gr.Plot(show_label=False, elem_classes="lp-plot", elem_id="lp-scree")
            with gr.Column(min_width=200, elem_id="lp-module-column"):
                scree_words = gr.HTML("", apply_default_css=False, elem_classes="lp-words")
                module = Dropdown(
                    [],
                    label="Module in this picture",
                    info="or click a square of the map",
                    elem_id="lp-module",
                    filterable=False,
                )
    clicks = points("lp-map")
    return Live(
        status, stops, stop, ways, resume, chat, spectrum, compare, files, probes, pictures, loss,
        loss_words, map_, map_words, scree, scree_words, module, clicks, problem,
    )  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """A run as the view needs it; `mine` where who looks may stop and resume it."""

    run: Run
    job: Job
    progress: RunProgress
    label: str
    colour: str
    rank: int | None
    mine: bool


def look(shell: Shell, identity: str, ticked: list[str], visitor: str) -> Looked | None:
    """The run of that id as a visitor sees it, or None where there is none any more."""
    try:
        run = shell.store.get(identity)
        config = run.config()
        job = shell.supervisor.job(identity)
    except PlaygroundError:
        return None
    colour = plots.run_colour(ticked.index(identity)) if identity in ticked else UNTICKED
    rank = getattr(config.variant, "rank", None)
    mine = not job.owner or job.owner == visitor
    return Looked(run, job, shell.store.progress(run), config.label, colour, rank, mine)


def render(live: Live, changes: Changes, looked: Looked, module: str | None) -> None:
    """Adds to `changes` what is new about a run."""
    job, progress = looked.job, looked.progress
    active = not job.ended
    result = looked.run.result() if job.state == "done" else None
    names = list(progress.spectra.get("spectra", {})) or [entry[0] for entry in progress.plan.get("modules", [])]
    if module not in names:
        module = names[len(names) // 2] if names else None
    bar = (
        job.id, job.state, job.position, job.stopping, looked.colour, progress.version if active else 0,
        len(progress.messages),
    )  # fmt: skip
    changes.put("status", live.status, bar, lambda: _status(looked, result))
    may_stop, may_resume = active and looked.mine, job.resumable and looked.mine
    changes.put("stops", live.stops, may_stop, lambda: gr.update(visible=may_stop))
    changes.put(
        "stop",
        live.stop,
        job.stopping,
        lambda: gr.update(interactive=not job.stopping, value="Stopping…" if job.stopping else "Stop (Esc)"),
    )
    changes.put("ways", live.ways, job.ended, lambda: gr.update(visible=job.ended))
    for name, button in (("chat", live.chat), ("spectrum", live.spectrum), ("exports", live.exports)):
        changes.put(f"way-{name}", button, job.state == "done", lambda: gr.update(visible=job.state == "done"))
    changes.put("resume", live.resume, may_resume, lambda: gr.update(visible=may_resume))
    asked = (job.id, progress.changed["probe"], looked.colour)
    changes.put("probes", live.probes, asked, lambda: cards.probes(progress, looked.colour))
    started = bool(progress.plan)
    changes.put("pictures", live.pictures, started, lambda: gr.update(visible=started))
    if started:
        changes.put("module", live.module, (job.id, len(names), module), lambda: _choices(names, module))
        _draw(live, changes, looked, module)


def _draw(live: Live, changes: Changes, looked: Looked, module: str | None) -> None:
    progress, colour = looked.progress, looked.colour
    key = (looked.run.id, progress.curve_version, colour)
    changes.put("loss", live.loss, key, lambda: draw(plots.loss_figure(progress, colour)))
    changes.put("loss-words", live.loss_words, key, lambda: note(plots.describe_loss(progress)))
    ranks = progress.spectra.get("effective_rank", {})
    spot = (looked.run.id, progress.changed["spectra"], module)
    changes.put("map", live.map, spot, lambda: draw(plots.map_figure(ranks, selected=module or "")))
    changes.put("map-words", live.map_words, spot, lambda: note(plots.describe_map(ranks)))
    values = progress.spectra.get("spectra", {}).get(module or "", [])
    series = [(looked.label, colour, values)]
    tone = (*spot, colour)
    changes.put(
        "scree", live.scree, tone, lambda: draw(plots.scree_figure(series, rank=looked.rank, module=module or ""))
    )
    changes.put("scree-words", live.scree_words, tone, lambda: note(plots.describe_scree("", values, rank=looked.rank)))


def clear(live: Live, changes: Changes, idle: str, signature: Any) -> None:
    """Adds to `changes` the idle view."""
    changes.put("status", live.status, ("idle", signature), lambda: idle)
    for name, part in (("stops", live.stops), ("ways", live.ways), ("pictures", live.pictures)):
        changes.put(name, part, False, lambda: gr.update(visible=False))
    changes.put("probes", live.probes, "", lambda: "")


def _choices(names: list[str], module: str | None) -> Any:
    return offer([(short_name(name), name) for name in names], module)


def _status(looked: Looked, result: dict[str, Any] | None) -> str:
    job, progress, label, colour = looked.job, looked.progress, looked.label, looked.colour
    if job.state == "queued":
        wait = f"It starts in {cards.rough(job.eta)}." if job.eta else ""
        return cards.waiting(label, colour, job.position, wait)
    if job.state == "done" and result is not None:
        return cards.done(label, colour, result) + cards.messages(progress)
    if job.ended:
        failure = looked.run.error() or {"message": job.error_message}
        return cards.stopped(label, colour, job.state, progress, failure, looked.mine) + cards.messages(progress)
    return cards.progress(label, colour, job.state, progress) + cards.messages(progress)
