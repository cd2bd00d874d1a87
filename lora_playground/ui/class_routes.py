"""The routes of classes: pages to teach and to join, and what they ask and do, as JSON. No Gradio.

`GET /class` is the teacher's page (`?code=` for one class), `GET /join` the page on which people give code and name.
`GET /class/grid` has a class's progress for its teacher, `GET /class/me` the class for one member. `POST /class` takes
{do, code, ...}, see `_TEACHER` and `_PERSON`.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import segno
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from lora_playground.classroom import Class, Classes
from lora_playground.classroom.overview import Overview, for_a_person
from lora_playground.classroom.table import table
from lora_playground.errors import LessonError, PlaygroundError
from lora_playground.lessons.catalogue import get_lesson, list_lessons
from lora_playground.lessons.player import Player
from lora_playground.machine.network import address_in_network
from lora_playground.models.sources import is_shared
from lora_playground.ui import theme
from lora_playground.ui.identity import Identity
from lora_playground.ui.json_body import json_answer, json_object

FRESH = 1.0
"""Seconds for which the counted answers of a class are reused."""
AWAY = 12.0
"""Seconds without a request after which a member counts as away."""
_NO_COOKIE = "This page has no visitor's cookie; open the app once and allow cookies."
LOCAL = ("localhost", "127.0.0.1", "::1")
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{styles}</head>
<body class="lp-class-page"><main id="lp-class" data-page="{page}"></main>{scripts}</body></html>"""


class ClassRoutes:
    """The routes. Thread-safe.

    Args:
        player: leads people through lessons. identity: identifies visitors.
    """

    def __init__(self, player: Player, identity: Identity) -> None:
        self.classes = Classes(player.home, player.learners)
        self._player, self._identity = player, identity
        self._overview = Overview(player.home, player.learners, player.measuring)
        self._lock = threading.Lock()
        self._counted: dict[str, tuple[float, list[dict[str, Any]]]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        player.limit = self.classes.limit

    def routes(self) -> list[Route]:
        """The routes, for the web application."""
        return [
            Route("/class", self._act, methods=["POST"]),
            Route("/class", lambda request: _page("Class", "teach")),
            Route("/join", lambda request: _page("Join a class", "join")),
            Route("/class/grid", self._answered(self._grid)),
            Route("/class/me", self._answered(self._me)),
            Route("/class/mine", self._answered(self._mine)),
            Route("/class/qr", self._answered(self._qr)),
            Route("/class/table.csv", self._answered(self._table)),
        ]

    # --- GET ----------------------------------------------------------------------------------------------------------

    def _mine(self, request: Request, visitor: str) -> Response:
        """The classes that this person has opened, and all lessons."""
        classes = [
            {"code": one.code, "lesson": get_lesson(one.lesson, self._player.home).title, "people": len(one.people),
             "opened": one.opened, "ended": one.ended is not None}
            for one in self.classes.of_teacher(visitor)
        ]  # fmt: skip
        return json_answer({"classes": classes, "lessons": self._lessons()})

    def _grid(self, request: Request, visitor: str) -> Response:
        course = self.classes.taught(visitor, request.query_params.get("code", ""))
        grid, now = self._overview.grid(course), time.monotonic()
        for person, row in zip(course.people, grid["people"], strict=True):
            row["away"] = now - self._seen.get((course.code, person.visitor), -AWAY) >= AWAY
        state = {
            "code": course.code, "lesson": course.lesson, "ended": course.ended is not None, "held": course.held,
            "shown": course.shown, "link": join_link(request), "alone": only_here(request),
            "questions": self._questions(course), "lessons": self._lessons(), **grid,
        }  # fmt: skip
        return json_answer(state)

    def _me(self, request: Request, visitor: str) -> Response:
        course = self.classes.attended(visitor, request.query_params.get("code", ""))
        self._seen[(course.code, visitor)] = time.monotonic()
        attempt = self._player.attempt(visitor, course.lesson)
        return json_answer(for_a_person(course, visitor, self._questions(course), attempt))

    def _qr(self, request: Request, visitor: str) -> Response:
        course = self.classes.taught(visitor, request.query_params.get("code", ""))
        out = io.BytesIO()
        segno.make(join_link(request, course.code), error="m").save(out, kind="svg", scale=8, border=2)
        return Response(out.getvalue(), media_type="image/svg+xml", headers={"Cache-Control": "no-store"})

    def _table(self, request: Request, visitor: str) -> Response:
        course = self.classes.taught(visitor, request.query_params.get("code", ""))
        lesson = get_lesson(course.lesson, self._player.home)
        text = table(course, lesson, self._overview.people(course), request.query_params.get("names") != "0")
        name = f'attachment; filename="class-{course.code}-{course.lesson}.csv"'
        return Response(text, media_type="text/csv; charset=utf-8", headers={"Content-Disposition": name})

    def _lessons(self) -> list[dict[str, Any]]:
        return [
            {"name": one.name, "title": one.title, "minutes": one.minutes} for one in list_lessons(self._player.home)
        ]

    def _questions(self, course: Class) -> list[dict[str, Any]]:
        now = time.monotonic()
        with self._lock:
            made, questions = self._counted.get(course.code, (-FRESH, []))
            if now - made >= FRESH:
                questions = self._overview.questions(course)
                self._counted[course.code] = (now, questions)
            return questions

    def _answered(self, answer: Callable[[Request, str], Response]) -> Callable[[Request], Response]:
        def wrapped(request: Request) -> Response:
            visitor = self._identity.of_plain(request)
            if not visitor:
                return json_answer({"error": _NO_COOKIE}, 401)
            try:
                return answer(request, visitor)
            except PlaygroundError as failure:
                return json_answer({"error": str(failure)}, 404)

        return wrapped

    # --- POST ---------------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        visitor = self._identity.of_plain(request)
        if not visitor:
            return json_answer({"error": _NO_COOKIE}, 401)
        body = await json_object(request)
        if isinstance(body, Response):
            return body
        try:
            return json_answer(await run_in_threadpool(self._do, visitor, body, request))
        except PlaygroundError as failure:
            return json_answer({"error": str(failure)}, 400)

    def _do(self, visitor: str, body: dict[str, Any], request: Request) -> dict[str, Any]:
        do, code = str(body.get("do", "")), str(body.get("code", ""))
        act = _TEACHER.get(do) or _PERSON.get(do)
        if act is None:
            raise LessonError(f"{do!r} cannot be done; choose one of {', '.join([*_TEACHER, *_PERSON])}.")
        done = act(self, visitor, code, body)
        with self._lock:
            self._counted.pop(code.upper(), None)
        if isinstance(done, Class):
            return {"code": done.code, "lesson": done.lesson, "link": join_link(request, done.code)}
        return {"code": code}

    def _show(self, visitor: str, code: str, body: dict[str, Any]) -> Class:
        run = body.get("run")
        if run is None:
            return self.classes.show(visitor, code, None)
        course = self.classes.taught(visitor, code)
        theirs = {one for _, attempt in self._overview.people(course) if attempt for one in attempt.runs.values()}
        if run not in theirs:
            raise LessonError("Only a run that somebody of this class made in its lesson can be shown.")
        return self.classes.show(visitor, code, str(run))

    def _answer_again(self, visitor: str, code: str, body: dict[str, Any]) -> Class:
        """Stores a further answer to a question, if the teacher has asked it again since the last answer."""
        course, name = self.classes.attended(visitor, code), str(body.get("ask", ""))
        attempt = self._player.attempt(visitor, course.lesson)
        given = attempt.answers.get(name, []) if attempt else []
        if not given or given[-1].at >= course.again.get(name, 0.0):
            raise LessonError("This question is not being asked again.")
        self._player.answer(visitor, course.lesson, name, body.get("value"), again=True)
        return course


_TEACHER: dict[str, Callable[[ClassRoutes, str, str, dict[str, Any]], Any]] = {
    "open": lambda self, who, code, body: self.classes.open(who, str(body.get("lesson", ""))),
    "take": lambda self, who, code, body: self.classes.take(who, code, str(body.get("lesson", ""))),
    "hold": lambda self, who, code, body: self.classes.hold(who, code, _step(body)),
    "release": lambda self, who, code, body: self.classes.hold(who, code, None),
    "gather": lambda self, who, code, body: self.classes.gather(who, code, _step(body)),
    "show": ClassRoutes._show,
    "ask again": lambda self, who, code, body: self.classes.ask_again(who, code, str(body.get("ask", ""))),
    "end": lambda self, who, code, body: self.classes.end(who, code),
    "delete": lambda self, who, code, body: self.classes.delete(who, code),
}
"""{do: function} for teachers. The request has {lesson}, {step} from 0, {run} or null, or {ask}."""
_PERSON: dict[str, Callable[[ClassRoutes, str, str, dict[str, Any]], Any]] = {
    "join": lambda self, who, code, body: self.classes.join(who, code, str(body.get("name", ""))),
    "leave": lambda self, who, code, body: self.classes.leave(who, code),
    "answer": ClassRoutes._answer_again,
}
"""{do: function} for members. The request has {name} or {ask, value}."""


def join_link(request: Request, code: str = "") -> str:
    """The address that people open to join a class; without a code only host and path, to be shown.

    If the teacher has opened the page as 'localhost', which on other machines means those machines themselves, it is
    replaced by this machine's address in its network.
    """
    url = request.url
    host, port = url.hostname or "", f":{url.port}" if url.port else ""
    if forwarded := request.headers.get("x-forwarded-host"):
        host, port = forwarded.split(",")[0].strip(), ""
    elif host in LOCAL:
        host = address_in_network() or host
    scheme = request.headers.get("x-forwarded-proto", url.scheme).split(",")[0]
    root = str(getattr(request.app, "root_path", "") or "").rstrip("/")
    return f"{scheme}://{host}{port}{root}/join?code={code}" if code else f"{host}{port}{root}/join"


def only_here(request: Request) -> bool:
    """Whether the server can be reached only from this machine, as far as it knows."""
    return not is_shared() and request.url.hostname in LOCAL and "x-forwarded-host" not in request.headers


def _step(body: dict[str, Any]) -> int:
    step = body.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise LessonError(f"{step!r} is no step; give its place from 0.")
    return step


def _page(title: str, page: str) -> Response:
    styles, scripts = theme.class_parts()
    return HTMLResponse(_PAGE.format(title=f"{title}: LoRA Playground", page=page, styles=styles, scripts=scripts))
