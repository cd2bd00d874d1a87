"""The state of all runs, read once for all pages that watch. It knows no Gradio and changes nothing."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.supervisor import Job, Supervisor
from lora_playground.runs import Run, RunStore
from lora_playground.sweeps import Keeper, Sweep
from lora_playground.ui import cards
from lora_playground.ui.sidebar import LISTED, Entry

FRESH = 0.6
"""Seconds for which what was read of the runs is used again."""


@dataclass(frozen=True)
class RunList:
    """All jobs, the newest runs as lines of the list, how many runs there are, and the newest result as HTML."""

    jobs: tuple[Job, ...]
    entries: tuple[Entry, ...]
    total: int
    last: str

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return any(not job.ended for job in self.jobs)


class RunListCache:
    """Reads the runs of one home; safe to call from many threads."""

    def __init__(self, store: RunStore, supervisor: Supervisor, sweeps: Keeper | None = None) -> None:
        self._store, self._supervisor, self._sweeps = store, supervisor, sweeps
        self._lock = threading.Lock()
        self._at, self._list = -1e9, RunList((), (), 0, "")
        self._done: dict[str, Entry] = {}
        self._last: tuple[str, str] = ("", "")

    def read(self, fresh: bool = False) -> RunList:
        """The runs as they were at most `FRESH` seconds ago; `fresh` reads them again, after a person did something."""
        with self._lock:
            if fresh or time.monotonic() - self._at > FRESH:
                self._list, self._at = self._read(), time.monotonic()
            return self._list

    def job(self, identity: str) -> Job:
        """The job of a run. Raises PlaygroundError where there is no such run."""
        found = next((job for job in self.read().jobs if job.id == identity), None)
        return found or self._supervisor.job(identity)

    def entry(self, identity: str) -> Entry | None:
        """The line of one run, for a ticked one that is too old to be listed."""
        try:
            return self._entry(self._store.get(identity), self._supervisor.job(identity))
        except PlaygroundError:
            return None

    def _read(self) -> RunList:
        jobs = tuple(self._supervisor.jobs())
        known = {job.id: job for job in jobs}
        sweeps = self._sweeps.store.list() if self._sweeps is not None else []
        swept = {run for sweep in sweeps for run in sweep.runs}
        every = [run for run in self._store.list() if not run.hidden and run.id not in swept]
        entries = [self._entry(run, known.get(run.id)) for run in every[:LISTED]]
        kept = tuple(entry for entry in entries if entry is not None)
        shown = sorted([*kept, *map(self._sweep_entry, sweeps[:LISTED])], key=lambda entry: entry.id, reverse=True)
        return RunList(jobs, tuple(shown[:LISTED]), len(every) + len(sweeps), self._newest(kept))

    def _sweep_entry(self, sweep: Sweep) -> Entry:
        """The line of a sweep; of one that has ended it is made once."""
        known = self._done.get(sweep.id)
        if known is not None:
            return known
        assert self._sweeps is not None
        standing = self._sweeps.read(sweep)
        score = max((one.score["adapted"] for one in standing.members if one.score), default=None)
        part = f"{sum(one.final for one in standing.members)}/{len(standing.members)}"
        entry = Entry(sweep.id, sweep.label, standing.state, score, part, sweep=True)
        if sweep.ended is not None:
            self._done[sweep.id] = entry
        return entry

    def _entry(self, run: Run, job: Job | None) -> Entry | None:
        about = run.about()
        if run.id in self._done:
            return replace(self._done[run.id], label=about.get("name") or self._done[run.id].label)
        try:
            label, state = (about.get("name") or job.label, job.state) if job else (run.label, run.state())
        except PlaygroundError:
            return None
        progress = self._store.progress(run)
        score, part = None, ""
        if state == "training" and progress.planned:
            # In twentieths, so that the list is not sent anew at every step.
            part = f"{progress.planned * round(20 * progress.step / progress.planned) // 20}/{progress.planned}"
        result = run.result() if state == "done" else None
        if result is not None:
            score = (result.get("score") or {}).get("adapted")
        losses = tuple(loss for loss in progress.spark() if math.isfinite(loss))
        entry = Entry(run.id, label, state, score, part, losses)
        if result is not None:
            self._done[run.id] = entry
        return entry

    def _newest(self, entries: tuple[Entry, ...]) -> str:
        newest = next((entry for entry in entries if entry.state == "done"), None)
        if newest is None:
            return ""
        if self._last[0] != newest.id + newest.label:
            try:
                result = self._store.get(newest.id).result() or {}
            except PlaygroundError:
                return ""
            self._last = (newest.id + newest.label, cards.last_result(newest.label, result, newest.id))
        return self._last[1]
