"""The queue: one thread that starts, watches and ends jobs, fairly between owners, and survives the server's death.

The table (`jobs.store`) is the authority on states, a runner (`jobs.runner`) starts and ends processes, the run folder
has what they say. It knows no browser: closing a page changes nothing here.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.errors import JobError, PlaygroundError, RunError
from lora_playground.jobs.failures import explain_exit
from lora_playground.jobs.runner import Handle, LocalRunner, Runner
from lora_playground.jobs.schedule import Plan, plan_queue
from lora_playground.jobs.store import PHASES, TERMINAL, JobStore, Row
from lora_playground.runs import DiskFull, Run, RunStore, default_home, free_bytes, writing

log = logging.getLogger(__name__)

TERMINATE_AFTER = 0.7
"""Seconds after the stop flag until SIGTERM; `KILL_AFTER` until SIGKILL. Together well under two seconds."""
KILL_AFTER = 1.3
RECENT = 1800.0
"""Seconds over which an owner's use of the device counts when the next job is chosen."""
_TICK = 0.1


@dataclass(frozen=True)
class Job:
    """What can be said about a job now.

    Attributes:
        id: the run's id.
        state: queued, loading, training, saving, evaluating, done, failed, cancelled, interrupted.
        label: the run's name for people.
        created, started, finished: Unix seconds, None where that has not happened.
        error_code, error_message: of a failed or interrupted job.
        stopping: a stop was asked for and is under way.
        position: 1 for the job that starts next; None unless queued.
        eta: seconds until it starts (queued) or ends (running); None where unknown.
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
        """Whether it holds the device."""
        return self.state in PHASES

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def resumable(self) -> bool:
        return self.state in ("failed", "cancelled", "interrupted")


@dataclass
class _Active:
    """A job that holds a device, as the thread sees it. Times are monotonic seconds."""

    run: Run
    owner: str
    attempt: int
    handle: Handle
    used_before: float
    offset: int
    began: float = field(default_factory=time.monotonic)
    stop_asked: float | None = None
    sent: set[str] = field(default_factory=set)
    stalled: bool = False
    sign_of_life: float = field(default_factory=time.monotonic)
    cpu: float = 0.0
    oom_kills: int = 0
    step: int = 0
    steps: int = 0
    eta: float | None = None


class Supervisor:
    """The jobs of one home. Create it, `start()` it, `close()` it at the end. Any thread may call any method.

    Args:
        home: folder of runs, table and lock.
        runner: where jobs run; this machine by default.
        slots: how many jobs run at once.
        queued_per_owner: how many jobs of one owner may wait; one of each owner runs at a time.
        queue_size: how many jobs may wait in all.
        stall_seconds: a job without an event and without use of the processor for so long is killed.
        min_free_bytes: below so much free disk no job is taken.
        admit: checks a config against what there is on this machine (`jobs.admission.check`).

    Raises:
        JobError: another server uses this home, or home cannot be written.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        runner: Runner | None = None,
        *,
        slots: int = 1,
        queued_per_owner: int = 8,
        queue_size: int = 200,
        stall_seconds: float = 180.0,
        min_free_bytes: int = 256_000_000,
        admit: Callable[[RunConfig, Path], list[str]] | None = None,
    ) -> None:
        import lora_playground.variants  # noqa: F401  (stored configs are read by the variants' schemas)

        self.home = Path(home).expanduser() if home else default_home()
        self.slots, self.queued_per_owner, self.queue_size = slots, queued_per_owner, queue_size
        self.stall_seconds, self.min_free_bytes = stall_seconds, min_free_bytes
        self._admit = admit
        self._lock_file = _take_home(self.home)
        try:
            self.runs = RunStore(self.home)
            self.store = JobStore(self.home / "jobs.db")
        except BaseException:
            os.close(self._lock_file)
            raise
        self.runner: Runner = runner if runner is not None else LocalRunner(self.home)
        self.messages: list[str] = []
        if self.store.message:
            self.messages.append(self.store.message)
            self._rebuild()
        self._active: dict[str, _Active] = {}
        self._submitting = threading.Lock()
        self._wake = threading.Condition()
        self._poked = False
        self._closing = False
        self._thread: threading.Thread | None = None

    # --- asked by people ------------------------------------------------------------------------------------------

    def submit(self, config: RunConfig, owner: str = "", nonce: str | None = None) -> Job:
        """Queues a run and returns its job; the same owner and nonce give the same job, so that a double click is one.

        Raises:
            ConfigError: the config does not fit this machine's datasets, models or variants; nothing is queued.
            JobError: the owner's or the whole queue is full, the disk is full, or the server is closing.
        """
        if nonce is not None and (known := self.store.by_nonce(owner, nonce)):
            return self.job(known.id)
        self._check(config)
        with self._submitting:
            if nonce is not None and (known := self.store.by_nonce(owner, nonce)):
                return self.job(known.id)
            self._check_room(owner)
            try:
                run = self.runs.create(config)
            except DiskFull as error:
                raise JobError(str(error)) from error
            try:
                added = self.store.add(run.id, owner, nonce, config.label)
            except Exception as error:
                self.runs.delete(run.id)
                raise JobError(f"The job could not be queued ({error}). Nothing was started; try again.") from error
            if not added:
                self.runs.delete(run.id)
                raise JobError("The job could not be queued: its id is taken. Try again.")
        self._poke()
        return self.job(run.id)

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Stops a job in whatever state it is; doing so twice, or after its end, changes nothing.

        Args:
            owner: where given, a job of another owner is treated as unknown (JobError).
        """
        row = self._row(id, owner)
        if not self.store.withdraw(id, row.attempt, time.time()):
            self.store.set(id, row.attempt, cancel_requested=1)
            active = self._active.get(id)
            if active is not None and active.stop_asked is None:
                active.stop_asked = time.monotonic()
        self._poke()
        return self.job(id)

    def resume(self, id: str, owner: str | None = None) -> Job:
        """Queues another attempt of a job that ended without success; it goes on from its last checkpoint.

        A run made without this server (by the command line) is taken into the queue. Asking twice starts one attempt.
        """
        known = self.store.get(id)
        if known is None:
            self._adopt(self.runs.get(id), owner or "")
        row = self._row(id, owner)
        if row.state == "done":
            raise JobError(f"Run {id} is done; there is nothing to resume. Start a new run to train more.")
        if row.state in TERMINAL:
            run = self.runs.get(id)
            self._check(run.config())
            self._check_room(row.owner)
            if self.store.restart(id, row.attempt):
                run.error_path.unlink(missing_ok=True)
        self._poke()
        return self.job(id)

    def delete(self, id: str, owner: str | None = None) -> None:
        """Removes an ended job and its run; raises JobError while it is queued or runs."""
        row = self.store.get(id)
        if row is not None:
            row = self._row(id, owner)
            if row.state not in TERMINAL:
                raise JobError(f"Run {id} is {row.state}; stop it first.")
        self.runs.delete(id)
        self.store.remove(id)

    def job(self, id: str, owner: str | None = None) -> Job:
        """One job. A run that was made without a server is described by its folder. Raises RunError for unknown ids."""
        row = self.store.get(id)
        if row is None:
            run = self.runs.get(id)
            error = run.error() or {}
            return Job(
                run.id, "", run.state(), 1, run.config().label, run.created(),
                error_code=error.get("code"), error_message=error.get("message"),
            )  # fmt: skip
        row = self._row(id, owner)
        return self._job(row, self._plan() if row.state == "queued" else {})

    def jobs(self, owner: str | None = None) -> list[Job]:
        """All jobs (of one owner), newest first."""
        plan = self._plan()
        rows = [row for row in self.store.list() if owner is None or row.owner == owner]
        return [self._job(row, plan) for row in reversed(rows)]

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Clears up after a server that died, then begins to run jobs. Queued jobs stay queued."""
        if self._thread is not None:
            return
        self._recover()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all processes; what ran stands as interrupted and can be resumed. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._poke()
        if self._thread is not None:
            self._thread.join(30)
        for id, active in list(self._active.items()):
            self.runner.cancel(active.handle, "kill")
            self._end_interrupted(id, active, "The server was closed while this run was going on.")
        self.runner.close()
        self.store.close()
        os.close(self._lock_file)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closing:
            try:
                pause = self._tick()
            except Exception:
                # A full disk lets even the table fail; the next turn finds the same work to do.
                log.exception("the queue could not take its turn; it tries again")
                pause = 1.0
            with self._wake:
                self._wake.wait_for(lambda: self._poked or self._closing, timeout=pause)
                self._poked = False

    def _poke(self) -> None:
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def _tick(self) -> float:
        """One turn; returns how long to wait for the next, in seconds."""
        for id, active in list(self._active.items()):
            self._watch(id, active)
        while len(self._active) < self.slots and (row := self._next()) is not None:
            self._begin(row)
        if self._active:
            return _TICK
        try:
            self.runner.prepare()
        except PlaygroundError as error:
            log.warning("no worker is kept ready: %s", error)
        return 5.0

    def _next(self) -> Row | None:
        busy = {active.owner for active in self._active.values()}
        for row, _ in self._schedule():
            if row.owner not in busy:
                return row
        return None

    def _begin(self, row: Row) -> None:
        try:
            run = self.runs.get(row.id)
        except RunError as error:
            self.store.move(
                row.id, row.attempt, "failed", error_code="error", error_message=str(error), finished=time.time()
            )
            return
        if not self.store.move(row.id, row.attempt, "loading", started=row.started or time.time()):
            return
        run.attempt = row.attempt
        run.sweep()
        offset = run.events_path.stat().st_size if run.events_path.exists() else 0
        try:
            handle = self.runner.submit(run.folder, row.attempt)
        except PlaygroundError as error:
            run.fail("error", str(error))
            self.store.move(
                row.id, row.attempt, "failed", error_code="error", error_message=str(error), finished=time.time()
            )
            return
        active = _Active(run, row.owner, row.attempt, handle, row.used, offset, oom_kills=_oom_kills())
        self._active[row.id] = active
        self.store.set(row.id, row.attempt, handle=handle.to_dict())
        fresh = self.store.get(row.id)
        if fresh is not None and fresh.cancel_requested:  # asked for between the two lines above
            active.stop_asked = active.stop_asked or time.monotonic()

    def _watch(self, id: str, active: _Active) -> None:
        status = self.runner.poll(active.handle)  # before the events, so that none is missed
        self._read_events(id, active)
        if status is not None:
            self._end(id, active, status)
        elif active.stop_asked is not None:
            self._press(active, time.monotonic() - active.stop_asked)
        else:
            self._check_stall(active)

    def _read_events(self, id: str, active: _Active) -> None:
        events, active.offset = active.run.events(active.offset)
        if events:
            active.sign_of_life = time.monotonic()
        for event in events:
            kind = event["type"]
            if event.get("attempt") != active.attempt:
                continue
            if kind == "phase" and event.get("phase") in PHASES:
                self.store.move(id, active.attempt, event["phase"])
            elif kind == "plan":
                active.steps, active.step = int(event.get("steps", 0)), int(event.get("start_step", 0))
            elif kind == "loss" and event.get("steps"):
                active.step, active.eta = int(event["steps"][-1]), event.get("eta")

    def _press(self, active: _Active, waited: float) -> None:
        """Stop goes flag, SIGTERM, SIGKILL; each is sent once."""
        for how, after in (("flag", 0.0), ("terminate", TERMINATE_AFTER), ("kill", KILL_AFTER)):
            if waited >= after and how not in active.sent:
                active.sent.add(how)
                self.runner.cancel(active.handle, how)  # type: ignore[arg-type]

    def _check_stall(self, active: _Active) -> None:
        now = time.monotonic()
        if now - active.sign_of_life < min(1.0, self.stall_seconds / 4):
            return
        used = self.runner.cpu_seconds(active.handle)
        if used is None or used > active.cpu + 0.01 * self.stall_seconds:
            # Counted from the last time that it had used a noticeable amount: an idle loop is no work.
            active.cpu, active.sign_of_life = used or active.cpu, now
        elif now - active.sign_of_life > self.stall_seconds:
            active.stalled = True
            self.runner.cancel(active.handle, "kill")

    def _end(self, id: str, active: _Active, status: int) -> None:
        self.runner.reap(active.handle)
        run = active.run
        run.sweep()
        times = {"finished": time.time(), "used": active.used_before + time.monotonic() - active.began}
        if status == 0 and run.result() is not None:
            self.store.move(id, active.attempt, "done", **times)
        else:
            state, code, message = self._verdict(active, status)
            with contextlib.suppress(OSError):
                os.replace(run.result_path, run.result_path.with_name("result.rejected.json"))
            recorded = run.error()
            if recorded is None or recorded.get("code") != code or recorded.get("attempt") != active.attempt:
                run.attempt = active.attempt
                run.fail(code, message)
            self.store.move(id, active.attempt, state, error_code=code, error_message=message, **times)
        self._active.pop(id, None)

    def _verdict(self, active: _Active, status: int) -> tuple[str, str, str]:
        """(state, code, message) of a job that ended without success."""
        if active.stop_asked is not None:
            return "cancelled", "cancelled", "The run was stopped."
        if active.stalled:
            return "failed", "stalled", (
                f"The worker neither reported nor computed for {self.stall_seconds:.0f} s and was ended. "
                "Resume goes on from the last checkpoint."
            )  # fmt: skip
        error = active.run.error()
        if error is not None and error.get("attempt") == active.attempt:
            if error["code"] == "cancelled":
                return "interrupted", "killed", "The worker was asked to end by the system. Resume to go on."
            return "failed", str(error["code"]), str(error["message"])
        code, message = explain_exit(status, _oom_kills() > active.oom_kills)
        return "failed", code, message

    def _end_interrupted(self, id: str, active: _Active, message: str) -> None:
        self.runner.reap(active.handle)
        active.run.sweep()
        used = active.used_before + time.monotonic() - active.began
        self.store.move(id, active.attempt, "interrupted", error_message=message, finished=time.time(), used=used)
        self._active.pop(id, None)

    # --- after a death --------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Jobs that ran when the last server died: their processes are ended, and they stand as interrupted.

        The exit status of those workers is nobody's to know. A worker writes `result.json` last of all, whole or not
        at all, and then only exits; so a job that has one is done.
        """
        for row in self.store.list(PHASES):
            if row.handle is not None:
                self.runner.reap(Handle.from_dict(row.handle))
            try:
                run = self.runs.get(row.id)
            except RunError:
                self.store.move(
                    row.id, row.attempt, "failed", error_code="error", error_message="The run folder is gone."
                )
                continue
            run.sweep()
            now = time.time()
            if run.result() is not None and run.error() is None:
                self.store.move(row.id, row.attempt, "done", finished=now)
            elif row.cancel_requested:
                self.store.move(row.id, row.attempt, "cancelled", finished=now, error_code="cancelled")
            else:
                self.store.move(
                    row.id, row.attempt, "interrupted", finished=now,
                    error_message=f"The server ended while this run was {row.state}. Resume to go on.",
                )  # fmt: skip

    def _rebuild(self) -> None:
        """Fills a new table from the run folders; what was only queued waits for a person to resume it."""
        for run in reversed(self.runs.list()):
            with contextlib.suppress(PlaygroundError):
                self._adopt(run, "")

    def _adopt(self, run: Run, owner: str) -> None:
        state = run.state()
        if run.alive():
            raise JobError(f"Run {run.id} is being executed outside this server; wait for it or stop it there.")
        self.store.add(
            run.id,
            owner,
            None,
            run.config().label,
            state if state in TERMINAL else "interrupted",
            run.created(),
            max(1, run.last_attempt()),
        )

    # --- inside ---------------------------------------------------------------------------------------------------

    def _check(self, config: RunConfig) -> None:
        if self._admit is None:
            from lora_playground.jobs.admission import check

            self._admit = check
        self._admit(config, self.home)

    def _check_room(self, owner: str) -> None:
        if self._closing:
            raise JobError("The server is closing; start it again and submit then.")
        queued = self.store.list(("queued",))
        mine = sum(1 for row in queued if row.owner == owner)
        if mine >= self.queued_per_owner:
            raise JobError(
                f"You have {mine} runs waiting, and {self.queued_per_owner} are allowed; wait, or remove one."
            )
        if len(queued) >= self.queue_size:
            raise JobError(f"{len(queued)} runs are waiting, which is all the queue takes; try again in a few minutes.")
        free = free_bytes(self.home)
        if free < self.min_free_bytes:
            raise JobError(
                f"The disk has {free / 1e6:.0f} MB free, and a run needs {self.min_free_bytes / 1e6:.0f} MB; "
                f"delete runs or make room under {self.home}."
            )

    def _row(self, id: str, owner: str | None) -> Row:
        row = self.store.get(id)
        if row is None or (owner is not None and row.owner != owner):
            self.runs.get(id) if row is None else None  # a malformed id is told in its own words
            raise JobError(f"There is no job {id}. List the jobs to see what there is.")
        return row

    def _schedule(self) -> list[tuple[Row, float | None]]:
        use = self.store.recent_use(time.time() - RECENT)
        remaining: list[float | None] = []
        for active in list(self._active.values()):
            elapsed = time.monotonic() - active.began
            use[active.owner] = use.get(active.owner, 0.0) + elapsed
            remaining.append(active.eta)
        return plan_queue(self.store.list(("queued",)), use, remaining, self.slots, self.store.typical_seconds())

    def _plan(self) -> Plan:
        return {row.id: (place, eta) for place, (row, eta) in enumerate(self._schedule(), 1)}

    def _job(self, row: Row, plan: Plan) -> Job:
        position, eta = plan.get(row.id, (None, None))
        active = self._active.get(row.id)
        if active is not None:
            eta = active.eta
        return Job(
            row.id, row.owner, row.state, row.attempt, row.label, row.created, row.started, row.finished,
            row.error_code, row.error_message,
            stopping=row.cancel_requested and row.state in PHASES,
            position=position, eta=eta,
            step=active.step if active else 0, steps=active.steps if active else 0,
        )  # fmt: skip


def _take_home(home: Path) -> int:
    """Makes the home and locks it for this process; returns the lock's file descriptor."""
    try:
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
            handle = os.open(home / "server.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except RunError as error:
        raise JobError(str(error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise JobError(
            f"Another server (process {holder}) uses {home}. Stop it, or give this one another folder with --home DIR."
        ) from None
    try:
        with writing(home / "server.lock"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except RunError as error:
        os.close(handle)
        raise JobError(str(error)) from error
    return handle


def _oom_kills() -> int:
    """How often the system has killed processes of this control group, or machine, for lack of memory."""
    for path, name in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            for line in Path(path).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
        except (OSError, ValueError):
            continue
    return 0
