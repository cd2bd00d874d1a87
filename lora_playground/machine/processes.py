"""Starts, finds and ends child processes. Every process that the app starts is started here.

A child leads a process group of its own, inherits no secrets, and writes no core dumps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN")
"""Environment variables that give huggingface_hub a login, or tell it to use none."""

_ROOT = Path(__file__).resolve().parents[2]
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|COOKIE|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH", re.IGNORECASE)


def python(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module in a new interpreter."""
    return [sys.executable, "-m", module, *arguments]


def clean_environment(environment: Mapping[str, str], hub_login: bool = True) -> dict[str, str]:
    """`environment` without variables whose names look like secrets, and with what a child of this app needs.

    Args:
        hub_login: whether to keep the hub's token, which gated models require.
    """
    allowed = HUB_TOKENS if hub_login else ()
    kept = {name: value for name, value in environment.items() if name in allowed or not _SECRET.search(name)}
    return kept | {
        # With this the package is found from any folder, and no module in the current folder hides one of Python's.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }


@dataclass(frozen=True)
class Limits:
    """Limits that the operating system sets for a child; None for no limit.

    Attributes:
        memory: bytes of private memory (RLIMIT_DATA). cpu_seconds: processor time of all its threads together.
    """

    memory: int | None = None
    cpu_seconds: int | None = None


def start(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.STDOUT,
    keep_open: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    hub_login: bool = True,
    limits: Limits = Limits(),
) -> subprocess.Popen[bytes]:
    """Starts a child process. Raises OSError if the system refuses.

    Args:
        stdin, stdout, stderr: as for `subprocess.Popen`; by default standard error goes where the output goes.
        keep_open: file descriptors that the child inherits. environment: variables added to the clean environment.
        hub_login: whether it gets the hub's token.
    """
    popen = subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=keep_open, **_surroundings(environment, hub_login)
    )
    _restrict(popen.pid, limits)
    return popen


async def run(command: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """Runs a command to its end; returns (exit status, standard output, standard error).

    Raises:
        TimeoutError: it took longer than `seconds` and was killed. OSError: it cannot be started.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **_surroundings(None, hub_login=True),
    )
    _restrict(child.pid, Limits())
    try:
        async with asyncio.timeout(seconds):
            printed, errors = await child.communicate()
    finally:
        if child.returncode is None:
            signal_group(child.pid, signal.SIGKILL)
            await child.wait()
    return child.returncode or 0, printed.decode(errors="replace"), errors.decode(errors="replace")


def signal_group(pid: int, number: signal.Signals) -> None:
    """Sends a signal to the process group that `pid` leads; no error if it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


_NICENESS = 5
"""How far a worker's priority is lowered."""


def yield_to_others() -> None:
    """Lowers this process's priority below that of the server and the chat, so that pages answer while it computes."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    share_the_session()


def share_the_session() -> None:
    """Lowers the priority of this process's session. Where Linux divides processor time between sessions first
    (autogroup), this is the priority that counts; unlike a process's own, a new session does not inherit it."""
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write(str(_NICENESS))


def started_at(pid: int) -> float:
    """The start of a living process in Unix seconds, 0 if there is none; distinguishes it from a later process with the
    same id. Two readings can differ by a second, since the system's clock is adjusted."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process and its ended children have used; None if there is no such process."""
    try:
        return sum(psutil.Process(pid).cpu_times()[:4])  # user, system, and both of the children
    except psutil.Error:
        return None


def carrying(variable: str, value: str) -> list[int]:
    """Ids of living processes in whose environment `variable` has this value, in any group, without this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            carries = process.pid != os.getpid() and process.environ().get(variable) == value
            if carries and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _surroundings(environment: Mapping[str, str] | None, hub_login: bool) -> dict[str, Any]:
    environment = clean_environment(os.environ, hub_login) | dict(environment or {})
    return {"env": environment, "start_new_session": True}


def _restrict(pid: int, limits: Limits) -> None:
    """Sets the limits of a child that has just started. This is done from outside, since code between fork and exec can
    deadlock in a process with threads."""
    if not hasattr(psutil, "RLIMIT_CORE"):
        return  # only Linux sets the limits of another process
    asked = {psutil.RLIMIT_CORE: 0, psutil.RLIMIT_DATA: limits.memory, psutil.RLIMIT_CPU: limits.cpu_seconds}
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        process = psutil.Process(pid)
        for which, most in asked.items():
            if most is not None:
                process.rlimit(which, (most, most))
