"""The tab Chat: one input, the base and up to three adapted models answering in lock step, and where they part.

It asks the chat process through `chat.client` and hands tokens to the page as data; the page sets them as text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import MAX_PANES, ChatEvent, ChatRequest
from lora_playground.data.catalogue import get_dataset, prompt_of
from lora_playground.errors import PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.identity import Identity
from lora_playground.ui.shell import Shell, Shown, actions
from lora_playground.ui.talk import Talk, asked, new_talk, pane_list
from lora_playground.ui.words import escape

PAUSE = 0.15
"""Seconds between two updates of the page while tokens stream: between six and seven a second."""
STARTERS = 4
KEPT = 200
"""Conversations whose token details are kept for hovering; the oldest go first."""

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class ChatTab:
    """The tab and its answers.

    Attributes:
        verified: what the chat process last said about the base model; None before the first answer.
    """

    def __init__(self, shell: Shell, client: ChatClient, identity: Identity) -> None:
        self._shell, self._client, self._identity = shell, client, identity
        self._details: OrderedDict[str, list[list[list[dict[str, Any]]]]] = OrderedDict()
        self._warming: asyncio.Task[None] | None = None
        self.verified: bool | None = None

    def build(self, tab: gr.Tab) -> None:
        """Makes the parts inside `tab` and connects them."""

        def detail(place: list[Any]) -> dict[str, Any]:
            return self.detail(place)

        self.starters = actions("", elem_id="lp-starters")
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
        with gr.Row(elem_id="lp-sampling"):
            self.temperature = gr.Slider(
                0, 2, value=0, step=0.05, label="Temperature", info="0: always the likeliest word", buttons=[]
            )
            self.top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="choose among so much", buttons=[])
            self.length = gr.Slider(8, 512, value=96, step=8, label="Length", info="tokens at most", buttons=[])
            self.seed = gr.Number(0, label="Seed", info="of the shared noise", precision=0, elem_id="lp-seed")
        with gr.Accordion("More: system prompt, equal context", open=False, elem_classes="lp-fold"):
            self.system = gr.Textbox("", label="System prompt", info="put before the conversation", lines=2)
            self.forced = gr.Checkbox(
                False, label="Continue all from the base's words",
                info="Every pane reads the base's answer and shows what it would have said at each place.",
            )  # fmt: skip
        with gr.Row(elem_id="lp-chat-more"):
            self.again = gr.Button("Answer again", size="sm", elem_id="lp-again")
            self.fresh = gr.Button("New conversation", size="sm", elem_id="lp-fresh")
            self.markdown = gr.Button("Save as Markdown", size="sm")
            self.json = gr.Button("Save as JSON", size="sm")
        self.talk, self.tuning = gr.State(None), self._shell.tuning
        self._connect(tab)

    def _connect(self, tab: gr.Tab) -> None:
        asks = [self.input, self.talk, self.tuning, self._shell.ticked, self.system, self.temperature, self.top_p,
                self.length, self.seed, self.forced]  # fmt: skip
        shows = [self.view, self.input, self.send_button, self.stop_button, self.talk, self.problem]
        heavy: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        gr.on([self.send_button.click, self.input.submit], self.send, asks, shows, **heavy)
        self.again.click(self.rewind, [self.talk], [self.input, self.talk], **QUIET).then(
            self.send, asks, shows, **heavy
        )
        self.stop_button.click(self.stop, self.talk, self.problem, **QUIET)
        self.fresh.click(self.reset, [self._shell.ticked, self.tuning], [self.talk, self.view, self.problem], **QUIET)
        self.markdown.click(None, None, None, js="() => lp.save('md')")
        self.json.click(None, None, None, js="() => lp.save('json')")
        self.starters.act(_chosen, None, self.input, **QUIET).then(self.send, asks, shows, **heavy)
        self.view.act(
            self.act, [self.talk, self.tuning], [self.talk, self.tuning, self.input, self.view, self.problem], **QUIET
        )
        panes = [self._shell.ticked, self.talk, self.tuning]
        for trigger in (self._shell.ticked.change, self.tuning.change, tab.select):
            trigger(self.show, panes, [self.view, self.talk, self.starters], **QUIET)
        tab.select(self.warm, self._shell.ticked, None, **QUIET)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _adapted(self, ticked: Sequence[str]) -> list[Shown]:
        return [one for one in self._shell.shown(ticked) if one.run.update_path.is_file()][: MAX_PANES - 1]

    def show(self, ticked: list[str], talk: Talk | None, tuning: dict[str, Any]) -> tuple[Any, Any, Any]:
        """The panes of the ticked runs; a conversation among other panes is put away."""
        panes = pane_list(self._adapted(ticked), tuning)
        if talk is not None and [pane["run"] for pane in talk["panes"]] == [pane["run"] for pane in panes]:
            if talk["panes"] == panes or talk["busy"]:
                return gr.skip(), gr.skip(), gr.skip()
            talk = {**talk, "panes": panes}  # another strength or cut, chosen in the tab Spectrum
            return talk, talk, gr.skip()
        fresh = new_talk(panes)
        return fresh, fresh, self._starters(ticked)

    def _starters(self, ticked: list[str]) -> str:
        """Prompts from the test part of the first ticked run's dataset."""
        for shown in self._shell.shown(ticked):
            with contextlib.suppress(PlaygroundError):
                dataset = get_dataset(shown.run.config().data.dataset, self._shell.home)
                found = [prompt_of(row)[-1]["content"] for row in dataset.test[:STARTERS] if prompt_of(row)]
                if found:
                    buttons = "".join(
                        f'<button data-act="starter" data-value="{escape(text[:2000])}">{escape(_short(text))}</button>'
                        for text in found
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

    async def send(self, text: str, talk: Talk | None, tuning: dict[str, Any], ticked: list[str], system: str,
                   temperature: float, top_p: float, length: float, seed: float, forced: bool,
                   request: gr.Request) -> AsyncIterator[Any]:  # fmt: skip
        """Asks all panes and yields what the page shows, a few times a second."""
        panes = pane_list(self._adapted(ticked), tuning)
        if talk is None or [pane["run"] for pane in talk["panes"]] != [pane["run"] for pane in panes]:
            talk = new_talk(panes)
        talk["panes"] = panes
        try:
            question = ChatRequest.parse(
                asked(talk, text or "")
                | {
                    "system": system or "", "temperature": temperature, "top_p": top_p, "max_new_tokens": int(length),
                    "seed": seed if seed is not None else 0, "teacher_forced": bool(forced),
                    "client": self._identity.of(request),
                }
            )  # fmt: skip
        except PlaygroundError as failure:
            yield {self.problem: cards.error(str(failure))}
            return
        turn = {
            "id": secrets.token_hex(4),
            "q": text,
            "a": [{"t": [], "first": None, "end": ""} for _ in panes],
            "raw": "",
        }
        talk["turns"].append(turn)
        talk["busy"], talk["status"] = True, "asking …"
        tokens: list[list[dict[str, Any]]] = [[] for _ in panes]
        self._keep(talk["key"], len(talk["turns"]) - 1, tokens)
        yield {self.view: talk, self.talk: talk, self.input: "", self.problem: "",
               self.send_button: gr.update(visible=False), self.stop_button: gr.update(visible=True)}  # fmt: skip
        problem, last = "", 0.0
        async with contextlib.aclosing(self._client.stream(question, talk["key"])) as stream:  # type: ignore[type-var]
            async for event in stream:
                problem = self._take(event, talk, turn, tokens) or problem
                if time.monotonic() - last > PAUSE:
                    last = time.monotonic()
                    yield {self.view: talk}
        talk["busy"], talk["status"] = False, ""
        if problem and not any(tokens):
            talk["turns"].pop()
        yield {self.view: talk, self.talk: talk, self.problem: cards.error(problem),
               self.input: text if problem and not any(tokens) else gr.skip(),
               self.send_button: gr.update(visible=True), self.stop_button: gr.update(visible=False)}  # fmt: skip

    def _take(self, event: ChatEvent, talk: Talk, turn: dict[str, Any], tokens: list[list[dict[str, Any]]]) -> str:
        """Adds one event to the conversation; returns an error's text."""
        if event.type in ("status", "restarted"):
            talk["status"] = event.text
            if event.type == "restarted":
                for pane, mine in zip(turn["a"], tokens):
                    pane.update(t=[], first=None, end="")
                    mine.clear()
        elif event.type == "start":
            talk["status"] = ""
            if event.verified is not None:
                self.verified = talk["verified"] = event.verified.ok
            if event.panes:
                turn["raw"] = event.panes[0].prompt
                turn["dropped"] = event.panes[0].dropped
        elif event.type == "tokens" and event.pane is not None:
            for token in event.tokens or []:
                _add(token.model_dump(), event.pane, turn, tokens)
        elif event.type == "pane_end" and event.pane is not None and event.end is not None:
            turn["a"][event.pane].update(
                end=event.end.reason, first=event.end.first_difference, mean=event.end.mean_kl, text=event.end.text
            )
        elif event.type == "end":
            turn["speed"] = event.tokens_per_second
        elif event.type == "error":
            return event.text
        return ""

    def _keep(self, key: str, turn: int, tokens: list[list[dict[str, Any]]]) -> None:
        kept = self._details.setdefault(key, [])
        del kept[turn:]
        kept.append(tokens)
        self._details.move_to_end(key)
        while len(self._details) > KEPT:
            self._details.popitem(last=False)

    def detail(self, place: Any) -> dict[str, Any]:
        """The two top-5 lists at [key, turn, pane, token], for hovering. The key is the conversation's own secret."""
        try:
            key, turn, pane, token = place
            found = self._details[str(key)][int(turn)][int(pane)][int(token)]
        except (KeyError, IndexError, ValueError, TypeError):
            return {}
        return {name: found.get(name) for name in ("text", "logprob", "kl", "top", "base_top", "base_logprob")}

    # --- other events -------------------------------------------------------------------------------------------------

    async def stop(self, talk: Talk | None) -> str:
        """Ends the answer before its next token."""
        if talk is not None:
            self._client.cancel(talk["key"])
        return ""

    def rewind(self, talk: Talk | None) -> tuple[Any, Any]:
        """Takes the last question back into the input, to ask it again with other settings."""
        if talk is None or not talk["turns"]:
            return gr.skip(), gr.skip()
        last = talk["turns"].pop()
        return last["q"], talk

    def reset(self, ticked: list[str], tuning: dict[str, Any]) -> tuple[Any, Any, str]:
        """A new, empty conversation."""
        fresh = new_talk(pane_list(self._adapted(ticked), tuning))
        return fresh, fresh, ""

    def act(self, talk: Talk | None, tuning: dict[str, Any], event: gr.EventData) -> tuple[Any, ...]:
        """Clicks inside the panes: a pane's strength or cut, editing a question, a vote."""
        nothing = (gr.skip(),) * 5
        if talk is None:
            return nothing
        if event.act == "tune":
            before = tuning.get(str(event.id), {})
            return gr.skip(), {**tuning, str(event.id): _tuned(event.value, before)}, gr.skip(), gr.skip(), gr.skip()
        if event.act == "edit":
            with contextlib.suppress(ValueError, IndexError):
                number = int(event.value)
                question = talk["turns"][number]["q"]
                del talk["turns"][number:]
                return talk, gr.skip(), question, talk, gr.skip()
        if event.act == "vote":
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), self._vote(talk, str(event.id))
        return nothing

    def _vote(self, talk: Talk, voted: str) -> str:
        """Keeps with every run of the conversation which pane was preferred."""
        if not talk["turns"]:
            return ""
        turn = talk["turns"][-1]
        runs = [pane["run"] for pane in talk["panes"] if pane["run"]]
        vote = {"time": time.time(), "prompt": turn["q"], "preferred": voted or "base", "panes": ["base", *runs]}
        try:
            for run in runs:
                path = self._shell.store.get(run).folder / "votes.jsonl"
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(vote, ensure_ascii=False) + "\n")
        except (PlaygroundError, OSError) as failure:
            return cards.error(f"The vote could not be kept: {failure}")
        return '<p class="lp-note" role="status">Kept with the run: thank you.</p>'


def _add(token: dict[str, Any], pane: int, turn: dict[str, Any], tokens: list[list[dict[str, Any]]]) -> None:
    number = len(tokens[pane])
    tokens[pane].append(token)
    answer = turn["a"][pane]
    shown = token["choice"] if token.get("choice") is not None else token["text"]
    kl = token.get("kl")
    answer["t"].append([shown, None if kl is None else round(kl, 3)])
    if answer["first"] is None and pane > 0 and number < len(tokens[0]) and tokens[0][number]["id"] != token["id"]:
        answer["first"] = number


def _tuned(value: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Strength and number of directions kept, from the page; what does not fit is left for the request to refuse.

    A cut from the tab Spectrum that no number says (weakest, a range, one) stays until a number is given.
    """
    given = value if isinstance(value, dict) else {}
    tuned, cut = {"strength": given.get("strength", 1.0), "keep": given.get("keep")}, before.get("cut")
    if tuned["keep"] is None and cut and cut[0] != 0:
        tuned["cut"] = cut
    return tuned


def _chosen(event: gr.EventData) -> str:
    return str(event.value)


def _short(text: str, characters: int = 72) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def build(shell: Shell, tab: gr.Tab, client: ChatClient, identity: Identity) -> ChatTab:
    """Makes the tab where it is called."""
    made = ChatTab(shell, client, identity)
    made.build(tab)
    return made
