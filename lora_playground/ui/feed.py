"""The live route, which a page polls: returns what is new since its last request, as JSON that is made once for all
pages. No Gradio.

In `GET /live` the page says which versions of the parts `list`, `card`, `probes`, `curve` and `pictures` it has. `run`
is the run in view, `module` the module in its plots, `recording` the recorded run that it asks for, `also` has ticked
runs that are missing in its list, `all` asks for everyone's runs instead of the visitor's own. The answer has `boot`
(it changes when the server is restarted), `queue` (in words, for this visitor), `you` (the visitor's name, and whether
others are here), and the parts that have newer versions.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.ownership import may_change
from lora_playground.jobs.supervisor import Job, Supervisor
from lora_playground.models.sources import is_shared
from lora_playground.plots.style import RUN_COLOURS
from lora_playground.runs import Run
from lora_playground.runs.history import RunProgress
from lora_playground.ui import cards, recordings, run_figures, sidebar
from lora_playground.ui.identity import Identity
from lora_playground.ui.run_list_cache import RunList, RunListCache
from lora_playground.ui.words import escape, rough

KEPT = 256
"""Number of parts that are cached as bytes; the least recently used is dropped first."""


class Feed:
    """Answers the live route. Thread-safe.

    Args:
        header: returns the header's HTML without the queue; the same text as long as nothing has changed.
    """

    def __init__(
        self, supervisor: Supervisor, runs: RunListCache, identity: Identity, header: Callable[[], str]
    ) -> None:
        self._supervisor, self._runs = supervisor, runs
        self._identity, self._header = identity, header
        self._boot = secrets.token_hex(8)
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def route(self) -> Route:
        """The route, for the web application."""
        return Route("/live", self.answer)

    def answer(self, request: Request) -> Response:
        """What is new for this page."""
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        asked = request.query_params
        everyone = bool(asked.get("all"))
        runs = self._runs.of(None if everyone else visitor)
        if "list" in asked:
            self._supervisor.make_ready()  # a page is open, so a run may be started soon
        parts = {"boot": _bytes(self._boot), **self._for(visitor)}
        header = self._header()
        version = _version(runs.entries, runs.total, runs.last, runs.busy, header, everyone)
        if asked.get("list") != version:
            parts["list"] = self._once(("list", version), lambda: _list(version, runs, header, everyone))
        if also := asked.get("also"):
            entries = (self._runs.entry(identity) for identity in also.split(",")[: sidebar.LISTED])
            parts["also"] = _bytes(
                [[entry.id, sidebar.line(entry, entry.owner != visitor)] for entry in entries if entry is not None]
            )
        if name := asked.get("recording"):
            parts["recording"] = self._once(("recording", name), lambda: recordings.frames(name))
        if identity := asked.get("run"):
            parts |= self._run(identity, asked, visitor)
        body = b"{" + b",".join(b'"%s":%s' % (name.encode(), part) for name, part in parts.items()) + b"}"
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def _for(self, visitor: str) -> dict[str, bytes]:
        """The short parts that differ between visitors, made for every request."""
        you = {
            "name": self._supervisor.people.name(visitor),
            "others": is_shared() or self._runs.others(visitor),
        }
        return {"queue": _bytes(_queue(self._runs.jobs(), visitor, self._supervisor.slots)), "you": _bytes(you)}

    def _told(self, job: Job) -> str:
        """When a queued job will start, or what else it waits for."""
        if job.state != "queued":
            return ""
        most = self._supervisor.limits.running
        if most and sum(one.running and one.owner == job.owner for one in self._runs.jobs()) >= most:
            return f"{most} of one person run at once here: it starts when one of yours ends."
        return f"It starts in {rough(job.eta)}." if job.eta else ""

    def _once(self, key: Hashable, make: Callable[[], Any]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _bytes(make())
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _run(self, identity: str, asked: Mapping[str, str], visitor: str) -> dict[str, bytes]:
        """The parts of the run in view that have newer versions."""
        try:
            view = self._runs.view(identity)
        except PlaygroundError:
            return {"card": _bytes({"version": "gone", "id": identity, "state": "gone", "html": ""})}
        run, job, label, progress = view.run, view.job, view.label, view.progress
        parts: dict[str, bytes] = {}
        mine = may_change(job.owner, visitor)
        by = "" if mine else self._supervisor.people.name(job.owner)
        told = self._told(job)
        version = _version(
            job.state,
            job.position,
            job.stopping,
            mine,
            by,
            told,
            label,
            view.note,
            len(progress.messages),
            *_moving(job, progress),
        )
        if asked.get("card") != version:
            made = lambda: {"version": version, **_card(run, job, progress, label, told, mine, by)}  # noqa: E731
            parts["card"] = self._once(("card", identity, version), made)
        probed = str(progress.changed["probe"])
        if asked.get("probes") != probed:
            html = {"version": probed, "html": cards.probes(progress)}
            parts["probes"] = self._once(("probes", identity, probed), lambda: html)
        since = int(asked["curve"]) if asked.get("curve", "").isdecimal() else 0
        if progress.plan and since < progress.curve_version:
            new = ("curve", identity, since, progress.curve_version)
            parts["curve"] = self._once(new, lambda: run_figures.curve(progress, since))
        module, bare = asked.get("module", ""), job.state if job.ended and not progress.spectra else ""
        drawn = f"{progress.changed['spectra']} {bare}".rstrip()
        if progress.plan and asked.get("pictures") != drawn:
            rank = getattr(view.config.variant, "rank", None)
            key = ("pictures", identity, drawn, module)
            parts["pictures"] = self._once(
                key, lambda: {"version": drawn, **run_figures.pictures(progress, module, rank, bare)}
            )
        return parts


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _version(*parts: Hashable) -> str:
    return f"{hash(parts) & 0xFFFFFFFFFFFF:x}"


def _moving(job: Job, progress: RunProgress) -> tuple[Hashable, ...]:
    """The values on which a card depends while a job waits or runs."""
    return () if job.ended else (progress.version, job.state == "queued" and round(job.eta or 0))


def _queue(jobs: Sequence[Job], visitor: str, slots: int) -> str:
    waiting = [job for job in jobs if job.state == "queued"]
    mine = min((job for job in waiting if visitor and job.owner == visitor), key=lambda job: job.position or 0,
               default=None)  # fmt: skip
    place, eta = (mine.position, mine.eta) if mine else (None, None)
    return sidebar.queue_words(sum(job.running for job in jobs), len(waiting), place, eta, slots)


def _list(version: str, runs: RunList, header: str, everyone: bool) -> dict[str, Any]:
    over = [entry.id for entry in runs.entries if entry.state in ("done", "failed", "cancelled", "interrupted")]
    return {
        "version": version,
        "header": header,
        "lines": [[entry.id, sidebar.line(entry, everyone)] for entry in runs.entries],
        "total": runs.total,
        "busy": runs.busy,
        "ended": f"{len(over)} {over[0] if over else ''}",
        "idle": cards.idle(runs.last),
        "colours": RUN_COLOURS,
    }


def _card(run: Run, job: Job, progress: RunProgress, label: str, told: str, mine: bool, by: str) -> dict[str, Any]:
    """The state of a run, and its card.

    Args:
        told: when a queued one will start. mine: whether this visitor may change it. by: the owner's name, if another.
    """
    result = run.result() if job.state == "done" else None
    if job.state == "queued":
        html = cards.waiting(label, job.position, told)
    elif result is not None:
        said = cards.replayed(result) + cards.unscored(result, progress) + cards.messages(progress)
        html = cards.done(label, result) + said
    elif job.ended:
        failure = run.error() or {"message": job.error_message}
        html = cards.stopped(label, job.state, progress, failure, mine) + cards.messages(progress)
        html += cards.again(job.id) if job.state == "failed" else ""
    else:
        html = cards.progress(label, job.state, progress) + cards.messages(progress)
        if job.stopping and job.state == "training":
            html += '<p class="lp-note">Stopping: the step under way ends first and is kept, for Resume.</p>'
    html += f'<p class="lp-note">Started by {escape(by)}.</p>' if by else ""
    html += cards.note(run.about().get("note", ""))
    source = run.config().model.source
    return {
        "id": job.id, "state": job.state, "ended": job.ended, "stop": mine and not job.ended,
        "mine": mine, "stopping": job.stopping, "resume": mine and job.resumable, "started": bool(progress.plan),
        "base": "" if source == "embedded" else source, "replayed": bool(result and "replayed" in result),
        "at": f"{progress.step}/{progress.planned}", "html": html,
    }  # fmt: skip
