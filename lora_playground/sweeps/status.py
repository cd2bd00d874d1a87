"""How far a sweep has come and what its runs measured, read from the queue and the run folders. It changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.job import Job
from lora_playground.runs import Run, RunStore
from lora_playground.runs.history import RunProgress
from lora_playground.sweeps import race
from lora_playground.sweeps.store import Entry, Sweep

ATTEMPTS = 8
"""A run that was interrupted this often counts as failed and is not resumed automatically."""
FINAL = ("done", "failed", "out", "stopped", "gone")
"""States of a member that the scheduler does not change any further."""


@dataclass(frozen=True)
class Member:
    """One run of a sweep at one moment.

    Attributes:
        number: its index in the sweep, from 0.
        state: 'planned' (not queued yet), the job's state while it is queued or running, 'held' (waits for the race's
            comparison), 'paused', 'done', 'failed', 'out' (eliminated by the race), 'stopped' (by a person) or 'gone'
            (deleted).
        step, steps: optimiser steps done and planned. progress: its curves; None before it is queued.
        result: the contents of its result.json, None before it is done.
        why: a sentence for 'failed' and 'out'.
    """

    number: int
    entry: Entry
    state: str
    step: int = 0
    steps: int = 0
    progress: RunProgress | None = None
    result: dict[str, Any] | None = None
    why: str = ""

    @property
    def final(self) -> bool:
        """Whether its state is one of `FINAL`."""
        return self.state in FINAL

    @property
    def running(self) -> bool:
        """Whether its job is running."""
        return self.state in ("loading", "training", "saving", "evaluating")

    @property
    def score(self) -> dict[str, Any] | None:
        """`score` of its result (docs/architecture.md, "Result")."""
        return (self.result or {}).get("score")

    @property
    def validation_loss(self) -> float | None:
        """The latest validation loss; None if there is none or it is not finite."""
        if self.progress is None or not self.progress.validation:
            return None
        loss = self.progress.validation[-1][1]
        return loss if math.isfinite(loss) else None

    def loss_at(self, step: int) -> float | None:
        """The validation loss at this step; for a finished run that has none there, the last one before it."""
        checks = self.progress.validation if self.progress is not None else []
        exact = [loss for at, loss in checks if at == step]
        if exact:
            return exact[-1]
        before = [loss for at, loss in checks if at < step]
        return before[-1] if before and self.state == "done" else None

    def reached(self, step: int) -> bool:
        """Whether a comparison at this step need not wait for it: it is held there, or in a final state."""
        return self.final or (self.state == "held" and self.loss_at(step) is not None)


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment.

    Attributes:
        state: running, pausing, paused, stopping, stopped or done. share: done part of all its steps, from 0 to 1.
        eta: seconds until its end, None while that is unknown.
        refused: why the queue does not accept its next run, '' if it does.
    """

    sweep: Sweep
    members: list[Member] = field(default_factory=list)
    refused: str = ""

    @property
    def state(self) -> str:
        if self.sweep.ended is not None or all(member.final for member in self.members):
            return "stopped" if self.sweep.wish == "stop" else "done"
        moving = any(member.running or member.state == "queued" for member in self.members)
        if self.sweep.wish == "pause":
            return "pausing" if moving else "paused"
        return "stopping" if self.sweep.wish == "stop" else "running"

    @property
    def share(self) -> float:
        if self.state in ("done", "stopped"):
            return 1.0
        ended = ("done", "failed", "gone", "stopped")
        parts = [1.0 if one.state in ended else min(1.0, one.step / max(1, one.steps)) for one in self.members]
        planned = race.share_of_steps(len(parts), self.sweep.steps) if self.sweep.race else 1.0
        return min(1.0, sum(parts) / (planned * max(1, len(parts))))

    @property
    def eta(self) -> float | None:
        if self.share < 0.02 or self.state != "running":
            return None
        return self.sweep.active * (1 - self.share) / self.share

    def count(self, *states: str) -> int:
        """The number of members in one of these states."""
        return sum(member.state in states for member in self.members)


class Results:
    """A cache of the runs' result.json, each read again only after it has changed. Thread-safe."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, dict[str, Any] | None]] = {}

    def of(self, run: Run) -> dict[str, Any] | None:
        """The contents of `result.json`; None if there is none."""
        try:
            stamp = run.result_path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._read.get(run.id)
        if known is None or known[0] != stamp:
            known = self._read[run.id] = (stamp, run.result())
        return known[1]


def read_status(sweep: Sweep, runs: RunStore, job: Callable[[str], Job], results: Results | None = None) -> SweepStatus:
    """How far a sweep has come.

    Args:
        job: gives the job of a run id, such as `Supervisor.job`. results: a cache for callers that ask repeatedly.
    """
    kept = results or Results()
    return SweepStatus(
        sweep, [_member(number, entry, sweep, runs, job, kept) for number, entry in enumerate(sweep.entries)]
    )


def _member(
    number: int, entry: Entry, sweep: Sweep, runs: RunStore, job: Callable[[str], Job], results: Results
) -> Member:
    if not entry.run:
        return Member(number, entry, "stopped" if sweep.wish == "stop" or entry.gone else "planned", 0, sweep.steps)
    try:
        run, found = runs.get(entry.run), job(entry.run)
    except PlaygroundError:
        return Member(number, entry, "gone", 0, sweep.steps)
    progress = runs.progress(run)
    state, why = _state(entry, found)
    steps = progress.planned or sweep.steps
    result = results.of(run) if state == "done" else None
    return Member(number, entry, state, progress.step, steps, progress, result, why)


def _state(entry: Entry, job: Job) -> tuple[str, str]:
    """(`Member.state`, `Member.why`) of an entry whose job is this one."""
    if entry.out is not None and job.state != "done":
        return ("out", elimination_reason(entry)) if job.ended else (job.state, "")
    if job.state == "interrupted" and job.error_code == "held":
        return "held", ""
    if job.state == "interrupted" and (job.error_code == "killed" or job.attempt >= ATTEMPTS):
        return "failed", job.error_message or ""
    if job.state == "cancelled":
        return ("paused" if entry.paused else "stopped"), ""
    return job.state, job.error_message or ""


def elimination_reason(entry: Entry) -> str:
    """A sentence that says why the race stopped a run."""
    out = entry.out or {}
    loss = "none" if out.get("loss") is None else f"{out['loss']:.3f}"
    return (
        f"Stopped by the race after step {out.get('step')}: its validation loss, {loss}, was number {out.get('place')} "
        f"of {out.get('of')} there, and only the better half went on."
    )
