"""The route for a sweep's progress, as JSON that is made once for all pages. No Gradio.

`GET /sweep?id=ID&version=V` answers {'version': V} if the page has the newest version, else also `html` (a card),
`table` (of the runs), `pictures` ({name: {figure, words}}), `busy` (whether it will change) and `mine` (whether this
visitor may change it).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.ownership import may_change
from lora_playground.plots.sweeps import rank_colours
from lora_playground.service.sweeps import pictures
from lora_playground.sweeps import Member, SweepScheduler, SweepStatus, findings
from lora_playground.ui.identity import Identity
from lora_playground.ui.json_body import json_answer
from lora_playground.ui.words import PHASES, escape, percent, rough, significant

KEPT = 8
"""Number of sweeps whose newest answer is cached."""
STATES = {"planned": "planned", "queued": "waiting", "held": "waits for the others", "paused": "paused",
          "out": "stopped by the race", "stopped": "stopped", "gone": "deleted", "evaluating": "testing",
          "interrupted": "goes on soon"}  # fmt: skip


class SweepRoutes:
    """The route. Thread-safe."""

    def __init__(self, scheduler: SweepScheduler, identity: Identity) -> None:
        self._scheduler, self._identity = scheduler, identity
        self._kept: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def routes(self) -> list[Route]:
        """The route, for the web application."""
        return [Route("/sweep", self.answer)]

    def answer(self, request: Request) -> Response:
        """Answers a request."""
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        try:
            status = self._scheduler.status(request.query_params.get("id", ""))
        except PlaygroundError as failure:
            said = f'<p class="lp-error">{escape(failure)}</p>'
            return json_answer(
                {"version": "gone", "html": said, "table": "", "pictures": {}, "busy": False, "mine": False}
            )
        version = version_of(status)
        mine = may_change(status.sweep.owner, visitor)
        if request.query_params.get("version") == f"{version}{mine:d}":
            return json_answer({"version": f"{version}{mine:d}"})
        made = self._made(status, version)
        return json_answer({**made, "version": f"{version}{mine:d}", "mine": mine})

    def _made(self, status: SweepStatus, version: str) -> dict[str, Any]:
        id = status.sweep.id
        with self._lock:
            if id in self._kept and self._kept[id][0] == version:
                return self._kept[id][1]
        drawn = {name: {"figure": figure, "words": words} for name, (figure, words) in pictures(status).items()}
        made = {"html": card(status), "table": table(status), "pictures": drawn,
                "busy": status.state in ("running", "pausing", "stopping")}  # fmt: skip
        with self._lock:
            self._kept[id] = (version, made)
            self._kept.move_to_end(id)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made


def version_of(status: SweepStatus) -> str:
    """A text that changes whenever something that is shown has changed."""
    parts = [(one.state, one.progress.version if one.progress else 0, bool(one.result)) for one in status.members]
    return f"{hash((status.state, status.sweep.level, status.refused, tuple(parts))) & 0xFFFFFFFFFFFF:x}"


def card(status: SweepStatus) -> str:
    """The card of a sweep: name, progress, counts, and buttons."""
    sweep, done, share = status.sweep, status.count("done"), status.share
    said = [f"<b>{done}</b> of {len(status.members)} done"]
    for words, states in (("running", ("loading", "training", "saving", "evaluating")), ("waiting", ("queued",)),
                          ("held for the race", ("held",)), ("stopped by the race", ("out",)),
                          ("failed", ("failed",))):  # fmt: skip
        if number := status.count(*states):
            said.append(f"<b>{number}</b> {words}")
    if status.eta is not None:
        said.append(f"ready in {rough(status.eta)}")
    state = {"running": "", "done": "done"}.get(status.state, status.state)
    buttons = {
        "running": (("pause", "Pause"), ("stop", "Stop")), "paused": (("run", "Go on"), ("stop", "Stop")),
    }.get(status.state, ())  # fmt: skip
    asks = "".join(
        f'<button class="lp-act {what}" data-ask="{what}" data-id="{escape(sweep.id)}">{name}</button>'
        for what, name in buttons
    )
    found = findings.smallest_sufficient_rank(findings.scores_by_rank(status.members))
    answer = ""
    if found is not None and status.state == "done" and found[0].rank != found[1].rank:
        small, best = found
        said_of = f"{_of(small)} against {_of(best)} at r = {best.rank}"
        answer = f'<p class="lp-answer">r = {small.rank} is enough here: {said_of}.</p>'
    bar = (
        f'<div class="lp-meter"><i style="width:{100 * share:.1f}%"></i></div>'
        if status.state not in ("done", "stopped")
        else ""
    )
    if status.refused:
        answer += f'<p class="lp-warning">The next run waits: {escape(status.refused)}</p>'
    kind, stats = "Race" if sweep.race else "Sweep", "".join(f"<span>{one}</span>" for one in said)
    return (
        f'<section class="lp-card lp-progress"><div class="row"><span class="what">{kind}: {escape(sweep.label)}</span>'
        f'<span>{escape(state)}</span></div>{bar}<div class="row"><span class="lp-stats">{stats}</span>'
        f'<span class="lp-asks">{asks}</span></div>{answer}</section>'
    )


_HEADS = (("Run", ""), ("State", ""), ("Val. loss", " class=number"), ("Score", " class=number"))


def table(status: SweepStatus) -> str:
    """The table of runs: state, loss, score; each line opens its run, and can be ticked."""
    colours = rank_colours([one.entry.rank or 1 for one in status.members])
    best = findings.best(status.members)
    lines = "".join(_line(one, colours[one.entry.rank or 1], one is best) for one in status.members)
    heads = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in _HEADS)
    return (
        '<h2 class="lp-section">The runs <small>a tick shows one in Spectrum, Chat and Compare</small></h2>'
        '<div class="lp-scroll" tabindex="0" role="region" aria-label="Runs of the sweep">'
        f'<table class="lp-runs-table"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _line(one: Member, colour: str, best: bool) -> str:
    state = STATES.get(one.state) or PHASES.get(one.state, one.state)
    if one.state == "training":
        state = f"step {one.step} of {one.steps}"
    if one.state == "out" and one.entry.out:
        state = f"out at step {one.entry.out['step']}: place {one.entry.out['place']} of {one.entry.out['of']}"
    loss = "–" if one.validation_loss is None else significant(one.validation_loss)
    score = "–"
    if one.score:
        low, high = percent(one.score["low"]), percent(one.score["high"])
        score = f"{percent(one.score['adapted'])} <small>{low} to {high}</small>"
    run, name = escape(one.entry.run), escape(one.entry.name)
    opens = f'<button class="lp-link" data-act="open" data-id="{run}">{name}</button>'
    ticks = (
        f'<button class="lp-tick" role="checkbox" aria-checked="false" data-act="tick" data-id="{run}" '
        f'data-tick="{run}" aria-label="Show {name} in Spectrum, Chat and Compare"><i></i></button>'
    )
    if not run or one.state == "gone":
        opens = name
    if one.state not in ("done", "out"):
        ticks = '<span class="lp-tick"></span>'
    why = f' title="{escape(one.why)}"' if one.why else ""
    mark = " ★" if best else ""
    cell = f'{ticks}<i class="lp-rank-dot" style="background:{colour}"></i>{opens}{mark}'
    return (
        f'<tr><th scope="row"><span class="lp-run-cell">{cell}</span></th><td{why}>{escape(state)}</td>'
        f'<td class="number">{loss}</td><td class="number">{score}</td></tr>'
    )


def _of(one: findings.Scored) -> str:
    return f"{100 * one.score:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]"
