"""Where a job runs: the Runner protocol, and LocalRunner, which starts one process group a job on this machine.

A runner starts, watches and ends processes. It knows no queue and no state; the supervisor decides what a process's
end means. This module imports no torch: the worker that it starts does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from lora_playground.errors import JobError
from lora_playground.machine.processes import carrying, cpu_seconds, python, signal_group, start, started_at
from lora_playground.runs import HOME_VARIABLE

log = logging.getLogger(__name__)

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


class Runner(Protocol):
    """How the supervisor starts and ends jobs. The same contract tests run on every implementation."""

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        """Starts attempt `attempt` of the run in `folder`; raises JobError where it cannot.

        Args:
            gpu: the only one it may use, as CUDA_VISIBLE_DEVICES names it; None leaves it all there are.
        """
        ...

    def poll(self, handle: Handle) -> int | None:
        """None while it runs, then its exit status (negative: the signal that ended it); the same at every call."""
        ...

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        """Asks the job to stop (flag), terminates it, or kills its whole process group. No error where it has ended."""
        ...

    def reap(self, handle: Handle) -> None:
        """Ends all processes that are left of the job, also from another server process; returns when none is left."""
        ...

    def cpu_seconds(self, handle: Handle) -> float | None:
        """Processor time it has used so far; None where that is unknown."""
        ...

    def prepare(self) -> None:
        """Prepares for the next submit at low priority, if this runner can."""
        ...

    def close(self) -> None:
        """Ends what was prepared and all that runs."""
        ...


class LocalRunner:
    """Runs workers as processes of this machine, with one kept warm: imports done, waiting for a run.

    Args:
        home: folder for the warm worker's log.
        command: argv of the worker; `--control FD` is added.
        warm: whether `prepare` keeps a worker ready.
    """

    def __init__(self, home: Path, command: Sequence[str] | None = None, warm: bool = True) -> None:
        self.home = home
        self.command = list(command or python("lora_playground.jobs.worker"))
        self.warm = warm
        self._lock = threading.Lock()
        self._ready: _Process | None = None
        self._running: dict[int, _Process] = {}

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        order = {"run": str(folder), "attempt": attempt, "gpu": gpu}
        with self._lock:
            process, self._ready = self._ready, None
            if process is None or not process.send(order):
                if process is not None:
                    process.end()
                process = self._spawn()
                if not process.send(order):
                    process.end()
                    raise JobError(f"The worker process ended at once; see {self.home / 'worker.log'}.")
            self._running[process.handle.pid] = process
        return process.handle

    def poll(self, handle: Handle) -> int | None:
        process = self._running.get(handle.pid)
        if process is None:
            return None if same_process(handle) else -signal.SIGKILL
        return process.popen.poll()

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        process = self._running.get(handle.pid)
        if process is None or process.popen.poll() is not None:
            return
        if how == "flag":
            process.send({"stop": True})
        else:
            signal_group(handle.pid, signal.SIGTERM if how == "terminate" else signal.SIGKILL)

    def reap(self, handle: Handle) -> None:
        process = self._running.pop(handle.pid, None)
        if process is not None:
            process.end()
        elif same_process(handle):
            signal_group(handle.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while (left := descendants(handle.token)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def cpu_seconds(self, handle: Handle) -> float | None:
        return cpu_seconds(handle.pid)

    def prepare(self) -> None:
        if not self.warm:
            return
        with self._lock:
            if self._ready is not None and self._ready.popen.poll() is None:
                return
            if self._ready is not None:
                self._ready.end()
            self._ready = self._spawn()

    def ready_handle(self) -> Handle | None:
        """The warm worker's handle, None while there is none."""
        return self._ready.handle if self._ready is not None else None

    def close(self) -> None:
        with self._lock:
            processes = [*self._running.values(), *([self._ready] if self._ready else [])]
            self._running, self._ready = {}, None
        for process in processes:
            process.end()

    def _spawn(self) -> _Process:
        token = secrets.token_hex(8)
        read, write = os.pipe()
        try:
            with open(self.home / "worker.log", "wb") as output:
                popen = start(
                    [*self.command, "--control", str(read)],
                    stdout=output,
                    keep_open=(read,),
                    environment={
                        TOKEN_VARIABLE: token,
                        HOME_VARIABLE: str(self.home),
                        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
                    },
                )
        except OSError as error:
            os.close(write)
            raise JobError(
                f"No worker process can be started ({error}). Close other programs and try again."
            ) from error
        finally:
            os.close(read)
        os.set_blocking(write, False)
        return _Process(popen, write, Handle(popen.pid, started_at(popen.pid), token))


class _Process:
    """A worker of ours and the pipe that both orders it and, by closing, tells it that the server is gone."""

    def __init__(self, popen: subprocess.Popen[bytes], control: int, handle: Handle) -> None:
        self.popen, self.control, self.handle = popen, control, handle

    def send(self, order: dict[str, Any]) -> bool:
        """Writes one line of orders; False where the worker is gone."""
        if self.popen.poll() is not None:
            return False
        try:
            os.write(self.control, json.dumps(order).encode() + b"\n")
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Kills the group and collects the exit status. Safe to call twice."""
        # Once the leader has been waited for, its number may be another's; then the token finds what is left.
        if self.popen.poll() is None:
            signal_group(self.handle.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        if self.control >= 0:
            os.close(self.control)
            self.control = -1


def same_process(handle: Handle) -> bool:
    """Whether the recorded process itself still lives; a later one with the same number does not count."""
    return handle.started > 0 and abs(started_at(handle.pid) - handle.started) < _CLOCK_ADJUSTMENT


def descendants(token: str) -> list[int]:
    """Living processes but this one that carry a worker's token, wherever they have put themselves."""
    return carrying(TOKEN_VARIABLE, token) if token else []
