"""Asks the chat process for the laboratory's sections, and shows its answers. No run is read here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import ChatEvent, ChatRequest
from lora_playground.errors import ChatError
from lora_playground.ui.words import escape

PATIENCE = 0.8
"""Seconds without an answer after which the page says that it is coming. After a shorter time this would flicker."""


class Said:
    """Answers in progress.

    Attributes:
        texts: of each pane so far. kl: mean KL divergence from the base in nats, None until a pane has ended.
        began: seconds until the first token, None before that.
    """

    def __init__(self, panes: int) -> None:
        self.texts = [""] * panes
        self.kl: list[float | None] = [None] * panes
        self.began: float | None = None


async def ask(
    client: ChatClient, panes: Sequence[dict[str, Any]], prompt: str, who: str, longest: int = 64, detail: bool = True
) -> AsyncIterator[Said]:
    """Asks the panes and yields the answers so far. Raises ChatError or ConfigError with a message for the person."""
    request = ChatRequest.parse(
        {
            "panes": list(panes), "messages": [[{"role": "user", "content": prompt}]], "max_new_tokens": longest,
            "detail": detail, "client": who,
        }
    )  # fmt: skip
    said = Said(len(panes))
    async with contextlib.aclosing(_patient(client.stream(request))) as stream:
        async for event in stream:
            if event is None:  # the base is still being loaded; the page shows whose answers will come
                yield said
                continue
            if event.type == "error":
                raise ChatError(event.text)
            if event.type == "restarted":
                said = Said(len(panes))
            if event.type == "start":
                said.began = event.seconds
            if event.pane is not None and event.tokens:
                said.texts[event.pane] += "".join(token.text for token in event.tokens)
            if event.pane is not None and event.end is not None:
                said.texts[event.pane] = event.end.text
                said.kl[event.pane] = event.end.mean_kl
            yield said


async def _patient(stream: AsyncIterator[ChatEvent]) -> AsyncGenerator[ChatEvent | None, None]:
    """Yields the stream's events, and before them None if the first takes longer than PATIENCE."""
    async with contextlib.aclosing(stream):  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(stream))
        try:
            if not (await asyncio.wait({first}, timeout=PATIENCE))[0]:
                yield None
            with contextlib.suppress(StopAsyncIteration):
                yield await first
        finally:
            if first.cancel():
                await asyncio.wait({first})
        async for event in stream:
            yield event


def answers(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Answers as HTML.

    Args:
        rows: (title, colour, answer, remark) of each; an answer of '' has not come yet.
    """
    cells = "".join(
        f'<div class="who" style="--run:{escape(colour or "var(--lp-frozen)")}"><b>{escape(title)}</b>'
        f"<small>{escape(remark)}</small></div>"
        f'<p class="said">{escape(text) if text else "<i>…</i>"}</p>'
        for title, colour, text, remark in rows
    )
    return f'<div class="lp-lab-answers">{cells}</div>'
