"""The thread that starts, watches and ends jobs, fairly between owners.

The table (`jobs.store`) is the authority on states; a runner (`jobs.runner`) starts and ends processes, which report in
the run folder. Requests of people go to `jobs.supervisor`, which writes them into the table and calls `poke`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter

from lora_playground.errors import PlaygroundError, RunError
from lora_playground.jobs.equal_runs import EqualRuns, take_over
from lora_playground.jobs.placement import Place, Placement
from lora_playground.jobs.recovery import forget_unaccepted, recover
from lora_playground.jobs.runner import Runner
from lora_playground.jobs.schedule import plan_queue
from lora_playground.jobs.store import JobStore, Row
from lora_playground.jobs.watch import Active
from lora_playground.runs import Run, RunStore

log = logging.getLogger(__name__)

RECENT = 1800.0
"""Seconds: the queue's order depends on the device time that each owner has used since then."""
_TICK = 0.1


class Dispatcher:
    """Runs the queued jobs of one table, as many at once as `placement` has places for.

    Attributes:
        active: the running jobs, by id.
        stall_seconds: a job that writes no event and uses no processor time for this long is killed.
        at_once: how many jobs of one owner may run at once while no other owner has jobs, or had any within RECENT; 0
            for no limit. Otherwise each owner runs one at a time.
    """

    def __init__(
        self,
        store: JobStore,
        runs: RunStore,
        runner: Runner,
        placement: Placement,
        stall_seconds: float,
        at_once: int = 0,
    ) -> None:
        self.at_once = at_once
        self.store, self.runs, self.runner = store, runs, runner
        self.placement, self.stall_seconds = placement, stall_seconds
        self.active: dict[str, Active] = {}
        self.equal_runs = EqualRuns(runs)
        self._failed: dict[str, tuple[Row, str]] = {}  # jobs that did not start and are not 'failed' in the table yet
        self._wake = threading.Condition()
        self._poked = False
        self._closing = False
        self._ready_from, self._prepared = 0.0, 0.0
        self._thread: threading.Thread | None = None

    def start(self, unready: float) -> None:
        """Recovers from a server that died, then starts the thread. No worker is prepared in the first `unready`
        seconds."""
        if self._thread is not None:
            return
        self._ready_from = time.monotonic() + unready
        recover(self.store, self.runs, self.runner)
        forget_unaccepted(self.store, self.runs)
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        self._thread.start()

    def make_ready(self) -> None:
        """Allows preparing a worker before the `unready` seconds of `start` are over."""
        if self._ready_from > time.monotonic():
            self._ready_from = 0.0
            self.poke()

    def poke(self) -> None:
        """Makes the thread look at the table at once."""
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def close(self) -> None:
        """Ends the thread and all processes. Running jobs become interrupted and can be resumed."""
        self._closing = True
        self.poke()
        if self._thread is not None:
            self._thread.join(30)
        for id, active in list(self.active.items()):
            self.runner.cancel(active.handle, "kill")
            self._end_interrupted(id, active, "The server was closed while this run was going on.")
        self.runner.close()

    def schedule(self) -> list[tuple[Row, float | None]]:
        """Queued jobs in the order in which they will start, each with the seconds until then (None if unknown)."""
        use = self._use()
        remaining: list[float | None] = []
        alone = False
        for active in list(self.active.values()):
            remaining.append(active.eta)
            alone = alone or active.place.alone
        slots = 1 if alone else self.placement.slots
        return plan_queue(self.store.list(("queued",)), use, remaining, slots, self.store.typical_seconds())

    def _use(self) -> dict[str, float]:
        """{owner: seconds of recent device time}."""
        use = self.store.recent_use(time.time() - RECENT)
        for active in list(self.active.values()):
            use[active.owner] = use.get(active.owner, 0.0) + time.monotonic() - active.began
        return use

    # --- the thread -----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closing:
            try:
                pause = self._tick()
            except Exception:
                # Such as a full disk, on which even the table fails; the next turn finds the same work to do.
                log.exception("the queue could not take its turn; it tries again")
                pause = 1.0
            with self._wake:
                self._wake.wait_for(lambda: self._poked or self._closing, timeout=pause)
                self._poked = False

    def _tick(self) -> float:
        """One turn; returns how long to wait for the next, in seconds."""
        for row, message in list(self._failed.values()):
            self._fail(row, message)
        for id, active in list(self.active.items()):
            self._watch(id, active)
        self._replay()
        starting = False
        while len(self.active) < self.placement.slots and (found := self._next()) is not None:
            if not self._runner_is_ready():
                starting = True
                break
            self._begin(*found)
        if self.active or starting:
            self._prepare_for_those_who_wait()
            return _TICK
        if (early := self._ready_from - time.monotonic()) > 0:
            return min(early, 5.0)
        self._prepare()
        return 5.0

    def _runner_is_ready(self) -> bool:
        """Whether a job can start now. If no worker can be prepared, the job is started all the same, and fails with
        the reason."""
        try:
            return self.runner.ready()
        except PlaygroundError:
            return True

    def _prepare(self) -> None:
        try:
            self.runner.prepare()
        except PlaygroundError as error:
            log.warning("no worker is kept ready: %s", error)

    def _prepare_for_those_who_wait(self) -> None:
        """While jobs run, prepares a worker only if a queued job can use it."""
        if time.monotonic() > self._prepared + 5.0:
            self._prepared = time.monotonic()
            if self.store.list(("queued",)):
                self._prepare()

    def _replay(self) -> None:
        """Lets queued jobs take over the files of an equal run that has finished, without a device."""
        for row in self.store.list(("queued",)):
            source = self.equal_runs.finished(row.id) if row.attempt == 1 else None
            if source is None or not self.store.move(row.id, row.attempt, "loading", started=time.time()):
                continue
            try:
                run = self.runs.get(row.id)
                take_over(run, source, row.attempt)
            except Exception as error:
                self._fail(row, f"What run {source.id} made could not be taken over ({error}). Train it anyway.")
                continue
            self.store.move(row.id, row.attempt, "done", finished=time.time())
            self.equal_runs.ended(run)

    def _next(self) -> tuple[Row, Place] | None:
        """The job that starts now and its place. None if none is queued, or the first one in turn has to wait for a
        place: nobody overtakes it."""
        queued = self.schedule()
        busy = {active.owner for active in self.active.values()}
        if len({*self._use(), *(row.owner for row, _ in queued)}) <= 1:
            owners = Counter(active.owner for active in self.active.values())
            busy = {owner for owner, count in owners.items() if self.at_once and count >= self.at_once}
        running = {self.equal_runs.of(id) for id in self.active} - {""}
        row = next((r for r, _ in queued if r.owner not in busy and self.equal_runs.of(r.id) not in running), None)
        if row is None:
            return None
        try:
            config = self.runs.get(row.id).config()
        except PlaygroundError:
            return row, Place()  # its config cannot be read, so it fails to start, with the reason
        place = self.placement.find(config, [active.place for active in self.active.values()])
        return None if place is None else (row, place)

    def _begin(self, row: Row, place: Place) -> None:
        if not self.store.move(row.id, row.attempt, "loading", started=row.started or time.time()):
            return
        try:
            run = self.runs.get(row.id)
            run.attempt = row.attempt
            run.sweep()
            progress = self.runs.progress(run)
            handle = self.runner.submit(run.folder, row.attempt, place.gpu)
        except Exception as error:  # such as a missing folder, a full disk, too many processes
            if not isinstance(error, PlaygroundError):
                log.exception("run %s could not be started", row.id)
            self._fail(row, str(error) or type(error).__name__)
            return
        self.active[row.id] = active = Active(run, row.owner, row.attempt, handle, place, progress, row.used)
        self.store.set(row.id, row.attempt, handle=handle.to_dict())
        fresh = self.store.get(row.id)
        if fresh is not None and fresh.cancel_requested:  # a stop was requested before the job was in `active`
            active.stop_asked = active.stop_asked or time.monotonic()

    def _fail(self, row: Row, message: str) -> None:
        """Puts a job that could not be started into its final state; if the table cannot be written, at a later
        turn."""
        self._failed[row.id] = (row, message)
        with contextlib.suppress(RunError):
            record(self.runs.get(row.id), row.attempt, "error", message)
        self.store.move(row.id, row.attempt, "failed", error_code="error", error_message=message, finished=time.time())
        del self._failed[row.id]

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
        """Puts a job into its final state. It can be repeated if the table or the disk fails in between."""
        self.runner.reap(active.handle)
        run = active.run
        run.sweep()
        times = {"finished": time.time(), "used": active.used}
        if run.finished(active.attempt):  # done, even if its process was killed afterwards while it was scored
            run.error_path.unlink(missing_ok=True)
            self.store.move(id, active.attempt, "done", **times)
            self.equal_runs.ended(run)
        else:
            state, code, message = active.verdict()
            if state == "interrupted":
                run.error_path.unlink(missing_ok=True)
            else:
                record(run, active.attempt, code, message)
            self.store.move(id, active.attempt, state, error_code=code, error_message=message, **times)
        self.active.pop(id, None)

    def _end_interrupted(self, id: str, active: Active, message: str) -> None:
        self.runner.reap(active.handle)
        active.run.sweep()
        active.run.error_path.unlink(missing_ok=True)
        self.store.move(
            id, active.attempt, "interrupted", error_message=message, finished=time.time(), used=active.used
        )
        self.active.pop(id, None)


def record(run: Run, attempt: int, code: str, message: str) -> None:
    """Writes a run's `error.json`, unless the worker has written the same."""
    known = run.error()
    if known is None or known.get("code") != code or known.get("attempt") != attempt:
        run.attempt = attempt
        run.fail(code, message)
