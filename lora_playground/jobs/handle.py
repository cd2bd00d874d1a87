"""A worker process as the server sees it: how it is found again, told what to do, and ended. It knows no queue."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lora_playground.machine.processes import carrying, signal_group, started_at

TOKEN_VARIABLE = "LORA_PLAYGROUND_WORKER"
"""An environment variable that every process started by a worker inherits. Its value names that worker, so that
processes left behind are found."""

_CLOCK_ADJUSTMENT = 2.0
"""Seconds by which two readings of the time a process began may differ."""


@dataclass(frozen=True)
class Handle:
    """What is recorded of a started job, enough to find and end its processes from another server process.

    Attributes:
        pid: the worker, leader of its own session and process group.
        started: when it began, in seconds since 1970 (0 where that is unknown); tells it from a later process with the
            same number.
        token: value of TOKEN_VARIABLE in it and all its descendants.
    """

    pid: int
    started: float = 0.0
    token: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Handle:
        """Reads what `to_dict` wrote; fields that it does not know are left out."""
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


class Worker:
    """A worker of ours and the pipe that both orders it and, by closing, tells it that the server is gone.

    Args:
        poll: gives its exit status, None while it runs.
    """

    def __init__(self, handle: Handle, control: int, poll: Callable[[], int | None]) -> None:
        self.handle, self.poll = handle, poll
        self._control = control

    def send(self, order: dict[str, Any]) -> bool:
        """Writes one line of orders; False where the worker is gone."""
        if self.poll() is not None:
            return False
        try:
            os.write(self._control, json.dumps(order).encode() + b"\n")
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Kills the group and collects the exit status. Safe to call twice."""
        # Once the leader has been waited for, its number may be another's; then the token finds what is left.
        if self.poll() is None:
            signal_group(self.handle.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._control >= 0:
            os.close(self._control)
            self._control = -1


def same_process(handle: Handle) -> bool:
    """Whether the recorded process itself still lives; a later one with the same number does not count."""
    return handle.started > 0 and abs(started_at(handle.pid) - handle.started) < _CLOCK_ADJUSTMENT


def descendants(token: str) -> list[int]:
    """Living processes but this one that carry a worker's token, wherever they have put themselves."""
    return carrying(TOKEN_VARIABLE, token) if token else []
