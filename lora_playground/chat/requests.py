"""One request inside the chat process: its rows, their answers so far, and the events waiting to be sent.

It knows decoding rows and the protocol; nothing of sockets, threads or files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lora_playground.chat.protocol import ChatEvent, ChatRequest, ChatToken, PaneEnd, PaneStart, Verified
from lora_playground.errors import ChatError
from lora_playground.models.decoding import Decoder, Row, RowUpdate, Sampling, Token
from lora_playground.models.prompts import prompt_text

Reason = Literal["stop", "length", "cancelled", "deadline"]


class Detokenizer:
    """Turns tokens of a growing answer into text. Text is held back while its last character is incomplete."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._tokens: list[int] = []
        self._from = self._read = 0

    def push(self, token: int) -> str:
        """The text that one more token adds."""
        self._tokens.append(token)
        known = self._decoder.text(self._tokens[self._from : self._read])
        text = self._decoder.text(self._tokens[self._from :])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def whole(self) -> str:
        """The whole text."""
        return self._decoder.text(self._tokens)


class Answer:
    """One pane's answer in progress.

    Attributes:
        text: what has been sent of it. kl: in nats, of each token.
        parted: index of the first token for which the pane would have said another one (teacher forcing), or None.
    """

    def __init__(self, pane: int, row: Row, decoder: Decoder, start: PaneStart) -> None:
        self.pane, self.row, self.start = pane, row, start
        self.detokenizer = Detokenizer(decoder)
        self.text = ""
        self.kl: list[float] = []
        self.ended = False
        self.parted: int | None = None


class Exchange:
    """A request and its outbox, which the decoding thread fills and the sending task empties.

    Args:
        request: what was asked.
        wake: called from any thread when something should be sent at once; tokens wait for the next interval.
    """

    def __init__(self, request: ChatRequest, wake: Callable[[], None]) -> None:
        self.request, self._wake = request, wake
        self.arrived = time.monotonic()
        self.cancelled = False
        self.finished = False
        self.answers: list[Answer] = []
        self.hidden: list[Row] = []
        self.verified: Verified | None = None
        self._lock = threading.Lock()
        self._outbox: list[ChatEvent] = []
        self._fresh: dict[int, list[ChatToken]] = {}
        self._first: float | None = None
        self._count = 0

    def send(self, event: ChatEvent) -> None:
        """Queues an event to be sent at once, after the tokens before it."""
        with self._lock:
            self._flush_tokens()
            self._outbox.append(event)
        self._wake()

    def status(self, text: str) -> None:
        """Says what is being done."""
        self.send(ChatEvent(type="status", text=text))

    def fail(self, text: str) -> None:
        """Ends the request with a message for the person."""
        self.finished = True
        self.send(ChatEvent(type="error", text=text))

    def take(self) -> list[ChatEvent]:
        """The events to send; the tokens since the last call are one event for each pane."""
        with self._lock:
            self._flush_tokens()
            events, self._outbox = self._outbox, []
        return events

    def _flush_tokens(self) -> None:
        for pane, tokens in self._fresh.items():
            self._outbox.append(ChatEvent(type="tokens", pane=pane, tokens=tokens))
        self._fresh = {}

    def prepare(self, decoder: Decoder, updates: Sequence[RowUpdate | None]) -> list[Row]:
        """Makes the rows of all panes. Raises ChatError if a prompt cannot be answered."""
        request = self.request
        for pane, update in enumerate(updates):
            ids, start = fit(decoder, request, pane)
            sampling = Sampling(request.temperature, request.top_p, request.seed)
            row = Row(ids, update, sampling, request.max_new_tokens, decoder.stop, detail=request.detail)
            self.answers.append(Answer(pane, row, decoder, start))
        leader = self.answers[0].row
        base = next((answer.row for answer in self.answers if answer.row.update is None), None)
        for answer in self.answers:
            row = answer.row
            if request.teacher_forced and row is not leader:
                row.follow = leader
            if row.update is None or not request.detail:
                continue
            if base is not None and base.prompt == row.prompt:
                row.compare, row.shadow = base, not request.teacher_forced
            else:  # a hidden row of the base reads this pane's words: conversations differ, or there is no base pane
                other = Row(row.prompt, None, sampling, row.max_new_tokens, row.stop, follow=row, hidden=True)
                row.compare = other
                self.hidden.append(other)
        return [answer.row for answer in self.answers] + self.hidden

    def begin(self) -> None:
        """Sends 'start'; called once the first tokens are known."""
        self._first = time.monotonic()
        panes = [answer.start for answer in self.answers]
        seconds = round(self._first - self.arrived, 4)
        self.send(ChatEvent(type="start", panes=panes, verified=self.verified, seconds=seconds))

    def receive(self, answer: Answer, token: Token, name: Callable[[int], str]) -> None:
        """Adds a token to a pane's answer; `name` returns the text of a token."""
        if self._first is None:
            self.begin()
        if token.choice != token.token and answer.parted is None:
            answer.parted = len(answer.row.tokens) - (token.finished != "stop")
        if token.finished != "stop":
            piece = answer.detokenizer.push(token.token)
            answer.text += piece
            self._count += 1
            if token.kl is not None:
                answer.kl.append(token.kl)
            first = not answer.row.tokens[1:]
            with self._lock:
                self._fresh.setdefault(answer.pane, []).append(self._shown(token, piece, name))
            if first:
                self._wake()
        if token.finished:
            self.end_pane(answer, "stop" if token.finished == "stop" else "length")

    def _shown(self, token: Token, piece: str, name: Callable[[int], str]) -> ChatToken:
        def named(top: list[tuple[int, float]] | None) -> list[tuple[str, float]] | None:
            return None if top is None else [(name(id), round(value, 4)) for id, value in top]

        def short(value: float | None) -> float | None:
            return None if value is None else round(value, 5)

        forced = self.request.teacher_forced and token.choice != token.token
        return ChatToken(
            id=token.token,
            text=piece,
            logprob=short(token.logprob),
            top=named(token.top),
            kl=short(token.kl),
            base_logprob=short(token.compare_logprob),
            base_top=named(token.compare_top),
            choice=name(token.choice) if forced else None,
        )

    def end_pane(self, answer: Answer, reason: Reason) -> None:
        """Ends one pane, and the request with its last pane."""
        if answer.ended:
            return
        if self._first is None:
            self.begin()
        answer.ended = True
        tokens = answer.row.tokens
        end = PaneEnd(
            reason=reason,
            # Not `answer.text`, which lacks text that was held back for an incomplete character.
            text=answer.detokenizer.whole(),
            tokens=len(tokens),
            first_difference=self._first_difference(answer),
            mean_kl=round(sum(answer.kl) / len(answer.kl), 5) if answer.kl else None,
        )
        self.send(ChatEvent(type="pane_end", pane=answer.pane, end=end))
        if all(other.ended for other in self.answers):
            self.finished = True
            now = time.monotonic()
            rate = self._count / max(1e-6, now - (self._first or now))
            seconds = round(now - self.arrived, 4)
            self.send(ChatEvent(type="end", seconds=seconds, tokens_per_second=round(rate, 1)))

    def end(self, reason: Reason) -> None:
        """Ends all panes whose answers are in progress."""
        for answer in self.answers:
            self.end_pane(answer, reason)
        if not self.finished:  # ended before it began
            self.finished = True
            self.send(ChatEvent(type="end", text=reason, seconds=round(time.monotonic() - self.arrived, 4)))

    def _first_difference(self, answer: Answer) -> int | None:
        """Index of the first token at which a pane differs from the base pane (or the first one). Rows are decoded in
        lock step, so the other answer is at least as long, or has ended."""
        if self.request.teacher_forced:
            return answer.parted
        other = next((a for a in self.answers if a.row.update is None), self.answers[0])
        if other is answer:
            return None
        mine, theirs = answer.row.tokens, other.row.tokens
        for index, (one, two) in enumerate(zip(mine, theirs)):
            if one != two:
                return index
        return min(len(mine), len(theirs)) if len(mine) != len(theirs) else None


def fit(decoder: Decoder, request: ChatRequest, pane: int) -> tuple[list[int], PaneStart]:
    """(token ids of a pane's prompt, how it starts). If the conversation does not fit into the model's context, the
    oldest messages are left out."""
    messages = [message.model_dump() for message in request.conversation(pane)]
    system: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system.strip() else []
    most = decoder.context - min(request.max_new_tokens, decoder.context // 4)
    dropped = 0
    while True:
        text = prompt_text(decoder.tokenizer, system + messages[dropped:])
        ids = decoder.encode(system + messages[dropped:])
        if len(ids) <= most or dropped >= len(messages) - 1:
            break
        dropped += 2 if dropped + 2 < len(messages) else 1
    if len(ids) >= decoder.context:
        raise ChatError(
            f"The message has {len(ids)} tokens with its template; this model reads at most {decoder.context - 1}. "
            "Shorten it."
        )
    return ids, PaneStart(prompt=text, tokens=len(ids), dropped=dropped)
