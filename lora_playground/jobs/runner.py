"""Where a job runs: the Runner protocol, and LocalRunner, which starts one process group a job on this machine.

A runner starts, watches and ends processes. It knows no queue and no state; the supervisor decides what a process's
end means. This module imports no torch: the worker that it starts does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from lora_playground.errors import JobError

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "LORA_PLAYGROUND_WORKER"
"""Names, in every process that descends from a worker, the worker it came from; by it the last orphan is found."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|COOKIE|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH", re.IGNORECASE)


HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN")
"""What a worker may know of the hub's login, by its environment alone."""


@dataclass(frozen=True)
class Handle:
    """What is recorded of a started job, enough to find and end its processes from another server process.

    Attributes:
        pid: the worker, leader of its own session and process group.
        start_ticks: its start time in clock ticks since boot ('' where the system does not tell); with `boot_id` it
            tells the process from a later one of the same number.
        token: value of TOKEN_VARIABLE in it and all its descendants.
    """

    pid: int
    start_ticks: str = ""
    boot_id: str = ""
    token: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Handle:
        return cls(**values)


class Runner(Protocol):
    """How the supervisor starts and ends jobs. The same contract tests run on every implementation."""

    def submit(self, folder: Path, attempt: int) -> Handle:
        """Starts attempt `attempt` of the run in `folder`; raises JobError where it cannot."""
        ...

    def poll(self, handle: Handle) -> int | None:
        """None while it runs, then its exit status (negative: the signal that ended it); the same at every call."""
        ...

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        """Asks it to stop, tells it to, or ends the whole process group. No error where it has ended."""
        ...

    def reap(self, handle: Handle) -> None:
        """Ends whatever is left of it, also from another server process; returns when nothing is."""
        ...

    def cpu_seconds(self, handle: Handle) -> float | None:
        """Processor time it has used so far; None where that is unknown."""
        ...

    def prepare(self) -> None:
        """Makes ready for a quick next submit, at low priority, if this runner can."""
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
        self.command = list(command or (sys.executable, "-m", "lora_playground.jobs.worker"))
        self.warm = warm
        self._lock = threading.Lock()
        self._ready: _Process | None = None
        self._running: dict[int, _Process] = {}

    def submit(self, folder: Path, attempt: int) -> Handle:
        order = {"run": str(folder), "attempt": attempt}
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
            _signal_group(handle.pid, signal.SIGTERM if how == "terminate" else signal.SIGKILL)

    def reap(self, handle: Handle) -> None:
        process = self._running.pop(handle.pid, None)
        if process is not None:
            process.end()
        elif same_process(handle):
            _signal_group(handle.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while (left := descendants(handle.token)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def cpu_seconds(self, handle: Handle) -> float | None:
        fields = _stat(handle.pid)
        if fields is None:
            return None
        # utime, stime, and those of children that have ended (fields 14 to 17 of proc_pid_stat(5))
        return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")

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
                popen = subprocess.Popen(
                    [*self.command, "--control", str(read)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(read,),
                    env=clean_environment(os.environ) | {TOKEN_VARIABLE: token},
                )
        except OSError as error:
            os.close(write)
            raise JobError(
                f"No worker process can be started ({error}). Close other programs and try again."
            ) from error
        finally:
            os.close(read)
        os.set_blocking(write, False)
        return _Process(popen, write, Handle(popen.pid, _start_ticks(popen.pid), boot_id(), token))


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
        if self.popen.poll() is None or not os.path.isdir("/proc"):
            _signal_group(self.handle.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
        if self.control >= 0:
            os.close(self.control)
            self.control = -1


def clean_environment(environment: Any) -> dict[str, str]:
    """The server's environment without anything that looks like a secret but the hub's token, which gated models ask
    for, with what a worker needs."""
    kept = {name: value for name, value in environment.items() if name in HUB_TOKENS or not _SECRET.search(name)}
    root = str(Path(__file__).resolve().parents[2])  # the package is found from whatever folder the server was started
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }


def boot_id() -> str:
    """What tells this boot of the machine from others; '' where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _start_ticks(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def same_process(handle: Handle) -> bool:
    """Whether the recorded process itself still lives; a later one of the same number does not count."""
    fields = _stat(handle.pid)
    if fields is None or not handle.start_ticks or handle.boot_id != boot_id():
        return False
    return fields[19] == handle.start_ticks and fields[0] != "Z"


def descendants(token: str) -> list[int]:
    """Living processes but this one that carry a worker's token, wherever they have put themselves."""
    if not token or not os.path.isdir("/proc"):
        return []
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
        except OSError:
            continue
        if marked and (fields := _stat(int(name))) is not None and fields[0] != "Z":
            found.append(int(name))
    return found


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
