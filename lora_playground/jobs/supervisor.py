"""The queue: one thread that starts, watches and ends jobs, fairly between owners, and survives the server's death.

The table (`jobs.store`) is the authority on states, a runner (`jobs.runner`) starts and ends processes, the run folder
has what they say. It knows no browser: closing a page changes nothing here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.errors import JobError, PlaygroundError, RunError
from lora_playground.jobs.job import Job
from lora_playground.jobs.recovery import adopt, as_it_stands, rebuild, recover, take_home
from lora_playground.jobs.runner import LocalRunner, Runner
from lora_playground.jobs.schedule import Plan, plan_queue
from lora_playground.jobs.store import TERMINAL, JobStore, Row
from lora_playground.jobs.watch import Active
from lora_playground.runs import Run, RunStore, default_home
from lora_playground.runs.files import DiskFull, free_bytes

__all__ = ["Job", "Supervisor"]

log = logging.getLogger(__name__)

RECENT = 1800.0
"""Seconds over which an owner's use of the device counts when the next job is chosen."""
_TICK = 0.1


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
        self._lock_file = take_home(self.home)
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
            rebuild(self.store, self.runs)
        self._active: dict[str, Active] = {}
        self._submitting = threading.Lock()
        self._wake = threading.Condition()
        self._poked = False
        self._closing = False
        self._ready_from = 0.0
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
        if self.store.withdraw(id, row.attempt, time.time()):
            with contextlib.suppress(RunError):
                self._record(self.runs.get(id), row.attempt, "cancelled", "The run was stopped before it began.")
        else:
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
            adopt(self.store, self.runs.get(id), owner or "")
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
            return Job.of_run(self.runs.get(id))
        row = self._row(id, owner)
        return self._job(row, self._plan() if row.state == "queued" else {})

    def jobs(self, owner: str | None = None) -> list[Job]:
        """All jobs (of one owner), newest first."""
        plan = self._plan()
        rows = [row for row in self.store.list() if owner is None or row.owner == owner]
        return [self._job(as_it_stands(row, self.runs), plan) for row in reversed(rows)]

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self, unready: float = 0.0) -> None:
        """Clears up after a server that died, then begins to run jobs. Queued jobs stay queued.

        Args:
            unready: seconds in which no worker is made ready for a later job, unless `make_ready` is called: making
                one ready takes a processor for some seconds, which the first page needs more.
        """
        if self._thread is not None:
            return
        self._ready_from = time.monotonic() + unready
        recover(self.store, self.runs, self.runner)
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    def make_ready(self) -> None:
        """Allows a worker to be made ready from now on."""
        if self._ready_from > time.monotonic():
            self._ready_from = 0.0
            self._poke()

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
        if (early := self._ready_from - time.monotonic()) > 0:
            return min(early, 5.0)
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
        try:
            handle = self.runner.submit(run.folder, row.attempt)
        except PlaygroundError as error:
            run.fail("error", str(error))
            self.store.move(
                row.id, row.attempt, "failed", error_code="error", error_message=str(error), finished=time.time()
            )
            return
        active = Active(run, row.owner, row.attempt, handle, self.runs.progress(run), row.used)
        self._active[row.id] = active
        self.store.set(row.id, row.attempt, handle=handle.to_dict())
        fresh = self.store.get(row.id)
        if fresh is not None and fresh.cancel_requested:  # asked for between the two lines above
            active.stop_asked = active.stop_asked or time.monotonic()

    def _watch(self, id: str, active: Active) -> None:
        if active.status is None:
            active.status = self.runner.poll(active.handle)  # before the events, so that none is missed
        if (phase := active.read()) is not None:
            self.store.move(id, active.attempt, phase)
        if active.status is not None:
            self._end(id, active)
        elif active.stop_asked is not None:
            active.press(self.runner)
        else:
            active.check_stall(self.runner, self.stall_seconds)

    def _end(self, id: str, active: Active) -> None:
        """Puts the job into its final state. Safe to repeat, should the table or the disk refuse in between."""
        self.runner.reap(active.handle)
        run = active.run
        run.sweep()
        times = {"finished": time.time(), "used": active.used}
        if active.status == 0 and run.result() is not None:
            self.store.move(id, active.attempt, "done", **times)
        else:
            state, code, message = active.verdict()
            with contextlib.suppress(OSError):
                os.replace(run.result_path, run.result_path.with_name("result.rejected.json"))
            if state == "interrupted":
                run.error_path.unlink(missing_ok=True)
            else:
                self._record(run, active.attempt, code, message)
            self.store.move(id, active.attempt, state, error_code=code, error_message=message, **times)
        self._active.pop(id, None)

    def _record(self, run: Run, attempt: int, code: str, message: str) -> None:
        """Writes `error.json`, unless the worker has said the same already."""
        known = run.error()
        if known is None or known.get("code") != code or known.get("attempt") != attempt:
            run.attempt = attempt
            run.fail(code, message)

    def _end_interrupted(self, id: str, active: Active, message: str) -> None:
        self.runner.reap(active.handle)
        active.run.sweep()
        active.run.error_path.unlink(missing_ok=True)
        self.store.move(
            id, active.attempt, "interrupted", error_message=message, finished=time.time(), used=active.used
        )
        self._active.pop(id, None)

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
        if row is None:
            self.runs.get(id)  # a malformed id is told in its own words
            raise JobError(f"There is no job {id}. List the jobs to see what there is.")
        if owner is not None and row.owner != owner:
            raise JobError(f"Run {id} was started in another browser; only there can it be stopped or resumed.")
        return as_it_stands(row, self.runs)

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
        if active is None:
            return Job.of_row(row, position, eta)
        return Job.of_row(row, position, active.eta, active.progress.step, active.progress.planned)
