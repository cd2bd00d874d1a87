"""The thread that feeds a home's sweeps to the queue, a few runs at a time, and decides their races.

Whatever it knows is in HOME/sweeps and in the run folders, so that a server that died or was closed goes on where it
was. A sweep's runs are its owner's, in the same queue as all others: the queue is fair between owners.
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
from lora_playground.sweeps.standing import Member, Results, Standing, read_standing, told_out
from lora_playground.sweeps.store import Sweep, SweepStore, Wish, config_of

log = logging.getLogger(__name__)

PAUSE = 0.25
"""Seconds between two looks at the sweeps while one goes on."""


class Keeper:
    """The sweeps of one server. Create it, `start()` it, `close()` it before the supervisor. Any thread may ask.

    Args:
        supervisor: the queue.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.store = supervisor, SweepStore(supervisor.home)
        self._refused: dict[str, str] = {}  # by sweep, why its next run is not queued
        self._lock = threading.RLock()  # held while a sweep is changed
        self._wake, self._closing = threading.Event(), False
        # By sweep: when it was last looked at and saved (monotonic), and the seconds in which its runs ran.
        self._seen: dict[str, float] = {}
        self._saved: dict[str, float] = {}
        self._active: dict[str, float] = {}
        self._results = Results()
        self._thread: threading.Thread | None = None

    # --- asked by people ------------------------------------------------------------------------------------------

    def create(self, points: Sequence[Point], label: str, race: bool = False, owner: str = "") -> Sweep:
        """Begins a sweep. Raises ConfigError where one of its runs does not fit this machine, RunError; then nothing
        has begun."""
        for config in {(point.variant, point.rank): point.config for point in points}.values():
            self.supervisor.check(config)
        sweep = self.store.create(points, label, race, owner)
        self._wake.set()
        return sweep

    def ask(self, id: str, wish: Wish, owner: str | None = None) -> Sweep:
        """Lets a sweep go on, pause or stop. Raises RunError for an unknown one, or where `owner`, who asks, may not
        change it (None may).

        A pause stops its runs with a checkpoint, so that nothing is trained twice; a stop leaves what is finished.
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
        """Deletes a sweep that has ended or is paused, with all its runs; returns how many those were.

        Raises:
            RunError: an unknown sweep, one that goes on, or one that `owner`, who asks, may not change (None may);
                nothing is deleted then.
        """
        with self._lock:
            sweep = self.store.get(id)
            _check_owner(sweep, owner)
            return delete(self.read(sweep), self.store, self.supervisor.delete)

    def standing(self, id: str) -> Standing:
        """A sweep as it stands. Raises RunError for an unknown one."""
        return self.read(self.store.get(id))

    def read(self, sweep: Sweep) -> Standing:
        """As `standing`, of one that is at hand."""
        found = read_standing(sweep, self.supervisor.runs, self.supervisor.job, self._results)
        return replace(found, refused=self._refused.get(sweep.id, ""))

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins, or goes on with the sweeps that had not ended."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="sweeps", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread; the sweeps stay as they are."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)

    def _loop(self) -> None:
        while not self._closing:
            try:
                busy = self.tick()
            except Exception:  # a full disk: the next turn finds the same work to do
                log.exception("the sweeps could not be tended; it is tried again")
                busy = True
            self._wake.wait(PAUSE if busy else 2.0)
            self._wake.clear()

    def tick(self) -> bool:
        """One look at all sweeps; returns whether one of them goes on."""
        going = [sweep for sweep in self.store.list() if sweep.ended is None]
        for sweep in reversed(going):
            with self._lock:
                try:
                    found = self.store.get(sweep.id)
                except RunError:  # deleted since it was listed
                    continue
                self._tend(found)
        return bool(going)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _tend(self, sweep: Sweep) -> None:
        now, standing = time.monotonic(), self.read(sweep)
        if any(member.running for member in standing.members):
            spent = min(5.0, now - self._seen.get(sweep.id, now))
            self._active[sweep.id] = self._active.get(sweep.id, sweep.active) + spent
        sweep.active, self._seen[sweep.id] = self._active.get(sweep.id, sweep.active), now
        if sweep.wish == "run":
            if sweep.race:
                standing = self._judge(sweep, standing)
            self._feed(sweep, standing)
        else:
            self._halt(sweep, standing)
        if all(member.final for member in standing.members):
            sweep.ended = time.time()
        if sweep.ended is not None or now - self._saved.get(sweep.id, 0.0) > 2.0:
            self._saved[sweep.id] = now
            self.store.save(sweep)

    def _judge(self, sweep: Sweep, standing: Standing) -> Standing:
        """Once every run that is left stands at the race's next step, the worse half is out."""
        steps = race.rungs(sweep.steps)
        while sweep.level < len(steps):
            step = steps[sweep.level]
            left = {one.number: one for one in standing.members if one.state in ("held", "done")}
            if not all(member.reached(step) for member in standing.members):
                break
            losses = {number: member.loss_at(step) for number, member in left.items()}
            for number, place in race.losers(losses).items():
                if left[number].state == "held":
                    entry = sweep.entries[number]
                    entry.out = {"step": step, "loss": losses[number], "place": place, "of": len(losses)}
            sweep.level += 1
            self.store.save(sweep)
            self._tell(sweep)
            standing = self.read(sweep)
        return standing

    def _tell(self, sweep: Sweep) -> None:
        """Leaves in each run that is out why it is, and no hold, so that a person may resume it to its end."""
        for entry in sweep.entries:
            if entry.out is not None and entry.run:
                with contextlib.suppress(PlaygroundError):
                    run = self.supervisor.runs.get(entry.run)
                    run.hold(None)
                    run.fail("held", told_out(entry))

    def _feed(self, sweep: Sweep, standing: Standing) -> None:
        """Queues runs until enough wait that no place is ever free for want of one."""
        room = self.supervisor.slots + 1 - standing.count("queued")
        self._refused.pop(sweep.id, None)
        for member in standing.members:
            if room <= 0:
                break
            try:
                if member.state == "planned":
                    self._submit(sweep, member)
                elif self._goes_on(sweep, member):
                    self.supervisor.resume(member.entry.run, hold=self._hold(sweep))
                    if member.entry.paused:
                        member.entry.paused = False
                        self.store.save(sweep)
                else:
                    continue
                room -= 1
            except PlaygroundError as error:
                self._refused[sweep.id] = str(error)
                break

    def _submit(self, sweep: Sweep, member: Member) -> None:
        nonce = f"sweep-{sweep.id}-{member.number}"
        job = self.supervisor.submit(config_of(member.entry), sweep.owner, nonce, hold=self._hold(sweep))
        member.entry.run = job.id
        self.store.save(sweep)

    def _hold(self, sweep: Sweep) -> int | None:
        """The step at which the race compares next."""
        steps = race.rungs(sweep.steps) if sweep.race else ()
        return steps[sweep.level] if sweep.level < len(steps) else None

    def _goes_on(self, sweep: Sweep, member: Member) -> bool:
        """Whether a run that has stopped has more to do."""
        if member.state == "held":
            hold = self._hold(sweep)
            return hold is None or member.loss_at(hold) is None
        return member.state in ("interrupted", "paused")  # the server was closed or died, or a person paused it

    def _halt(self, sweep: Sweep, standing: Standing) -> None:
        """Stops what waits or runs: for a while, with a mark, or for good."""
        # Those that wait come first, so that none of them begins in a place that becomes free.
        for member in sorted(standing.members, key=lambda member: member.running):
            if member.state == "queued" or member.running:
                if sweep.wish == "pause" and not member.entry.paused:
                    member.entry.paused = True
                    self.store.save(sweep)
                with contextlib.suppress(PlaygroundError):
                    self.supervisor.cancel(member.entry.run)
        if sweep.wish == "stop" and not any(one.running or one.state == "queued" for one in standing.members):
            sweep.ended = time.time()


def _check_owner(sweep: Sweep, owner: str | None) -> None:
    if owner is not None and not may_change(sweep.owner, owner):
        raise RunError(why_not(f"The sweep {sweep.label}", sweep.owner))
