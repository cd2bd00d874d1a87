"""The queue's interface: submit, cancel, resume, delete and list jobs.

It checks who may do what, and how much may wait; `jobs.dispatcher` starts and ends the jobs. It knows no browser:
closing a page changes nothing here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lora_playground.config import RunConfig
from lora_playground.errors import JobError, PlaygroundError, RunError
from lora_playground.jobs.dispatcher import Dispatcher, record
from lora_playground.jobs.job import Job
from lora_playground.jobs.limits import ALONE, Limits, RunUsage
from lora_playground.jobs.ownership import may_change, why_not
from lora_playground.jobs.people import People
from lora_playground.jobs.placement import Placement
from lora_playground.jobs.recovery import adopt, as_it_stands, rebuild, take_home
from lora_playground.jobs.runner import LocalRunner, Runner
from lora_playground.jobs.schedule import Plan
from lora_playground.jobs.store import TERMINAL, JobStore, Row
from lora_playground.runs import RunStore, default_home
from lora_playground.runs.files import DiskFull, free_bytes

__all__ = ["Job", "Supervisor"]


class Supervisor:
    """The jobs of one home. Create it, `start()` it, `close()` it at the end. Thread-safe.

    Args:
        home: folder of runs, table and lock.
        runner: starts and ends processes; by default on this machine.
        slots: how many jobs run at once; None leaves it to `jobs.placement`.
        placement: decides where jobs run, in place of `slots`.
        limits: of each owner.
        queue_size: how many jobs of all owners may wait.
        stall_seconds: a job that writes no event and uses no processor time for this long is killed.
        min_free_bytes: with less free disk space no job is accepted.
        replay: whether a job takes over the files of an equal run (`jobs.equal_runs`) instead of training.
        admit: checks whether a config can run on this machine; None takes `jobs.admission.check`.

    Raises:
        JobError: another server uses this home, or it cannot be written.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        runner: Runner | None = None,
        *,
        slots: int | None = None,
        placement: Placement | None = None,
        limits: Limits = ALONE,
        queue_size: int = 200,
        stall_seconds: float = 180.0,
        min_free_bytes: int = 256_000_000,
        replay: bool = True,
        admit: Callable[[RunConfig, Path], list[str]] | None = None,
    ) -> None:
        import lora_playground.variants  # noqa: F401  (stored configs are read by the variants' schemas)

        self.home = Path(home).expanduser() if home else default_home()
        self.limits, self.queue_size, self.min_free_bytes = limits, queue_size, min_free_bytes
        self._admit, self._replay = admit, replay
        self._lock_file = take_home(self.home)
        try:
            self.runs = RunStore(self.home)
            self.people = People(self.home)
            self.store = JobStore(self.home / "jobs.db")
        except BaseException:
            os.close(self._lock_file)
            raise
        self.messages: list[str] = []
        if self.store.message:
            self.messages.append(self.store.message)
            rebuild(self.store, self.runs)
        runner = runner if runner is not None else LocalRunner(self.home)
        placement = placement if placement is not None else Placement(slots)
        self.dispatcher = Dispatcher(self.store, self.runs, runner, placement, stall_seconds, limits.running)
        self._usage = RunUsage(self.runs)
        self._submitting = threading.Lock()
        self._closing = False

    # --- requests -------------------------------------------------------------------------------------------------

    def submit(
        self,
        config: RunConfig,
        owner: str = "",
        nonce: str | None = None,
        fresh: bool = False,
        hold: int | None = None,
        watched: bool = True,
    ) -> Job:
        """Queues a run and returns its job.

        Args:
            nonce: a second call with the same owner and nonce, such as of a double click, returns the first job.
            fresh: train it even if an equal run was made before.
            hold: the step after which it stops and waits to be resumed; such a run is always trained.
            watched: whether it is asked prompts while it learns.

        Raises:
            ConfigError: the config cannot run on this machine; nothing is queued.
            JobError: the queue, the owner's part of it or the disk is full, or the server is closing.
        """
        if nonce is not None and (known := self.store.by_nonce(owner, nonce)):
            return self.job(known.id)
        self.check(config)
        with self._submitting:
            if nonce is not None and (known := self.store.by_nonce(owner, nonce)):
                return self.job(known.id)
            self._check_room(owner)
            self.check_kept(owner)
            try:
                run = self.runs.create(config)
                run.hold(hold, watched)
            except DiskFull as error:
                raise JobError(str(error)) from error
            if self._replay and not fresh and hold is None:
                self.dispatcher.equal_runs.mark(run)
            try:
                added = self.store.add(run.id, owner, nonce, run.label)
            except Exception as error:
                self.runs.delete(run.id)
                raise JobError(f"The job could not be queued ({error}). Nothing was started; try again.") from error
            if not added:
                self.runs.delete(run.id)
                raise JobError("The job could not be queued: its id is taken. Try again.")
        self.dispatcher.poke()
        return self.job(run.id)

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Stops a queued or running job. Doing so twice, or after its end, changes nothing.

        Args:
            owner: who asks; None is not checked.

        Raises:
            JobError: `owner` may not change it (`jobs.ownership`). RunError: there is no such run.
        """
        row = self._row(id, owner)
        if self.store.withdraw(id, row.attempt, time.time()):
            with contextlib.suppress(RunError):
                record(self.runs.get(id), row.attempt, "cancelled", "The run was stopped before it began.")
        else:
            self.store.set(id, row.attempt, cancel_requested=1)
            active = self.dispatcher.active.get(id)
            if active is not None and active.stop_asked is None:
                active.stop_asked = time.monotonic()
        self.dispatcher.poke()
        return self.job(id)

    def resume(self, id: str, owner: str | None = None, hold: int | None = None, watched: bool = True) -> Job:
        """Queues another attempt of a job that ended without success, which continues from its last checkpoint. A run
        that was made on the command line can be resumed too. Asking twice starts one attempt.

        Args:
            owner: see `cancel`. hold: the step after which it stops again; None for its end. watched: see `submit`.

        Raises:
            JobError: it is done, would only come to NaN again, `owner` may not change it, or there is no room in the
                queue or on the disk. ConfigError: its config cannot run on this machine.
        """
        known = self.store.get(id)
        if known is None:
            self._check_owner(id, "", owner)
            adopt(self.store, self.runs.get(id), "")
        row = self._row(id, owner)
        if row.state == "done":
            raise JobError(f"Run {id} is done; there is nothing to resume. Start a new run to train more.")
        if row.state in TERMINAL and row.error_code == "nan":
            raise JobError(f"Run {id} would come to the same numbers again. Start a new run with other settings.")
        if row.state in TERMINAL:
            run = self.runs.get(id)
            self.check(run.config())
            self._check_room(row.owner)
            run.hold(hold, watched)
            if self.store.restart(id, row.attempt):
                run.error_path.unlink(missing_ok=True)
        self.dispatcher.poke()
        return self.job(id)

    def delete(self, id: str, owner: str | None = None) -> None:
        """Deletes an ended job and its run. Raises JobError if it is queued or running, or `owner` may not change
        it."""
        row = self.store.get(id)
        if row is None:
            self._check_owner(id, "", owner)
        elif (state := self._row(id, owner).state) not in TERMINAL:
            raise JobError(f"Run {id} is {state}; stop it first.")
        self.runs.delete(id)
        self.store.remove(id)

    def job(self, id: str, owner: str | None = None) -> Job:
        """The job of a run. For a run that was made without a server it is read from its folder. Raises RunError for an
        unknown id, JobError if `owner` may not change the run (None is not checked)."""
        row = self.store.get(id)
        if row is None:
            found = Job.of_run(self.runs.get(id))
            self._check_owner(id, "", owner)
            return found
        row = self._row(id, owner)
        return self._job(row, self._plan() if row.state == "queued" else {})

    def find(self, id: str) -> Job | None:
        """The job of a run; None if there is no such run."""
        try:
            return self.job(id)
        except PlaygroundError:
            return None

    def jobs(self, owner: str | None = None) -> list[Job]:
        """All jobs, or those of one owner, newest first."""
        plan = self._plan()
        rows = [row for row in self.store.list() if owner is None or row.owner == owner]
        return [self._job(as_it_stands(row, self.runs), plan) for row in reversed(rows)]

    def check(self, config: RunConfig) -> None:
        """Raises ConfigError if a config cannot run on this machine."""
        if self._admit is None:
            from lora_playground.jobs.admission import check

            self._admit = check
        self._admit(config, self.home)

    @property
    def slots(self) -> int:
        """How many jobs can run at once."""
        return self.dispatcher.placement.slots

    # --- start and end --------------------------------------------------------------------------------------------

    def start(self, unready: float = 0.0) -> None:
        """Recovers from a server that died, then begins to run jobs. Queued jobs stay queued.

        Args:
            unready: seconds before the first worker is prepared, unless `make_ready` is called earlier. Preparing takes
                a processor for some seconds, which the first page needs more.
        """
        self.dispatcher.start(unready)

    def make_ready(self) -> None:
        """Allows preparing a worker before the `unready` seconds of `start` are over."""
        self.dispatcher.make_ready()

    def close(self) -> None:
        """Ends all processes. Running jobs become interrupted and can be resumed. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self.dispatcher.close()
        self.store.close()
        os.close(self._lock_file)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def check_kept(self, owner: str) -> None:
        """Raises JobError if an owner may not have another run."""
        if self.limits.runs or self.limits.gigabytes:
            self.limits.check_kept(*self._usage.of([row for row in self.store.list() if row.owner == owner]))

    def adopt(self, id: str, owner: str) -> None:
        """Sets the owner of a run that was made outside the queue, such as an imported adapter."""
        if self.store.get(id) is None:
            adopt(self.store, self.runs.get(id), owner)

    def _check_room(self, owner: str) -> None:
        if self._closing:
            raise JobError("The server is closing; start it again and submit then.")
        queued = self.store.list(("queued",))
        self.limits.check_waiting(sum(1 for row in queued if row.owner == owner))
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
            self.runs.get(id)  # raises the error for a malformed id
            raise JobError(f"There is no job {id}. List the jobs to see what there is.")
        self._check_owner(id, row.owner, owner)
        return as_it_stands(row, self.runs)

    def _check_owner(self, id: str, owner: str, visitor: str | None) -> None:
        if visitor is not None and not may_change(owner, visitor):
            raise JobError(why_not(f"Run {id}", owner))

    def _plan(self) -> Plan:
        return {row.id: (place, eta) for place, (row, eta) in enumerate(self.dispatcher.schedule(), 1)}

    def _job(self, row: Row, plan: Plan) -> Job:
        position, eta = plan.get(row.id, (None, None))
        active = self.dispatcher.active.get(row.id)
        if active is None:
            return Job.of_row(row, position, eta)
        return Job.of_row(row, position, active.eta, active.progress.step, active.progress.planned)
