"""A running job: what its worker reports, how it is stopped, when it counts as stalled, and how it ended.

It knows the run folder and the runner; nothing of the queue.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_playground.jobs.failures import MACHINE_LOST, explain_exit
from lora_playground.jobs.placement import Place
from lora_playground.jobs.runner import Handle, Runner
from lora_playground.jobs.store import PHASES
from lora_playground.runs import Run
from lora_playground.runs.history import RunProgress

TERMINATE_AFTER = 0.7
"""Seconds from the stop flag to SIGTERM."""
KILL_AFTER = 1.3
"""Seconds from the stop flag to SIGKILL."""
STEP_PATIENCE = 30.0
"""Seconds added to both while a run trains, so that it can finish its step and write a checkpoint."""


@dataclass
class Active:
    """A running job. Times are monotonic seconds.

    Attributes:
        run, owner, attempt, handle, place: what runs, for whom, which attempt, in which process, on which device.
        progress: what its events say. used_before: seconds of device time of earlier attempts.
        stop_asked: when a stop was requested, or None.
        status: its exit status once it has ended; kept here since a runner forgets it when the process is reaped.
        stalled: seconds without a sign of life after which it was killed, 0 if it was not.
    """

    run: Run
    owner: str
    attempt: int
    handle: Handle
    place: Place
    progress: RunProgress
    used_before: float = 0.0
    stop_asked: float | None = None
    status: int | None = None
    stalled: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _phase: str = ""
    _pressed: set[str] = field(default_factory=set)
    _sign_of_life: float = field(default_factory=time.monotonic)
    _eta_since: float = 0.0
    _cpu: float = 0.0
    _oom_kills: int = field(default_factory=lambda: oom_kills())

    @property
    def used(self) -> float:
        """Seconds of device time, all attempts."""
        return self.used_before + time.monotonic() - self.began

    @property
    def eta(self) -> float | None:
        """Seconds until it ends: the worker's last estimate less the time since; None before the first estimate."""
        if self.progress.attempt != self.attempt or self.progress.eta is None:
            return None
        return max(0.0, self.progress.eta - (time.monotonic() - self._eta_since))

    def read(self) -> str | None:
        """Reads new events into `progress`; returns the phase that has begun since the last call, if any."""
        known, before = self.progress.version, self._phase
        self.progress.read(self.run.events_path)
        if self.progress.version != known:
            self._sign_of_life = time.monotonic()
            if max(self.progress.changed["loss"], self.progress.changed["scoring"]) > known:
                self._eta_since = self._sign_of_life
        if self.progress.attempt == self.attempt and self.progress.phase in PHASES:
            self._phase = self.progress.phase
        return self._phase if self._phase != before else None

    def press(self, runner: Runner) -> None:
        """Stops the job in three stages as time passes: flag, SIGTERM, SIGKILL. Each is sent once."""
        assert self.stop_asked is not None
        waited = time.monotonic() - self.stop_asked
        patience = STEP_PATIENCE if self._phase == "training" else 0.0
        for how, after in (("flag", 0.0), ("terminate", patience + TERMINATE_AFTER), ("kill", patience + KILL_AFTER)):
            if waited >= after and how not in self._pressed:
                self._pressed.add(how)
                runner.cancel(self.handle, how)  # type: ignore[arg-type]

    def check_stall(self, runner: Runner, limit: float) -> None:
        """Kills the job if it has neither written an event nor computed for `limit` seconds."""
        now = time.monotonic()
        if now - self._sign_of_life < min(1.0, limit / 4):
            return
        used = runner.cpu_seconds(self.handle)
        if used is None or used > self._cpu + 0.01 * limit:
            # A loop that only waits uses some processor time too, so a little does not count.
            self._cpu, self._sign_of_life = used or self._cpu, now
        elif now - self._sign_of_life > limit:
            self.stalled = limit
            runner.cancel(self.handle, "kill")

    def verdict(self) -> tuple[str, str, str]:
        """(state, code, message) of a job whose worker ended without success."""
        assert self.status is not None
        if self.stop_asked is not None:
            return "cancelled", "cancelled", "The run was stopped."
        if self.stalled:
            text = f"The worker neither reported nor computed for {self.stalled:.0f} s and was ended. "
            return "failed", "stalled", text + "Resume goes on from the last checkpoint."
        error: dict[str, Any] | None = self.run.error()
        if error is not None and error.get("attempt") == self.attempt:
            if error["code"] == "cancelled":
                return "interrupted", "killed", "The worker was asked to end by the system. Resume to go on."
            return "interrupted" if error["code"] == "held" else "failed", str(error["code"]), str(error["message"])
        if self.status == MACHINE_LOST:
            return "interrupted", *explain_exit(self.status)
        return "failed", *explain_exit(self.status, oom_kills() > self._oom_kills)


def oom_kills() -> int:
    """How often the kernel has killed a process of this control group (or machine) for lack of memory."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(path).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            continue
    return 0
