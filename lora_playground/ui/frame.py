"""The page around the tabs: header, list of runs, tabs, and what people do with runs.

States, progress and plots come from the live route (`feed`) and are drawn by the page's script, which also keeps tab
and runs in the address bar. Runs do not depend on a page: closing it changes no run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.routing import Route

from lora_playground.chat.client import ChatClient
from lora_playground.claims.trials import Trials
from lora_playground.errors import PlaygroundError
from lora_playground.lessons.player import Player
from lora_playground.machine.device import device
from lora_playground.models.catalogue import list_models
from lora_playground.ui import cards, chat, compare, costs, finetune, lab, learn, live, sidebar, spectrum
from lora_playground.ui.claim_routes import ClaimRoutes
from lora_playground.ui.class_routes import ClassRoutes
from lora_playground.ui.empty import AskBase
from lora_playground.ui.exports import Exports
from lora_playground.ui.federated import build_federated
from lora_playground.ui.feed import Feed
from lora_playground.ui.form_memory import FormMemory
from lora_playground.ui.identity import Identity
from lora_playground.ui.lesson_routes import LessonRoutes
from lora_playground.ui.reproduce import Reproduce
from lora_playground.ui.run_list_cache import RunListCache
from lora_playground.ui.shell import QUIET, SETS, SLOTS, Shell, filled, with_ticked
from lora_playground.ui.sweep_routes import SweepRoutes
from lora_playground.ui.words import count

TABS = (("fine", "Fine-tune"), ("spectrum", "Spectrum"), ("chat", "Chat"), ("compare", "Compare"),
        ("lab", "Lab"), ("federated", "Federated"), ("learn", "Learn"))  # fmt: skip


@dataclass
class Page:
    """The frame's own states.

    Attributes:
        viewed: id of the run in view, '' for none. ticked: see `Shell`.
        sync: its event `act` carries the runs that the page shows. told: the number of the newest such event.
        address: sends the page the runs that the server has chosen.
    """

    viewed: gr.State
    ticked: gr.State
    told: gr.State
    sync: gr.HTML
    address: gr.HTML


class Frame:
    """Builds the page and answers its events.

    Args:
        shell_parts: run store, queue and sweeps, for `Shell`. client: of the chat process. identity: identifies
            visitors.
    """

    def __init__(self, shell_parts: Mapping[str, Any], client: ChatClient, identity: Identity) -> None:
        self._parts, self._client, self._identity = shell_parts, client, identity
        # Gradio only serves files from the system's temporary folder. This folder is deleted when the process ends.
        self._downloads = tempfile.TemporaryDirectory(prefix="lora-playground-", ignore_cleanup_errors=True)
        self._exports = Exports(shell_parts["store"], Path(self._downloads.name))
        self._global = Exports(shell_parts["store"], Path(self._downloads.name), prefix="lp-fed")
        self._again = Reproduce(shell_parts["store"], Path(self._downloads.name))
        embedded = list_models()[0]
        self._base = f"{embedded.label.lower()} {count(embedded.parameters) if embedded.parameters else ''}".strip()
        self._run_list = RunListCache(shell_parts["store"], shell_parts["supervisor"], shell_parts["sweeps"])
        self._sweeps = SweepRoutes(shell_parts["sweeps"], identity)
        player = Player(shell_parts["home"], shell_parts["supervisor"])
        self._claims = ClaimRoutes(Trials(shell_parts["home"], shell_parts["supervisor"]), identity)
        self._lessons, self._classes = LessonRoutes(player, identity), ClassRoutes(player, identity)
        self._feed = Feed(shell_parts["supervisor"], self._run_list, identity, self._header)

    def build(self) -> gr.Blocks:
        """The page as a gr.Blocks that is not launched yet."""
        titles = json.dumps(dict(TABS))
        script = (
            f"lp.live.start(trigger, {titles}, '{live.shipped_script('PlotlyPlot')}'); "
            f"lp.lesson.start('{live.shipped_script('katex')}'); lp.class.start(); lp.claims.start(); // 'act'"
        )
        with gr.Blocks(title="LoRA Playground", analytics_enabled=False, fill_width=True) as page:
            viewed, ticked, told = gr.State(""), gr.State([""] * SLOTS), gr.State(0)
            self._shell = shell = Shell(
                ticked=ticked, tuning=gr.State({}), client=self._client, identity=self._identity, **self._parts
            )
            filled("lp-header")
            filled("lp-strip")
            sync = gr.HTML("", js_on_load=script, html_template=" ", elem_classes="lp-hidden")
            self._edits = gr.HTML(
                "", js_on_load="lp.menu.start(trigger); // 'act'", html_template=" ", elem_classes="lp-hidden"
            )
            address = gr.HTML("", js_on_load="lp.live.obey(props, watch)", html_template=" ", elem_classes="lp-hidden")
            with gr.Row(elem_id="lp-frame", equal_height=False):
                with gr.Column(elem_id="lp-side", min_width=0):
                    filled("lp-lesson")
                    filled("lp-runs")
                with gr.Column(elem_id="lp-main", min_width=0), gr.Tabs(selected="fine", elem_id="lp-tabs"):
                    self._tabs(shell, page)
            self._page = Page(viewed, ticked, told, sync, address)
            self._connect(page)
        return page

    def routes(self) -> list[Route]:
        """The routes beside Gradio's own: live, lessons, classes, claims, sweeps."""
        parts = (self._lessons, self._classes, self._claims, self._sweeps)
        return [self._feed.route(), *(route for part in parts for route in part.routes())]

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
                elif name == "lab":
                    lab.build(shell, tab, self._steps, self._identity)
                elif name == "federated":
                    build_federated(shell, tab, self._global)
                elif name == "spectrum":
                    spectrum.build(shell, tab)
                else:
                    compare.build(shell, tab)
            tab.select(None, None, None, js=f"() => lp.live.opened('{name}')")

    # --- what is connected to what -----------------------------------------------------------------------------------

    def _connect(self, page: gr.Blocks) -> None:
        own, view, steps, shell = self._page, self._live, self._steps, self._shell
        page.load(None, None, None, js="() => lp.recall()")
        restored = page.load(self.restore, None, [own.viewed, own.ticked], **SETS)
        self._chat.open_link(restored)
        chosen = [own.viewed, own.ticked, own.told]
        # One after another. "always_last" would send the first of two quick choices twice, and the second never.
        own.sync.act(self.sync, own.told, chosen, trigger_mode="multiple", **SETS | {"concurrency_limit": 1})
        gr.on([own.viewed.change, own.ticked.change], _address, chosen, own.address, **QUIET)
        steps.train.click(None, None, steps.nonce, js="() => lp.onceNonce()").then(
            self.submit, steps.inputs() | {own.viewed, own.ticked}, [own.viewed, own.ticked, steps.problem], **SETS
        )
        chosen_parts = [part.input for part in (steps.dataset, steps.family, steps.variant)]
        gr.on(chosen_parts, None, None, steps.problem, js="() => ''")
        for button, do in ((view.stop, self.stop), (view.resume, self.resume)):
            button.click(do, own.viewed, view.problem, **QUIET).then(None, None, None, js="() => lp.live.ask()")
        view.fresh.click(self.train_anyway, [own.viewed, own.ticked], [own.viewed, own.ticked, view.problem], **SETS)
        FormMemory(steps, shell.store).connect(page)
        AskBase(self._client, shell.home).connect(steps.dataset, steps.source)
        self._edits.act(self.edit, None, view.problem, trigger_mode="multiple", **QUIET).then(
            None, None, None, js="() => { lp.live.ask(); setTimeout(lp.menu.told, 100); }"
        )
        self._exports.connect(own.viewed)
        self._again.connect(own.viewed)

    # --- events ------------------------------------------------------------------------------------------------------

    def restore(self, request: gr.Request) -> tuple[str, list[str]]:
        """The run in view and the ticked runs in the address; unknown ids are dropped."""
        query = dict(request.query_params)
        return self._known(query.get("run", "")), self._slots(query.get("runs", "").split(","))

    def sync(self, told: int, event: gr.EventData) -> tuple[Any, Any, Any]:
        """The run in view and the ticked runs that a person has chosen on the page; unknown ids are dropped. A choice
        that arrives after a later one, with a number below `told`, changes nothing."""
        if int(event.number) < told:
            return gr.skip(), gr.skip(), gr.skip()
        return self._known(str(event.run)), self._slots(event.runs), int(event.number)

    def _slots(self, ids: Any) -> list[str]:
        known = [self._known(str(identity)) for identity in list(ids)[:SLOTS]]
        return known + [""] * (SLOTS - len(known))

    def _known(self, identity: str) -> str:
        try:
            return self._shell.store.get(identity).id if identity else ""
        except PlaygroundError:
            return ""

    def _header(self) -> str:
        return sidebar.header(self._base, self._chat.verified, device())

    def submit(self, given: dict[Any, Any], request: gr.Request) -> tuple[Any, Any, Any]:
        """Queues the form's run; in case of an error nothing is queued, and the message is shown above the button."""
        own, steps = self._page, self._steps
        owner, nonce = self._identity.of(request), str(given[steps.nonce] or "")
        ticked = list(given[own.ticked])
        try:
            job = self._shell.supervisor.submit(steps.config(given), owner, nonce or None)
        except PlaygroundError as failure:
            return gr.skip(), gr.skip(), costs.refused(failure)
        self._run_list.read(fresh=True)
        return job.id, with_ticked(ticked, [job.id]), ""

    def stop(self, viewed: str, request: gr.Request) -> str:
        """Stops the run in view, if the visitor may."""
        return self._ask(lambda: self._shell.supervisor.cancel(viewed, self._identity.of(request)))

    def resume(self, viewed: str, request: gr.Request) -> str:
        """Resumes the run in view from its last checkpoint, if the visitor may."""
        return self._ask(lambda: self._shell.supervisor.resume(viewed, self._identity.of(request)))

    def edit(self, event: gr.EventData, request: gr.Request) -> str:
        """Changes a run's name or note, deletes a run or a sweep, if the visitor may; or changes the visitor's own
        name."""
        identity, what = str(event.id), str(event.what)

        def do() -> None:
            if what == "person":
                self._shell.supervisor.people.rename(self._identity.of(request), str(event.text))
                return
            owner = self._identity.of(request)
            if what == "delete-sweep" and self._shell.sweeps is not None:
                self._shell.sweeps.delete(identity, owner)
                return
            self._shell.supervisor.job(identity, owner)  # raises if the visitor may not change it
            if what == "delete":
                self._shell.supervisor.delete(identity, owner)
            elif what in ("name", "note"):
                self._shell.store.get(identity).describe(**{what: str(event.text)})

        return self._ask(do)

    def train_anyway(self, viewed: str, ticked: list[str], request: gr.Request) -> tuple[Any, Any, str]:
        """Trains a run that was taken over from an equal one, in a new run."""
        try:
            config = self._shell.store.get(viewed).config()
            job = self._shell.supervisor.submit(config, self._identity.of(request), fresh=True)
        except PlaygroundError as failure:
            return gr.skip(), gr.skip(), cards.error(str(failure))
        self._run_list.read(fresh=True)
        return job.id, with_ticked(ticked, [job.id]), ""

    def _ask(self, do: Callable[[], Any]) -> str:
        try:
            do()
        except PlaygroundError as failure:
            return cards.error(str(failure))
        self._run_list.read(fresh=True)
        return ""


def _address(viewed: str, ticked: list[str], told: int) -> dict[str, Any]:
    return {"run": viewed, "runs": ticked, "number": told}
