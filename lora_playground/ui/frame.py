"""The page around the tabs: header, list of runs, tabs, the clock that follows runs, and what the address bar keeps.

A run depends on nothing here: the clock only reads, and a page that is closed or loaded anew changes no run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.chat.client import ChatClient
from lora_playground.errors import PlaygroundError
from lora_playground.jobs.supervisor import Job
from lora_playground.machine.device import device
from lora_playground.models.catalogue import list_models
from lora_playground.ui import cards, chat, compare, finetune, learn, live, sidebar, spectrum
from lora_playground.ui.exports import Exports
from lora_playground.ui.federated import build_federated
from lora_playground.ui.identity import Identity
from lora_playground.ui.live import Changes
from lora_playground.ui.reproduce import Reproduce
from lora_playground.ui.run_list_cache import RunListCache
from lora_playground.ui.shell import QUIET, SETS, SLOTS, Shell, actions, toggled, with_ticked
from lora_playground.ui.words import count

FAST, SLOW = 1.0, 3.0
"""Seconds between two looks while something runs, and while nothing does."""

TABS = (("fine", "Fine-tune"), ("spectrum", "Spectrum"), ("chat", "Chat"), ("compare", "Compare"),
        ("federated", "Federated"), ("learn", "Learn"))  # fmt: skip

"""For events that set a gr.State others listen to: only the queue tells the page that a State has changed."""


@dataclass
class Page:
    """The frame's own parts and states."""

    header: gr.HTML
    runs: gr.HTML
    tabs: gr.Tabs
    tab: gr.State
    viewed: gr.State
    ticked: gr.State
    seen: gr.State
    clock: gr.Timer
    address: gr.HTML


class Frame:
    """Builds the page and answers its events.

    Args:
        shell: the run store and the queue.
        client: the chat process's side in this process.
        identity: tells visitors apart.
    """

    def __init__(self, shell_parts: Mapping[str, Any], client: ChatClient, identity: Identity) -> None:
        self._parts, self._client, self._identity = shell_parts, client, identity
        # Gradio hands out files only from the system's folder for temporary ones; this one goes with the process.
        self._downloads = tempfile.TemporaryDirectory(prefix="lora-playground-", ignore_cleanup_errors=True)
        self._exports = Exports(shell_parts["store"], Path(self._downloads.name))
        self._global = Exports(shell_parts["store"], Path(self._downloads.name), prefix="lp-fed")
        self._again = Reproduce(shell_parts["store"], Path(self._downloads.name))
        self._run_list = RunListCache(shell_parts["store"], shell_parts["supervisor"])

    def build(self) -> gr.Blocks:
        """The whole page as a gr.Blocks that is not launched yet."""
        with gr.Blocks(title="LoRA Playground", analytics_enabled=False, fill_width=True) as page:
            viewed, seen, tab = gr.State(""), gr.State({}), gr.State("fine")
            ticked = gr.State([""] * SLOTS)
            self._shell = shell = Shell(ticked=ticked, tuning=gr.State({}), **self._parts)
            clock = gr.Timer(FAST)
            header = actions("", elem_id="lp-header")
            address = gr.HTML("", js_on_load="lp.address(props, watch)", html_template=" ", elem_classes="lp-hidden")
            with gr.Row(elem_id="lp-frame", equal_height=False):
                with gr.Column(elem_id="lp-side", min_width=0):
                    runs = actions("", elem_id="lp-runs")
                with gr.Column(elem_id="lp-main", min_width=0):
                    with gr.Tabs(selected="fine", elem_id="lp-tabs") as tabs:
                        self._tabs(shell, page)
            self._page = Page(header, runs, tabs, tab, viewed, ticked, seen, clock, address)
            self._connect(page)
        return page

    def _tabs(self, shell: Shell, page: gr.Blocks) -> None:
        for name, title in TABS:
            with gr.Tab(title, id=name, elem_id=f"lp-tab-{name}") as tab:
                if name == "fine":
                    with gr.Row(elem_id="lp-fine", equal_height=False):
                        with gr.Column(elem_id="lp-steps", min_width=0):
                            self._steps = finetune.build(shell, page)
                        with gr.Column(elem_id="lp-view", min_width=0):
                            self._live = live.build(self._exports)
                            self._again.build()
                elif name == "chat":
                    self._chat = chat.build(shell, tab, self._client, self._identity)
                elif name == "learn":
                    learn.build()
                elif name == "federated":
                    build_federated(shell, tab, self._global)
                elif name == "spectrum":
                    spectrum.build(shell, tab)
                else:
                    compare.build(shell, tab)
            tab.select(None, None, None, js=f"() => lp.url({{tab: '{name if name != 'fine' else ''}'}})")

    # --- what is connected to what -----------------------------------------------------------------------------------

    def _connect(self, page: gr.Blocks) -> None:
        own, view, steps = self._page, self._live, self._steps
        state = [own.viewed, own.ticked, own.seen, view.module]
        shown = [own.header, own.runs, own.address, own.clock, own.seen, steps.ended, *view.outputs()]

        page.load(None, None, None, js="() => lp.recall()")
        page.load(self.first, None, [part for part in shown if part is not own.address], **QUIET)
        restored = page.load(self.restore, None, [own.viewed, own.ticked, own.tabs], **SETS)
        settled = restored.then(None, None, None, js="() => lp.settle()").then(self.refresh, state, shown, **QUIET)
        self._chat.open_link(settled)
        own.clock.tick(self.refresh, state, shown, **QUIET)
        for changed in (own.viewed, own.ticked):
            changed.change(self.refresh, state, shown, **QUIET)
        view.module.input(self.refresh, state, shown, **QUIET)
        view.clicks.point(self.pick_module, [own.viewed], view.module, **QUIET).then(
            self.refresh, state, shown, **QUIET
        )
        for part in (own.runs, view.status):
            part.act(self.act, [own.viewed, own.ticked], [own.viewed, own.ticked, own.tabs], **SETS)
        steps.train.click(None, None, steps.nonce, js="() => lp.onceNonce()").then(
            self.submit, steps.inputs() | {own.viewed, own.ticked}, [own.viewed, own.ticked, steps.problem], **SETS
        ).success(None, None, None, js="() => lp.reveal('lp-view')")
        chosen = [part.input for part in (steps.dataset, steps.family, steps.variant)]
        gr.on(chosen, None, None, steps.problem, js="() => ''")
        view.stop.click(self.stop, own.viewed, view.problem, **QUIET).then(self.refresh, state, shown, **QUIET)
        view.resume.click(self.resume, own.viewed, view.problem, **QUIET).then(self.refresh, state, shown, **QUIET)
        for name, button in (("chat", view.chat), ("spectrum", view.spectrum), ("compare", view.compare)):
            button.click(self.go(name), [own.viewed, own.ticked], [own.ticked, own.tabs], **SETS)
        self._exports.connect(own.viewed)
        self._again.connect(own.viewed)

    # --- events ------------------------------------------------------------------------------------------------------

    def first(self, request: gr.Request) -> Any:
        """What the page shows while its states still wait for the queue: the same as after that, but sooner."""
        viewed, ticked, _ = self.restore(request)
        made = self.refresh(viewed, ticked, {}, None, request)
        made.pop(self._steps.ended, None)  # what a run costs is drawn at loading anyway
        made.pop(self._page.address, None)  # the address bar is read, and not written, until all of it was read
        made[self._page.seen] = {name: what for name, what in made[self._page.seen].items() if name != "address"}
        return made

    def restore(self, request: gr.Request) -> tuple[Any, ...]:
        """What the address bar says: the run looked at, the ticked ones, the tab; unknown ids are dropped."""
        query = dict(request.query_params)
        ticked = [self._known(identity) for identity in query.get("runs", "").split(",")][:SLOTS]
        tab = query.get("tab", "")
        return (
            self._known(query.get("run", "")),
            ticked + [""] * (SLOTS - len(ticked)),
            # Without one the page has its first tab open already, or one that was clicked while this was on its way.
            gr.Tabs(selected=tab) if tab in dict(TABS) else gr.skip(),
        )

    def _known(self, identity: str) -> str:
        try:
            return self._shell.store.get(identity).id if identity else ""
        except PlaygroundError:
            return ""

    def refresh(
        self, viewed: str, ticked: list[str], seen: dict[str, Any], module: str | None, request: gr.Request
    ) -> Any:
        """Everything that is new since this browser's last look."""
        own, changes = self._page, Changes(seen)
        if seen:
            self._shell.supervisor.make_ready()  # a page is up, so a run may be asked for any moment
        look, visitor = self._run_list.read(), self._identity.of(request)
        self._header(changes, look.jobs, visitor)
        listed = {entry.id for entry in look.entries}
        older = [self._run_list.entry(identity) for identity in ticked if identity and identity not in listed]
        entries = [*look.entries, *(entry for entry in older if entry is not None)]
        more = look.total - len(entries)
        changes.put(
            "runs",
            own.runs,
            (tuple(entries), tuple(ticked), viewed, more),
            lambda: sidebar.runs(entries, ticked, viewed, more),
        )
        done = tuple(entry.id for entry in look.entries if entry.state == "done")
        changes.put("ended", self._steps.ended, done, lambda: f"{len(done)} {done[0] if done else ''}")
        kept = {"run": viewed, "runs": ",".join(ticked)}
        changes.put("address", own.address, tuple(kept.values()), lambda: kept)
        looked = live.look(self._shell, viewed, ticked, visitor) if viewed else None
        if looked is None:
            live.clear(self._live, changes, cards.idle(look.last), look.last)
        else:
            live.render(self._live, changes, looked, module)
        pace = FAST if any(not job.ended for job in look.jobs) else SLOW
        changes.put("pace", own.clock, pace, lambda: gr.Timer(pace))
        if not changes.updates:
            return gr.skip()
        return {**changes.updates, own.seen: changes.seen}

    def _header(self, changes: Changes, jobs: Sequence[Job], owner: str) -> None:
        waiting = [job for job in jobs if job.state == "queued"]
        running = sum(1 for job in jobs if job.running)
        mine = min(
            (job for job in waiting if owner and job.owner == owner), key=lambda job: job.position or 0, default=None
        )
        words = sidebar.queue_words(running, len(waiting), mine.position if mine else None, mine.eta if mine else None)
        machine = device()
        # Memory is told to whole percents, so that the header is not sent anew at every look.
        verified = self._chat.verified
        signature = (words, verified, machine.name, round(100 * machine.used / (machine.total or 1)))
        changes.put(
            "header", self._page.header, signature, lambda: sidebar.header(self._base_label(), verified, machine, words)
        )

    def _base_label(self) -> str:
        card = list_models()[0]
        return f"{card.label.lower()} {count(card.parameters)}" if card.parameters else card.label.lower()

    def act(self, viewed: str, ticked: list[str], event: gr.EventData) -> tuple[Any, ...]:
        """A click in the list of runs or in a card: look at a run, tick it, begin a new one."""
        what, identity = str(event.act), self._known(str(event.id))
        if what == "new":
            return "", ticked, gr.Tabs(selected="fine")
        if what == "open" and identity:
            return identity, ticked, gr.Tabs(selected="fine")
        if what == "tick" and identity:
            return viewed, toggled(ticked, identity), gr.skip()
        return gr.skip(), gr.skip(), gr.skip()

    def pick_module(self, viewed: str, event: gr.EventData) -> Any:
        """A click on a square of the map chooses its module."""
        names = [entry[0] for entry in self._modules(viewed)]
        return event.custom if event.custom in names else gr.skip()

    def _modules(self, viewed: str) -> list[list[Any]]:
        try:
            return self._shell.store.progress(self._shell.store.get(viewed)).plan.get("modules", [])
        except PlaygroundError:
            return []

    def submit(self, given: dict[Any, Any], request: gr.Request) -> tuple[Any, Any, Any]:
        """Starts what the form asks for; an error stands above the button and nothing is queued."""
        own, steps = self._page, self._steps
        owner, nonce = self._identity.of(request), str(given[steps.nonce] or "")
        ticked = list(given[own.ticked])
        started: list[Job] = []
        try:
            for number, config in enumerate(steps.configs(given)):
                started.append(self._shell.supervisor.submit(config, owner, f"{nonce}-{number}" if nonce else None))
        except PlaygroundError as failure:
            prefix = f"{len(started)} runs were queued; the next was refused. " if started else ""
            if not started:
                return gr.skip(), gr.skip(), cards.error(f"{prefix}{failure}")
            return started[0].id, with_ticked(ticked, [job.id for job in started]), cards.error(f"{prefix}{failure}")
        self._run_list.read(fresh=True)
        return started[0].id, with_ticked(ticked, [job.id for job in started]), ""

    def stop(self, viewed: str, request: gr.Request) -> str:
        """Stops the run looked at; only who started it may."""
        return self._ask(lambda: self._shell.supervisor.cancel(viewed, self._owner(viewed, request)))

    def resume(self, viewed: str, request: gr.Request) -> str:
        """Goes on with the run looked at from its last checkpoint."""
        return self._ask(lambda: self._shell.supervisor.resume(viewed, self._owner(viewed, request)))

    def _owner(self, viewed: str, request: gr.Request) -> str | None:
        # A run that nobody in this queue owns (made by the command line) is anybody's.
        return self._identity.of(request) if self._shell.supervisor.job(viewed).owner else None

    def _ask(self, do: Any) -> str:
        try:
            do()
        except PlaygroundError as failure:
            return cards.error(str(failure))
        self._run_list.read(fresh=True)
        return ""

    def go(self, name: str) -> Any:
        """A listener that ticks the run looked at and opens a tab."""

        def listener(viewed: str, ticked: list[str]) -> tuple[Any, Any]:
            return with_ticked(ticked, [viewed]) if viewed else ticked, gr.Tabs(selected=name)

        return listener
