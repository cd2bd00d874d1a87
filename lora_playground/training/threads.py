"""How many threads a training run on the CPU uses: found by timing its own steps, again and again.

Two threads wait for each other at every operation. When other processes want the cores, each such wait lasts until the
scheduler comes round, and one thread is faster than two. This module knows neither model nor optimiser, only how long
steps took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean

import psutil

from lora_playground.models.precision import bounded

SHARE = 0.01
"""The share of the training time that trying other numbers of threads may cost."""
_STEPS, _PAUSE = 3, 2.0
"""The number of steps in a trial; the least seconds between two trials."""
_STALE = 5.0
"""Seconds after which a count of free cores is out of date."""
_GAIN, _SLOWER, _HOPELESS = 0.95, 1.3, 1.5
"""A trial's number is kept if steps take at most 0.95 of the time that they took before it. A trial begins at once if
steps take 1.3 times the time that they took, and ends with the first step that takes 1.5 times as long."""


class Threads:
    """Sets the number of threads for the next step from how long the last ones took.

    Args:
        levels: numbers to choose from, rising; if there is only one, nothing is measured.
        set_threads: puts a number into effect.
        free: gives how many cores this process could have; by default `FreeCores()`.

    Attributes:
        count: threads in use.
    """

    def __init__(
        self,
        levels: list[int],
        set_threads: Callable[[int], None],
        free: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.levels, self._set, self._clock = levels, set_threads, clock
        self._free = free or (FreeCores() if len(levels) > 1 else lambda: 1.0)
        self._before, self._pace, self._next = 0, 0.0, clock()
        self._times: list[float] = []
        self._use(self._suitable())

    def took(self, seconds: float) -> None:
        """Counts a step; may begin or end a trial of another number of threads."""
        self._times = [*self._times[1 - _STEPS :], seconds]
        if self._before:
            if len(self._times) == _STEPS or seconds > _HOPELESS * self._pace:
                self._judge()
        elif not self._pace and len(self._times) < _STEPS:
            if (count := self._suitable()) < self.count:  # another run began at the same moment
                self._use(count)
        elif len(self._times) == _STEPS and len(self.levels) > 1:
            pace = fmean(self._times)
            if self._clock() >= self._next or (self._pace and pace > _SLOWER * self._pace):
                self._pace, self._next = pace, self._clock() + _PAUSE
                if (count := self._suitable()) != self.count:
                    self._before = self.count
                    self._use(count)

    def _judge(self) -> None:
        """Keeps the number that was tried, or returns to the one before. The next trial waits until the time that this
        one has cost is less than SHARE."""
        pace, lost = fmean(self._times), sum(self._times) - len(self._times) * self._pace
        if pace <= _GAIN * self._pace:
            self._pace = pace
        else:
            self._use(self._before)
        self._before, self._next = 0, self._clock() + max(_PAUSE, lost / SHARE)

    def _suitable(self) -> int:
        free = max(self.levels[0], round(self._free()))
        return max(level for level in self.levels if level <= free)

    def _use(self, count: int) -> None:
        self.count, self._times = count, []
        self._set(count)


def levels(most: int) -> list[int]:
    """The numbers of threads that are worth trying: powers of two, and `most` or what OMP_NUM_THREADS allows."""
    most = bounded(most)
    return sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})


class FreeCores:
    """The number of cores that no other process has used since the last call.

    Where the last call was long ago, it measures for a tenth of a second and computes meanwhile: if two runs that begin
    together slept, each would take the other's core to be free.
    """

    # Shared by all objects, as psutil keeps one count for a process: when it was taken, and the time used by then.
    _since, _used = float("-inf"), 0.0

    def __init__(self) -> None:
        if time.monotonic() > FreeCores._since + _STALE:
            psutil.cpu_percent()
            FreeCores._since, FreeCores._used = time.monotonic(), time.process_time()
        while time.monotonic() < FreeCores._since + 0.1:
            pass

    def __call__(self) -> float:
        since, used = FreeCores._since, FreeCores._used
        FreeCores._since, FreeCores._used = time.monotonic(), time.process_time()
        idle = (psutil.cpu_count() or 1) * (1 - psutil.cpu_percent() / 100)
        return idle + (FreeCores._used - used) / max(1e-3, FreeCores._since - since)
