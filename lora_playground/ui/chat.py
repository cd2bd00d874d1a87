"""The tab Chat: one question, answered by the base and up to three adapted models in lock step.

It asks the chat process through `chat.client` and sends tokens to the page as data. The page's script sets them as text
and shows where an answer first differs from the base's.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr

from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import MAX_PANES, ChatRequest
from lora_playground.data.catalogue import get_dataset, offered_prompts
from lora_playground.errors import PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.controls import Slider
from lora_playground.ui.conversation import (
    Conversation,
    asked,
    new_conversation,
    pane_list,
    read_link,
    settings_of,
    short_names,
    take,
    tuned,
    why_absent,
)
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import LATEST, QUIET, SETS, Shell, Shown, actions
from lora_playground.ui.votes import keep_vote
from lora_playground.ui.words import escape

PAUSE = 0.15
"""Seconds between two updates of the page while tokens stream."""
STARTERS = 6
KEPT = 200
"""Number of conversations whose token details are kept for tooltips; the least recently used is dropped first."""


class ChatTab:
    """The tab and its answers.

    Attributes:
        verified: whether the chat process last found the base model unchanged; None before the first answer.
    """

    def __init__(self, shell: Shell, client: ChatClient, identity: Identity) -> None:
        self._shell, self._client, self._identity = shell, client, identity
        self._asking: Counter[str] = Counter()
        self._details: OrderedDict[str, list[list[list[dict[str, Any]]]]] = OrderedDict()
        self._warming: asyncio.Task[None] | None = None
        self.verified: bool | None = None

    def build(self, tab: gr.Tab) -> None:
        """Makes the parts inside `tab` and connects them."""

        def detail(place: list[Any]) -> dict[str, Any]:
            return self.detail(place)

        self.starters = actions("", elem_id="lp-starters")
        self.missing = gr.HTML("", js_on_load="lp.live.whenEnded(trigger); // 'act'", apply_default_css=False,
                               elem_id="lp-chat-missing")  # fmt: skip
        self.view = gr.HTML(
            {},
            html_template='<div class="lp-talk" aria-live="off"></div>',
            js_on_load="lp.chat(element, props, watch, trigger, server); // 'act'",
            apply_default_css=False,
            elem_id="lp-chat",
            server_functions=[detail],
        )
        self.problem = gr.HTML("", apply_default_css=False, elem_id="lp-chat-problem")
        with gr.Row(elem_id="lp-ask", equal_height=False):
            self.input = gr.Textbox(
                label="Your message", show_label=False, placeholder="Ask them all something …", lines=1, max_lines=6,
                elem_id="lp-input", scale=8, max_length=20_000,
            )  # fmt: skip
            self.send_button = gr.Button("Send", variant="primary", elem_id="lp-send", min_width=90, scale=1)
            self.stop_button = gr.Button(
                "Stop", variant="stop", elem_id="lp-chat-stop", visible=False, min_width=90, scale=1
            )
        fold = gr.Accordion("How words are chosen: temperature, length, seed", open=False, elem_classes="lp-fold")
        with fold, gr.Row(elem_id="lp-sampling"):
            self.temperature = Slider(
                0, 2, value=0, step=0.05, label="Temperature", info="0: always the likeliest word", buttons=[]
            )
            self.top_p = Slider(
                0.05, 1, value=1, step=0.05, label="Top-p", info="choose among the likeliest, up to this share",
                buttons=[],
            )  # fmt: skip
            self.length = Slider(8, 512, value=96, step=8, label="Length", info="tokens at most", buttons=[])
            self.seed = gr.Number(
                0, label="Seed", info="same number, same answers; shared by all panes", precision=0, elem_id="lp-seed"
            )
        with gr.Accordion("More: system prompt, equal context", open=False, elem_classes="lp-fold"):
            self.system = gr.Textbox("", label="System prompt", info="put before the conversation", lines=2)
            self.forced = gr.Checkbox(
                False, label="Continue all from the base's words",
                info="Every pane reads the base's answer and shows what it would have said at each place.",
            )  # fmt: skip
        with gr.Row(elem_id="lp-chat-more"):
            self.again = gr.Button("Answer again", size="sm", elem_id="lp-again")
            self.fresh = gr.Button("New conversation", size="sm", elem_id="lp-chat-fresh")
            self.markdown = gr.Button("Save as Markdown", size="sm")
            self.json = gr.Button("Save as JSON", size="sm")
            self.share = gr.Button("Copy link", size="sm", elem_id="lp-share")
        self.conversation, self.tuning = gr.State(None), self._shell.tuning
        self._connect(tab)

    def _connect(self, tab: gr.Tab) -> None:
        self._settings = [self.system, self.temperature, self.top_p, self.length, self.seed, self.forced]
        panes = [self.conversation, self.tuning, self._shell.ticked]
        self._shows = [self.view, self.input, self.send_button, self.stop_button, self.conversation, self.problem]
        asks = {self.input, *panes, *self._settings}
        gr.on([self.send_button.click, self.input.submit], self.send, asks, self._shows, **SETS)
        self.again.click(self.answer_again, asks, self._shows, **SETS)
        self.stop_button.click(self.stop, self.conversation, self.problem, **QUIET)
        self.fresh.click(self.reset, panes, self._shows, **QUIET).then(None, None, None, js="() => lp.url({chat: ''})")
        for button, script in ((self.markdown, "save('md')"), (self.json, "save('json')"), (self.share, "share()")):
            button.click(None, None, None, js=f"() => lp.{script}")
        self.starters.act(_chosen, None, self.input, **QUIET).then(self.send, asks, self._shows, **SETS)
        # One at a time, so that of two quick changes neither is dropped, and the second sees what the first has set.
        acted, turns = [self.conversation, self.tuning, self.input, self.view, self.problem], {"concurrency_limit": 1}
        self.view.act(self.act, [self.conversation, self.tuning], acted, trigger_mode="multiple", **SETS | turns)
        changes = [self._shell.ticked.change, self.tuning.change, tab.select]
        shown = [self.view, self.conversation, self.starters]
        gr.on(changes, self.show, panes, shown, **LATEST)
        gr.on(changes, self.unready, self._shell.ticked, self.missing, **LATEST)
        self.missing.act(self.show, panes, shown, **LATEST)
        self.missing.act(self.unready, self._shell.ticked, self.missing, **LATEST)
        tab.select(self.warm, self._shell.ticked, None, **QUIET)

    def open_link(self, restored: Any) -> None:
        """Answers the questions in the address, once the event `restored` has ticked its runs."""
        outputs = [*self._shows, self.tuning, *self._settings]
        restored.then(self.replay, [self._shell.ticked, self.tuning], outputs, **SETS)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _adapted(self, ticked: Sequence[str]) -> list[Shown]:
        return [one for one in self._shell.shown(ticked) if one.run.update_path.is_file()][: MAX_PANES - 1]

    def unready(self, ticked: list[str]) -> str:
        """Sentences that say why ticked runs have no pane."""
        here = {one.run.id for one in self._adapted(ticked)}
        absent = [one.run for one in self._shell.shown(ticked) if one.run.id not in here]
        jobs = [self._shell.supervisor.job(run.id) for run in absent]
        said = [
            why_absent(run.label, job.state, run.update_path.is_file(), job.resumable)
            for run, job in zip(absent, jobs, strict=True)
        ]
        return "".join(f'<p class="lp-warning" role="status">{escape(text)}</p>' for text in said)

    def show(
        self, conversation: Conversation | None, tuning: dict[str, Any], ticked: list[str]
    ) -> tuple[Any, Any, Any]:
        """The panes of the ticked runs. If these have changed, the open conversation ends and a new one begins."""
        panes = pane_list(self._adapted(ticked), tuning)
        if conversation is not None and [pane["run"] for pane in conversation["panes"]] == [
            pane["run"] for pane in panes
        ]:
            if conversation["panes"] == panes or conversation["busy"]:
                # A ticked run that cannot answer yet changes no pane, but it changes the prompts on offer.
                return gr.skip(), gr.skip(), gr.skip() if conversation["busy"] else self._starters(ticked)
            conversation = {**conversation, "panes": panes}  # a strength or cut was chosen in the tab Spectrum
            return conversation, conversation, gr.skip()
        self._leave(conversation)
        fresh = new_conversation(panes)
        return fresh, fresh, self._starters(ticked)

    def _starters(self, ticked: list[str]) -> str:
        """Prompts from the test part of the first ticked run's dataset."""
        for shown in self._shell.shown(ticked):
            with contextlib.suppress(PlaygroundError):
                dataset = get_dataset(shown.run.config().data.dataset, self._shell.home)
                found = [prompt[-1]["content"] for prompt in offered_prompts(dataset, STARTERS)]
                if found:
                    buttons = "".join(
                        f'<button data-act="starter" data-value="{escape(text[:2000])}">{escape(name)}</button>'
                        for text, name in zip(found, short_names(found), strict=True)
                    )
                    return (
                        f'<div class="lp-starters" role="group" aria-label="Prompts to begin with">'
                        f'<span class="lp-note">Try one that it never saw:</span>{buttons}</div>'
                    )
        return '<p class="lp-note">Train a run, or tick one in the list, and it answers here beside the base model.</p>'

    async def warm(self, ticked: list[str]) -> None:
        """Loads the base model ahead of the first question."""
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._load(ticked))

    async def _load(self, ticked: list[str]) -> None:
        with contextlib.suppress(PlaygroundError, OSError, ValueError):
            shown = self._adapted(ticked)
            await self._client.warm(shown[0].run.config().model if shown else None)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def send(self, given: dict[Any, Any], request: gr.Request) -> AsyncGenerator[Any, None]:
        """Asks all panes and yields what the page shows, a few times a second."""
        panes, conversation = (
            pane_list(self._adapted(given[self._shell.ticked]), given[self.tuning]),
            given[self.conversation],
        )
        if conversation is None or [pane["run"] for pane in conversation["panes"]] != [pane["run"] for pane in panes]:
            self._leave(conversation)
            conversation = new_conversation(panes)
        if conversation["busy"]:
            yield {self.problem: cards.error("An answer is under way: wait for its end, or press Stop.")}
            return
        if not (given[self.input] or "").strip():
            yield {self.problem: cards.error("Write a message first.")}
            return
        conversation |= {"panes": panes, "linked": False}
        settings = settings_of(*(given[part] for part in self._settings))
        async with contextlib.aclosing(self._ask(given[self.input] or "", conversation, settings, request)) as updates:
            async for update in updates:
                yield update

    async def answer_again(self, given: dict[Any, Any], request: gr.Request) -> AsyncGenerator[Any, None]:
        """Asks the last question again, with the settings and panes that the page shows."""
        conversation = given[self.conversation]
        if conversation is None or not conversation["turns"] or conversation["busy"]:
            yield gr.skip()
            return
        question = conversation["turns"].pop()["q"]
        async with contextlib.aclosing(self.send({**given, self.input: question}, request)) as updates:
            async for update in updates:
                yield update

    async def replay(self, ticked: list[str], tuning: dict[str, Any], request: gr.Request) -> AsyncGenerator[Any, None]:
        """Asks every question of the conversation in the address, with its settings."""
        given = dict(request.query_params).get("chat", "")
        try:
            questions = read_link(given) if given else []
        except PlaygroundError as failure:
            yield {self.problem: cards.error(str(failure))}
            return
        conversation: Conversation | None = None
        for one in questions:
            tuning = {**tuning, **{run: tune.model_dump(mode="json") for run, tune in one.tune.items()}}
            panes = pane_list(self._adapted(ticked), tuning)
            conversation = conversation or new_conversation(panes)
            conversation |= {"panes": panes, "linked": True}
            first = {self.tuning: tuning, **dict(zip(self._settings, one.controls()))}
            async with contextlib.aclosing(self._ask(one.q, conversation, one.settings(), request)) as updates:
                async for update in updates:
                    yield {**update, **first}
                    first = {}
            if (
                conversation.get("left")
                or not conversation["turns"]
                or len(conversation["turns"][-1]["a"]) != len(panes)
            ):
                return
        if not questions:
            yield gr.skip()

    async def _ask(
        self, text: str, conversation: Conversation, settings: dict[str, Any], request: gr.Request
    ) -> AsyncGenerator[dict[Any, Any], None]:
        """One question to the panes of `conversation`; yields what the page shows."""
        panes, visitor = conversation["panes"], self._identity.of(request)
        try:
            self._shell.supervisor.limits.check_chats(self._asking[visitor])
            question = ChatRequest.parse(
                asked(conversation, text)
                | {
                    "system": settings["system"], "temperature": settings["temperature"], "top_p": settings["top_p"],
                    "max_new_tokens": settings["length"], "seed": settings["seed"],
                    "teacher_forced": settings["forced"], "client": visitor,
                }
            )  # fmt: skip
        except PlaygroundError as failure:
            yield {self.problem: cards.error(str(failure)), self.input: text, self.view: conversation,
                   self.conversation: conversation}  # fmt: skip
            return
        knobs = ("strength", "keep", "cut")
        tune = {pane["run"]: {knob: pane.get(knob) for knob in knobs} for pane in panes if pane["run"]}
        turn = {
            "id": secrets.token_hex(4),
            "q": text,
            "a": [{"t": [], "first": None, "end": ""} for _ in panes],
            "dropped": 0,
            "ask": {**settings, "tune": tune},
        }
        conversation["turns"].append(turn)
        conversation |= {"busy": True, "status": "asking …"}
        tokens: list[list[dict[str, Any]]] = [[] for _ in panes]
        self._keep(conversation["key"], len(conversation["turns"]) - 1, tokens)
        yield {self.view: conversation, self.conversation: conversation, self.input: "", self.problem: "",
               **self._buttons(busy=True)}  # fmt: skip
        problem, last = "", 0.0
        self._asking[visitor] += 1
        try:
            async with contextlib.aclosing(self._client.stream(question, conversation["key"])) as stream:  # type: ignore[type-var]
                async for event in stream:
                    problem = take(event, conversation, turn, tokens) or problem
                    if event.verified is not None:
                        self.verified = event.verified.ok
                    if conversation.get("left"):
                        return
                    if time.monotonic() - last > PAUSE:
                        last = time.monotonic()
                        yield {self.view: conversation}
        finally:
            self._asking[visitor] -= 1
            conversation |= {"busy": False, "status": ""}
        if problem and not any(tokens):
            conversation["turns"].pop()
        yield {self.view: conversation, self.conversation: conversation, self.problem: cards.error(problem),
               self.input: text if problem and not any(tokens) else gr.skip(), **self._buttons(busy=False)}  # fmt: skip

    def _buttons(self, busy: bool) -> dict[Any, Any]:
        return {self.send_button: gr.update(visible=not busy), self.stop_button: gr.update(visible=busy)}

    def _keep(self, key: str, turn: int, tokens: list[list[dict[str, Any]]]) -> None:
        kept = self._details.setdefault(key, [])
        del kept[turn:]
        kept.append(tokens)
        self._details.move_to_end(key)
        while len(self._details) > KEPT:
            self._details.popitem(last=False)

    def detail(self, place: Any) -> dict[str, Any]:
        """The five most probable tokens of an adapted model and of the base at [key, turn, pane, token], for a tooltip.

        The key is the conversation's random name, so that nobody can read the tokens of another person's conversation.
        """
        try:
            key, turn, pane, token = place
            found = self._details[str(key)][int(turn)][int(pane)][int(token)]
        except (KeyError, IndexError, ValueError, TypeError):
            return {}
        return {name: found.get(name) for name in ("text", "logprob", "kl", "top", "base_top", "base_logprob")}

    # --- other events -------------------------------------------------------------------------------------------------

    async def stop(self, conversation: Conversation | None) -> str:
        """Stops the answer before its next token."""
        if conversation is not None:
            self._client.cancel(conversation["key"])
        return ""

    def _leave(self, conversation: Conversation | None) -> None:
        """Closes a conversation: an answer in progress is stopped and not shown."""
        if conversation is not None and conversation["busy"]:
            conversation["left"] = True
            self._client.cancel(conversation["key"])

    async def reset(
        self, conversation: Conversation | None, tuning: dict[str, Any], ticked: list[str]
    ) -> dict[Any, Any]:
        """A new, empty conversation."""
        self._leave(conversation)
        fresh = new_conversation(pane_list(self._adapted(ticked), tuning))
        return {self.conversation: fresh, self.view: fresh, self.problem: "", **self._buttons(busy=False)}

    def act(self, conversation: Conversation | None, tuning: dict[str, Any], event: gr.EventData) -> tuple[Any, ...]:
        """Handles clicks inside the panes: a pane's strength or cut, editing a question, a vote."""
        nothing = (gr.skip(),) * 5
        if conversation is None:
            return nothing
        if event.act == "tune":
            before = tuning.get(str(event.id), {})
            return gr.skip(), {**tuning, str(event.id): tuned(event.value, before)}, gr.skip(), gr.skip(), gr.skip()
        if event.act == "edit" and not conversation["busy"]:
            with contextlib.suppress(ValueError, IndexError):
                number = int(event.value)
                question = conversation["turns"][number]["q"]
                del conversation["turns"][number:]
                return conversation, gr.skip(), question, conversation, gr.skip()
        if event.act == "vote":
            return (*nothing[:4], keep_vote(self._shell.store, conversation, str(event.id), str(event.value)))
        return nothing


def _chosen(event: gr.EventData) -> str:
    return str(event.value)


def build(shell: Shell, tab: gr.Tab, client: ChatClient, identity: Identity) -> ChatTab:
    """Makes the tab where it is called."""
    made = ChatTab(shell, client, identity)
    made.build(tab)
    return made
