"""How far the runs of a sweep are, and what they found, from the queue and the run folders. It changes nothing."""

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
"""After so many attempts a run that was interrupted is not begun again by itself."""
FINAL = ("done", "failed", "out", "stopped", "gone")
"""States of a member to which nothing more happens by itself."""


@dataclass(frozen=True)
class Member:
    """One run of a sweep at one moment.

    Attributes:
        state: 'planned' (not queued yet), a job's state while it waits or runs, 'held' (it waits for the others),
            'paused', 'done', 'failed', 'out' (the race has stopped it), 'stopped' (a person has), 'gone' (deleted).
        step, steps: done and planned. progress: its curves; None where it has not begun.
        result: what its result.json holds, None while there is none. why: of 'failed' and 'out', in a sentence.
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
        """Whether nothing more happens to it by itself."""
        return self.state in FINAL

    @property
    def running(self) -> bool:
        """Whether it computes now."""
        return self.state in ("loading", "training", "saving", "evaluating")

    @property
    def score(self) -> dict[str, Any] | None:
        """The score of its result."""
        return (self.result or {}).get("score")

    @property
    def validation_loss(self) -> float | None:
        """The newest validation loss."""
        if self.progress is None or not self.progress.validation:
            return None
        loss = self.progress.validation[-1][1]
        return loss if math.isfinite(loss) else None

    def loss_at(self, step: int) -> float | None:
        """The validation loss after exactly so many steps; of a run that is done, the last one before."""
        checks = self.progress.validation if self.progress is not None else []
        exact = [loss for at, loss in checks if at == step]
        if exact:
            return exact[-1]
        before = [loss for at, loss in checks if at < step]
        return before[-1] if before and self.state == "done" else None

    def reached(self, step: int) -> bool:
        """Whether it has been checked after that step, or will never be."""
        return self.final or (self.state == "held" and self.loss_at(step) is not None)


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    Attributes:
        state: running, pausing, paused, stopping, stopped or done. share: of all steps that it will take.
        eta: seconds until its end, None where nothing is known yet. refused: why the queue does not take its next run.
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
        """How many members are in one of these states."""
        return sum(member.state in states for member in self.members)


class Results:
    """What the result files of runs hold, each read again only when it has changed. Safe for many threads."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, dict[str, Any] | None]] = {}

    def of(self, run: Run) -> dict[str, Any] | None:
        """What `result.json` holds, None while there is none."""
        try:
            stamp = run.result_path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._read.get(run.id)
        if known is None or known[0] != stamp:
            known = self._read[run.id] = (stamp, run.result())
        return known[1]


def read_standing(sweep: Sweep, runs: RunStore, job: Callable[[str], Job], results: Results | None = None) -> Standing:
    """A sweep as it stands.

    Args:
        job: the queue's word on a run, such as `Supervisor.job`. results: kept by who reads it often.
    """
    kept = results or Results()
    return Standing(
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
    """(state of the member, why) of a run's job."""
    if entry.out is not None and job.state != "done":
        return ("out", told_out(entry)) if job.ended else (job.state, "")
    if job.state == "interrupted" and job.error_code == "held":
        return "held", ""
    if job.state == "interrupted" and (job.error_code == "killed" or job.attempt >= ATTEMPTS):
        return "failed", job.error_message or ""
    if job.state == "cancelled":
        return ("paused" if entry.paused else "stopped"), ""
    return job.state, job.error_message or ""


def told_out(entry: Entry) -> str:
    """Why the race has stopped a run, in a sentence."""
    out = entry.out or {}
    loss = "none" if out.get("loss") is None else f"{out['loss']:.3f}"
    return (
        f"Stopped by the race after step {out.get('step')}: its validation loss, {loss}, was number {out.get('place')} "
        f"of {out.get('of')} there, and only the better half went on."
    )
