"""The routes of lessons, as JSON. No Gradio.

`GET /lessons` lists the lessons with the visitor's progress. `POST /lesson` takes {name, do, ...} and answers with the
step afterwards, its texts as HTML: `do` is view (step), answer (ask, value), start (step), did (step, act, keep) or
    over.
"""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_playground.errors import PlaygroundError
from lora_playground.lessons.player import Player, View
from lora_playground.ui.identity import Identity
from lora_playground.ui.json_body import json_answer, json_object
from lora_playground.ui.markdown import as_html, as_line

_TEXTS, _LINES = ("text", "said", "hint"), ("because",)


class LessonRoutes:
    """The routes. Thread-safe."""

    def __init__(self, player: Player, identity: Identity) -> None:
        self.player, self._identity = player, identity

    def routes(self) -> list[Route]:
        """The routes, for the web application."""
        return [Route("/lessons", self._list), Route("/lesson", self._act, methods=["POST"])]

    def _list(self, request: Request) -> Response:
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        return json_answer({"lessons": self.player.list(visitor)})

    async def _act(self, request: Request) -> Response:
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        body = await json_object(request)
        if isinstance(body, Response):
            return body
        try:
            return json_answer(dressed(await run_in_threadpool(self._do, visitor, body)))
        except PlaygroundError as failure:
            return json_answer({"error": str(failure)}, 400)

    def _do(self, visitor: str, body: dict[str, Any]) -> View:
        name, do = str(body.get("name", "")), body.get("do")
        step = body.get("step")
        step = step if isinstance(step, int) and not isinstance(step, bool) else None
        if do == "answer":
            return self.player.answer(visitor, name, str(body.get("ask", "")), body.get("value"))
        if do == "start" and step is not None:
            return self.player.start(visitor, name, step)
        if do == "did" and step is not None:
            return self.player.report(visitor, name, step, str(body.get("act", "")), body.get("keep"))
        if do == "over":
            return self.player.restart(visitor, name)
        return self.player.view(visitor, name, step)


def dressed(view: Any) -> Any:
    """A view with its Markdown turned into HTML: texts as paragraphs, single sentences as a line."""
    if isinstance(view, list):
        return [dressed(one) for one in view]
    if not isinstance(view, dict):
        return view
    made = {key: dressed(value) for key, value in view.items()}
    for key in _TEXTS:
        # The texts of choices and cells are plain text.
        if isinstance(view.get(key), str) and "kind" in view:
            made[key] = as_html(view[key])
    for key in _LINES:
        if isinstance(view.get(key), str):
            made[key] = as_line(view[key])
    return made
