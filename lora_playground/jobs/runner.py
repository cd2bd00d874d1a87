"""Starts, watches and ends the processes of jobs: the Runner protocol, and LocalRunner for this machine, which starts
one process group for each job.

On a machine without a GPU, workers are forked from a process that has imported everything (`jobs.forks`). Otherwise
each worker does its own imports, one of them ahead of time.

A runner knows no queue and no states; the dispatcher decides what the end of a process means. No torch is imported
here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from lora_playground.errors import JobError
from lora_playground.jobs.forks import Forks
from lora_playground.jobs.handle import TOKEN_VARIABLE, Handle, Worker, descendants, same_process
from lora_playground.machine.processes import cpu_seconds, python, signal_group, start, started_at
from lora_playground.runs import HOME_VARIABLE

__all__ = ["TOKEN_VARIABLE", "Handle", "LocalRunner", "Runner", "descendants", "same_process"]


class Runner(Protocol):
    """How jobs are started and ended. The same tests run on every implementation."""

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        """Starts attempt `attempt` of the run in `folder`. Raises JobError if it cannot.

        Args:
            gpu: the only GPU it may use, as CUDA_VISIBLE_DEVICES names it; None for all.
        """
        ...

    def poll(self, handle: Handle) -> int | None:
        """None while it runs, then its exit status (negative: the signal that ended it), the same at every call."""
        ...

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        """Requests a stop (flag), sends SIGTERM to the job (terminate), or kills its process group (kill). No error if
        it has ended."""
        ...

    def reap(self, handle: Handle) -> None:
        """Ends all remaining processes of a job, also one of an earlier server process; returns when none is left."""
        ...

    def cpu_seconds(self, handle: Handle) -> float | None:
        """Processor time it has used; None if unknown."""
        ...

    def ready(self) -> bool:
        """Whether a job submitted now would start at once. If not, a worker is being prepared."""
        ...

    def prepare(self) -> None:
        """Prepares a worker for the next submit at low priority, if this runner can."""
        ...

    def close(self) -> None:
        """Ends prepared workers and running jobs."""
        ...


class LocalRunner:
    """Runs workers as processes of this machine. It keeps one process ready that has done its imports: the fork server,
    or a worker that waits for a run.

    Args:
        home: folder for the log of the prepared process.
        command: argv of a worker to use instead of `jobs.worker`; `--control FD` is appended.
        warm: whether to keep a process ready.
    """

    def __init__(self, home: Path, command: Sequence[str] | None = None, warm: bool = True) -> None:
        self.home = home
        self.command = list(command or python("lora_playground.jobs.worker"))
        self.warm = warm
        self._forks = Forks(home) if warm and command is None and Forks.possible() else None
        self._lock = threading.Lock()
        self._ready: Worker | None = None
        self._running: dict[int, Worker] = {}

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        order = {"run": str(folder), "attempt": attempt, "gpu": gpu}
        with self._lock:
            process = self._forks.fork() if self._forks is not None and self._forks.ready() else None
            if process is None:
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
        return process.poll()

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        process = self._running.get(handle.pid)
        if process is None or process.poll() is not None:
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

    def ready(self) -> bool:
        with self._lock:
            return self._forks is None or self._forks.ready() or self._forks.broken

    def prepare(self) -> None:
        if not self.warm:
            return
        with self._lock:
            if self._forks is not None and not self._forks.broken:
                self._forks.start()
                return
            if self._ready is not None and self._ready.poll() is None:
                return
            if self._ready is not None:
                self._ready.end()
            self._ready = self._spawn()

    @property
    def waiting_pid(self) -> int | None:
        """The id of the process that is kept ready; None if there is none."""
        if self._forks is not None and not self._forks.broken:
            return self._forks.pid
        return self._ready.handle.pid if self._ready is not None else None

    def close(self) -> None:
        with self._lock:
            processes = [*self._running.values(), *([self._ready] if self._ready else [])]
            self._running, self._ready = {}, None
        for process in processes:
            process.end()
        if self._forks is not None:
            self._forks.close()

    def _spawn(self) -> Worker:
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
        return Worker(Handle(popen.pid, started_at(popen.pid), token), write, popen.poll)
