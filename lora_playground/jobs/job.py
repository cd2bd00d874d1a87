"""A job as pages and commands see it. It knows no process and no SQL."""

from __future__ import annotations

from dataclasses import dataclass

from lora_playground.jobs.store import PHASES, RESUMABLE, TERMINAL, Row
from lora_playground.runs import Run


@dataclass(frozen=True)
class Job:
    """A job at one moment.

    Attributes:
        id: the run's id.
        state: queued, loading, training, saving, evaluating, done, failed, cancelled, interrupted.
        label: the run's name as shown.
        created, started, finished: Unix seconds, None before that has happened.
        error_code, error_message: of a failed or interrupted job.
        stopping: whether a stop was requested and is in progress.
        position: 1 for the job that starts next; None unless queued.
        eta: seconds until it starts (if queued) or ends (if running); None if unknown.
        step, steps: optimiser steps done and planned.
    """

    id: str
    owner: str
    state: str
    attempt: int
    label: str
    created: float
    started: float | None = None
    finished: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    stopping: bool = False
    position: int | None = None
    eta: float | None = None
    step: int = 0
    steps: int = 0

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self.state in PHASES

    @property
    def ended(self) -> bool:
        """Whether this attempt is over."""
        return self.state in TERMINAL

    @property
    def resumable(self) -> bool:
        """Whether another attempt can continue from where it ended. After NaN it would come to the same numbers
        again."""
        return self.state in RESUMABLE and self.error_code != "nan"

    @classmethod
    def of_row(
        cls, row: Row, position: int | None = None, eta: float | None = None, step: int = 0, steps: int = 0
    ) -> Job:
        """The job of a row of the table."""
        return cls(
            row.id,
            row.owner,
            row.state,
            row.attempt,
            row.label,
            row.created,
            row.started,
            row.finished,
            row.error_code,
            row.error_message,
            row.cancel_requested and row.state in PHASES,
            position,
            eta,
            step,
            steps,
        )

    @classmethod
    def of_run(cls, run: Run) -> Job:
        """The job of a run that was made without a server, read from its folder."""
        error = run.error() or {}
        return cls(
            run.id,
            "",
            run.state(),
            max(1, run.progress().attempt),
            run.label,
            run.created(),
            error_code=error.get("code"),
            error_message=error.get("message"),
        )
