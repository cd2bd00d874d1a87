"""One question to the base model and adapted ones, as plain data for programs. The chat process answers it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import MAX_PANES, ChatEvent, ChatRequest
from lora_playground.errors import ChatError, ConfigError

PAUSE = 0.15
"""Least seconds between two items of a stream of answers."""


def request(
    prompt: str, runs: list[str], history: list[dict[str, str]] | None, system: str, model: str | None, who: str,
    *, strength: float = 1.0, keep: int | None = None, **sampling: Any,
) -> ChatRequest:  # fmt: skip
    """The request to the chat process. Raises ConfigError if a value is not allowed.

    Args:
        runs: ids of runs whose adapters answer beside the base. model: the base model if there are no runs.
        who: who asks; the chat process shares its time fairly among them.
        strength, keep: factor on the updates, and how many directions of each are kept (None for all).
        sampling: seed, temperature, top_p, max_new_tokens.
    """
    if len(runs) >= MAX_PANES:
        raise ConfigError("runs", runs, f"at most {MAX_PANES - 1} answer beside the base")
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 0):
        raise ConfigError("keep", keep, "give a whole number, at least 0")
    if history is not None and not isinstance(history, list):
        raise ConfigError("history", history, 'give a list of {"role": ..., "content": ...}')
    adapted = [{"run": run, "strength": strength, "cut": None if keep is None else [0, keep]} for run in runs]
    data: dict[str, Any] = {
        "panes": [{"run": None}, *adapted],
        "messages": [[*(history or []), {"role": "user", "content": prompt}]],
        "system": system, "client": who, "detail": False, **sampling,
    }  # fmt: skip
    if model is not None and not runs:
        data["base"] = {"source": model}
    return ChatRequest.parse(data)


async def answers(client: ChatClient, asked: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the answers so far a few times a second, and once more at the end.

    Yields:
        {base: text, adapted: {run id: text}, done: bool}; the last one also has `ended`: {'' for the base or run id:
        why the answer ended, such as 'stop' or 'length'} and `tokens_per_second`.

    Raises:
        ChatError: the chat process refused the request or failed.
    """
    names = [pane.run or "" for pane in asked.panes]
    texts, ended = [""] * len(names), dict[str, str]()
    last, speed = time.monotonic(), None

    def answer(done: bool) -> dict[str, Any]:
        adapted = dict(zip(names[1:], texts[1:]))
        more = {"ended": ended, "tokens_per_second": speed} if done else {}
        return {"base": texts[0], "adapted": adapted, "done": done, **more}

    async with contextlib.aclosing(client.stream(asked)) as stream:  # type: ignore[type-var]
        async for event in stream:
            if event.type == "error":
                raise ChatError(event.text)
            _take(event, names, texts, ended)
            speed = event.tokens_per_second or speed
            if event.type == "tokens" and time.monotonic() - last > PAUSE:
                last = time.monotonic()
                yield answer(False)
    yield answer(True)


def _take(event: ChatEvent, names: list[str], texts: list[str], ended: dict[str, str]) -> None:
    if event.type == "restarted":
        texts[:] = [""] * len(texts)
        ended.clear()
    elif event.type == "tokens" and event.pane is not None:
        texts[event.pane] += "".join(token.text for token in event.tokens or [])
    elif event.type == "pane_end" and event.pane is not None and event.end is not None:
        texts[event.pane] = event.end.text
        ended[names[event.pane]] = event.end.reason
