"""The state of all runs, read once for all pages that watch. It knows no Gradio and changes nothing."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.jobs.supervisor import Job, Supervisor
from lora_playground.runs import Run, RunStore
from lora_playground.runs.history import RunProgress
from lora_playground.sweeps import Sweep, SweepScheduler
from lora_playground.ui import cards
from lora_playground.ui.sidebar import LISTED, Entry

FRESH = 0.6
"""Seconds for which the state that was read is reused."""
KEPT = 200
"""Number of results that are cached as HTML."""


@dataclass(frozen=True)
class RunList:
    """A list of runs: entries of the newest, the number of all, the newest result as HTML, whether any is queued or
    running."""

    entries: tuple[Entry, ...]
    total: int
    last: str
    busy: bool


@dataclass(frozen=True)
class View:
    """What pages show of the run in view."""

    run: Run
    config: RunConfig
    job: Job
    label: str
    note: str
    progress: RunProgress


@dataclass
class Reading:
    """The state of all runs at one moment.

    Attributes:
        jobs: all jobs. known: the same by id. runs: {owner, '' for none: their runs and sweeps, newest first}.
        lines, lists, views: what has been made from this state so far: entries by run, lists by owner, views by run.
    """

    jobs: tuple[Job, ...]
    known: dict[str, Job]
    runs: dict[str, list[Run | Sweep]]
    lines: dict[str, Entry | None] = field(default_factory=dict)
    lists: dict[str | None, RunList] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)


class RunListCache:
    """Reads the runs of one home. Thread-safe."""

    def __init__(self, store: RunStore, supervisor: Supervisor, sweeps: SweepScheduler | None = None) -> None:
        self._store, self._supervisor, self._sweeps = store, supervisor, sweeps
        self._lock = threading.Lock()
        self._at, self._now = -1e9, Reading((), {}, {})
        self._done: dict[str, Entry] = {}
        self._last: dict[str, str] = {}

    def read(self, fresh: bool = False) -> RunList:
        """Everyone's runs. `fresh` reads them again, after a person has done something."""
        if fresh:
            with self._lock:
                self._now, self._at = self._read(), time.monotonic()
        return self.of(None)

    def jobs(self) -> tuple[Job, ...]:
        """All jobs."""
        with self._lock:
            return self._reading().jobs

    def of(self, owner: str | None) -> RunList:
        """A person's runs and those without an owner, or everyone's (None); at most `FRESH` seconds old."""
        with self._lock:
            reading = self._reading()
            if owner not in reading.lists:
                reading.lists[owner] = self._list(reading, owner)
            return reading.lists[owner]

    def others(self, owner: str) -> bool:
        """Whether anybody else has runs."""
        with self._lock:
            return any(whose not in ("", owner) for whose in self._reading().runs)

    def _reading(self) -> Reading:
        if time.monotonic() - self._at > FRESH:
            self._now, self._at = self._read(), time.monotonic()
        return self._now

    def view(self, identity: str) -> View:
        """The run in view; its files are read once for all pages. Raises PlaygroundError if it was deleted."""
        with self._lock:
            views = self._reading().views
            if identity not in views:
                run = self._store.get(identity)
                job = self._now.known.get(identity) or self._supervisor.job(identity)
                label, note, progress = run.label, run.about().get("note", ""), self._store.progress(run)
                views[identity] = View(run, run.config(), job, label, note, progress)
            return views[identity]

    def entry(self, identity: str) -> Entry | None:
        """The entry of one run, such as a ticked one that is too old to be listed."""
        try:
            return self._entry(self._store.get(identity), self._supervisor.job(identity))
        except PlaygroundError:
            return None

    def _read(self) -> Reading:
        jobs = tuple(self._supervisor.jobs())
        known = {job.id: job for job in jobs}
        sweeps = self._sweeps.store.list() if self._sweeps is not None else []
        swept = {run for sweep in sweeps for run in sweep.runs}
        runs: dict[str, list[Run | Sweep]] = {}
        for run in self._store.list():
            if not run.hidden and run.id not in swept:
                job = known.get(run.id)
                runs.setdefault(job.owner if job else "", []).append(run)
        for sweep in sweeps:
            runs.setdefault(sweep.owner, []).append(sweep)
        for owner in {sweep.owner for sweep in sweeps}:
            runs[owner].sort(key=lambda one: one.id, reverse=True)
        return Reading(jobs, known, runs)

    def _list(self, reading: Reading, owner: str | None) -> RunList:
        parts = list(reading.runs.values()) if owner is None else [reading.runs.get(o, []) for o in {owner, ""}]
        newest = sorted((one for part in parts for one in part[:LISTED]), key=lambda one: one.id, reverse=True)
        found = []
        for one in newest[:LISTED]:
            if one.id not in reading.lines:
                reading.lines[one.id] = (
                    self._sweep_entry(one) if isinstance(one, Sweep) else self._entry(one, reading.known.get(one.id))
                )
            if (entry := reading.lines[one.id]) is not None:
                found.append(entry)
        jobs = [job for job in reading.jobs if owner is None or job.owner in (owner, "")]
        busy = any(not job.ended for job in jobs)
        return RunList(tuple(found), sum(map(len, parts)), self._newest(found), busy)

    def _sweep_entry(self, sweep: Sweep) -> Entry:
        """The entry of a sweep. If the sweep has ended, only the person's name is read again."""
        known = self._done.get(sweep.id)
        if known is not None:
            return replace(known, person=self._supervisor.people.name(known.owner))
        assert self._sweeps is not None
        status = self._sweeps.read(sweep)
        score = max((one.score["adapted"] for one in status.members if one.score), default=None)
        part = f"{status.count('done', 'out', 'failed')}/{len(status.members)}"
        person = self._supervisor.people.name(sweep.owner)
        entry = Entry(sweep.id, sweep.label, status.state, score, part, sweep=True, owner=sweep.owner, person=person)
        if sweep.ended is not None:
            self._done[sweep.id] = entry
        return entry

    def _entry(self, run: Run, job: Job | None) -> Entry | None:
        about = run.about()
        if run.id in self._done:
            kept = self._done[run.id]
            person = self._supervisor.people.name(kept.owner)
            return replace(kept, label=about.get("name") or kept.label, person=person)
        try:
            label, state = (about.get("name") or job.label, job.state) if job else (run.label, run.state())
        except PlaygroundError:
            return None
        progress = self._store.progress(run)
        score, part = None, ""
        if state == "training" and progress.planned:
            # Rounded down to twentieths of the run, so that the list is not sent at every step. For the run in view the
            # page shows the exact step, which its card has.
            part = f"{progress.planned * (20 * progress.step // progress.planned) // 20}/{progress.planned}"
        result = run.result() if state == "done" else None
        if result is not None:
            score = (result.get("score") or {}).get("adapted")
        losses = tuple(loss for loss in progress.spark() if math.isfinite(loss))
        owner = job.owner if job else ""
        person = self._supervisor.people.name(owner)
        entry = Entry(run.id, label, state, score, part, losses, owner=owner, person=person)
        if result is not None:
            self._done[run.id] = entry
        return entry

    def _newest(self, entries: Sequence[Entry]) -> str:
        newest = next((entry for entry in entries if entry.state == "done" and not entry.sweep), None)
        if newest is None:
            return ""
        key = f"{newest.id} {newest.label}"
        if key not in self._last:
            try:
                result = self._store.get(newest.id).result() or {}
            except PlaygroundError:
                return ""
            if len(self._last) > KEPT:
                self._last.clear()
            self._last[key] = cards.last_result(newest.label, result, newest.id)
        return self._last[key]
