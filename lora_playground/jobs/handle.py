"""A worker process from the server's side: how it is found again, given orders, and ended. It knows no queue."""

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
"""Seconds by which two readings of a process's start time may differ."""


@dataclass(frozen=True)
class Handle:
    """What is stored of a started worker, enough for another server process to find and end its processes.

    Attributes:
        pid: of the worker, which leads its own session and process group.
        started: its start in Unix seconds, 0 if unknown; distinguishes it from a later process with the same id.
        token: the value of TOKEN_VARIABLE in it and all its descendants.
    """

    pid: int
    started: float = 0.0
    token: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Handle:
        """Reads what `to_dict` wrote; unknown fields are ignored."""
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


class Worker:
    """A worker that this server started, and the pipe for its orders. When the pipe closes, the worker knows that the
    server is gone.

    Args:
        poll: returns its exit status, None while it runs.
    """

    def __init__(self, handle: Handle, control: int, poll: Callable[[], int | None]) -> None:
        self.handle, self.poll = handle, poll
        self._control = control

    def send(self, order: dict[str, Any]) -> bool:
        """Writes one line of orders; False if the worker is gone."""
        if self.poll() is not None:
            return False
        try:
            os.write(self._control, json.dumps(order).encode() + b"\n")
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Kills the process group and collects the exit status. Safe to call twice."""
        # After the leader has been waited for, its id may belong to another process; the token finds what is left.
        if self.poll() is None:
            signal_group(self.handle.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._control >= 0:
            os.close(self._control)
            self._control = -1


def same_process(handle: Handle) -> bool:
    """Whether the stored process is alive; a later process with the same id does not count."""
    return handle.started > 0 and abs(started_at(handle.pid) - handle.started) < _CLOCK_ADJUSTMENT


def descendants(token: str) -> list[int]:
    """Ids of all living processes with a worker's token, in whatever group or session, without this one."""
    return carrying(TOKEN_VARIABLE, token) if token else []
