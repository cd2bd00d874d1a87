"""The thread that queues the runs of sweeps, a few at a time, and eliminates runs in races.

All its state is in HOME/sweeps and in the run folders, so that a restarted server continues where the last one ended.
The runs of a sweep belong to its owner and wait in the same queue as all others, which is fair between owners.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from lora_playground.errors import PlaygroundError, RunError
from lora_playground.jobs.ownership import may_change, why_not
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.sweeps import race
from lora_playground.sweeps.deletion import delete
from lora_playground.sweeps.grid import Point
from lora_playground.sweeps.status import Member, Results, SweepStatus, elimination_reason, read_status
from lora_playground.sweeps.store import Sweep, SweepStore, Wish, config_of

log = logging.getLogger(__name__)

PAUSE = 0.25
"""Seconds between two rounds over the sweeps while one is unfinished."""


class SweepScheduler:
    """The sweeps of one server. Thread-safe.

    Call `start()` to begin queueing, and `close()` before the supervisor is closed.

    Args:
        supervisor: runs the jobs.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.store = supervisor, SweepStore(supervisor.home)
        self._refused: dict[str, str] = {}  # by id of the sweep: why the queue does not take its next run
        self._lock = threading.RLock()  # held while a sweep is changed
        self._wake, self._closing = threading.Event(), False
        # By id of the sweep: when it was last seen and saved (monotonic seconds), and `Sweep.active`.
        self._seen: dict[str, float] = {}
        self._saved: dict[str, float] = {}
        self._active: dict[str, float] = {}
        self._results = Results()
        self._thread: threading.Thread | None = None

    # --- requests -------------------------------------------------------------------------------------------------

    def create(self, points: Sequence[Point], label: str, race: bool = False, owner: str = "") -> Sweep:
        """Stores a sweep, whose runs are queued from then on.

        Raises:
            ConfigError: one of its runs cannot train on this machine, the dataset does not exist, or a race has no
                number of steps. RunError: HOME cannot be written.
        """
        for config in {(point.variant, point.rank): point.config for point in points}.values():
            self.supervisor.check(config)
        sweep = self.store.create(points, label, race, owner)
        self._wake.set()
        return sweep

    def ask(self, id: str, wish: Wish, owner: str | None = None) -> Sweep:
        """Continues, pauses or stops a sweep. A pause stops its runs at a checkpoint; a stop is final and keeps the
        finished runs.

        Args:
            owner: the visitor who asks; None is not checked.

        Raises:
            RunError: the sweep is unknown, or `owner` may not change it.
        """
        with self._lock:
            sweep = self.store.get(id)
            _check_owner(sweep, owner)
            if sweep.wish == "stop" or sweep.ended is not None:
                return sweep
            sweep.wish = wish
            self.store.save(sweep)
        self._wake.set()
        return sweep

    def delete(self, id: str, owner: str | None = None) -> int:
        """Deletes a sweep that has ended or is paused, with its runs; returns the number of runs.

        Args:
            owner: the visitor who asks; None is not checked.

        Raises:
            RunError: the sweep is unknown or still running, or `owner` may not change it; nothing is deleted.
        """
        with self._lock:
            sweep = self.store.get(id)
            _check_owner(sweep, owner)
            return delete(self.read(sweep), self.store, self.supervisor.delete)

    def status(self, id: str) -> SweepStatus:
        """How far a sweep has come. Raises RunError for an unknown one."""
        return self.read(self.store.get(id))

    def read(self, sweep: Sweep) -> SweepStatus:
        """How far a sweep that was read before has come."""
        found = read_status(sweep, self.supervisor.runs, self.supervisor.job, self._results)
        return replace(found, refused=self._refused.get(sweep.id, ""))

    # --- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread, which also continues sweeps of earlier servers that have not ended."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="sweeps", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread. Queued and running runs are left as they are."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)

    def _loop(self) -> None:
        while not self._closing:
            try:
                busy = self.tick()
            except Exception:  # such as a full disk; the next round finds the same work to do
                log.exception("the sweeps could not be continued; the next round tries again")
                busy = True
            self._wake.wait(PAUSE if busy else 2.0)
            self._wake.clear()

    def tick(self) -> bool:
        """One round over all sweeps; returns whether one of them is unfinished."""
        going = [sweep for sweep in self.store.list() if sweep.ended is None]
        for sweep in reversed(going):
            with self._lock:
                try:
                    found = self.store.get(sweep.id)
                except RunError:  # deleted since it was listed
                    continue
                self._advance(found)
        return bool(going)

    def _advance(self, sweep: Sweep) -> None:
        """Does for one sweep what can be done now: eliminate, queue or stop runs, and note its end."""
        now, status = time.monotonic(), self.read(sweep)
        if any(member.running for member in status.members):
            spent = min(5.0, now - self._seen.get(sweep.id, now))
            self._active[sweep.id] = self._active.get(sweep.id, sweep.active) + spent
        sweep.active, self._seen[sweep.id] = self._active.get(sweep.id, sweep.active), now
        if sweep.wish == "run":
            if sweep.race:
                status = self._eliminate(sweep, status)
            self._queue_next(sweep, status)
        else:
            self._stop_runs(sweep, status)
        if all(member.final for member in status.members):
            sweep.ended = time.time()
        if sweep.ended is not None or now - self._saved.get(sweep.id, 0.0) > 2.0:
            self._saved[sweep.id] = now
            self.store.save(sweep)

    def _eliminate(self, sweep: Sweep, status: SweepStatus) -> SweepStatus:
        """Eliminates the worse half once every remaining run has reached the race's next comparison."""
        steps = race.rungs(sweep.steps)
        while sweep.level < len(steps):
            step = steps[sweep.level]
            left = {one.number: one for one in status.members if one.state in ("held", "done")}
            if not all(member.reached(step) for member in status.members):
                break
            losses = {number: member.loss_at(step) for number, member in left.items()}
            for number, place in race.worse_half(losses).items():
                if left[number].state == "held":
                    entry = sweep.entries[number]
                    entry.out = {"step": step, "loss": losses[number], "place": place, "of": len(losses)}
            sweep.level += 1
            self.store.save(sweep)
            self._record_eliminations(sweep)
            status = self.read(sweep)
        return status

    def _record_eliminations(self, sweep: Sweep) -> None:
        """Writes into each eliminated run why it stopped, and lifts its hold so that the user can resume it."""
        for entry in sweep.entries:
            if entry.out is not None and entry.run:
                with contextlib.suppress(PlaygroundError):
                    run = self.supervisor.runs.get(entry.run)
                    run.hold(None)
                    run.fail("held", elimination_reason(entry))

    def _queue_next(self, sweep: Sweep, status: SweepStatus) -> None:
        """Queues runs until one more of them waits than jobs run at a time, so that no slot stays empty."""
        free = self.supervisor.slots + 1 - status.count("queued")
        self._refused.pop(sweep.id, None)
        for member in status.members:
            if free <= 0:
                break
            try:
                if member.state == "planned":
                    self._submit(sweep, member)
                elif self._should_resume(sweep, member):
                    self.supervisor.resume(member.entry.run, hold=self._next_comparison(sweep), watched=False)
                    if member.entry.paused:
                        member.entry.paused = False
                        self.store.save(sweep)
                else:
                    continue
                free -= 1
            except PlaygroundError as error:
                self._refused[sweep.id] = str(error)
                break

    def _submit(self, sweep: Sweep, member: Member) -> None:
        nonce = f"sweep-{sweep.id}-{member.number}"
        config, hold = config_of(member.entry), self._next_comparison(sweep)
        job = self.supervisor.submit(config, sweep.owner, nonce, hold=hold, watched=False)
        member.entry.run = job.id
        self.store.save(sweep)

    def _next_comparison(self, sweep: Sweep) -> int | None:
        """The step of the race's next comparison, at which runs are held; None if there is none."""
        steps = race.rungs(sweep.steps) if sweep.race else ()
        return steps[sweep.level] if sweep.level < len(steps) else None

    def _should_resume(self, sweep: Sweep, member: Member) -> bool:
        """Whether a run that has stopped should be queued again."""
        if member.state == "held":
            hold = self._next_comparison(sweep)
            return hold is None or member.loss_at(hold) is None
        return member.state in ("interrupted", "paused")  # the server was closed or died, or a person paused it

    def _stop_runs(self, sweep: Sweep, status: SweepStatus) -> None:
        """Cancels queued and running runs. For a pause they are marked, so that they are resumed later."""
        # Queued runs first: otherwise one of them would start in the slot that a cancelled run leaves.
        for member in sorted(status.members, key=lambda member: member.running):
            if member.state == "queued" or member.running:
                if sweep.wish == "pause" and not member.entry.paused:
                    member.entry.paused = True
                    self.store.save(sweep)
                with contextlib.suppress(PlaygroundError):
                    self.supervisor.cancel(member.entry.run)
        if sweep.wish == "stop" and not any(one.running or one.state == "queued" for one in status.members):
            sweep.ended = time.time()


def _check_owner(sweep: Sweep, owner: str | None) -> None:
    if owner is not None and not may_change(sweep.owner, owner):
        raise RunError(why_not(f"The sweep {sweep.label}", sweep.owner))
